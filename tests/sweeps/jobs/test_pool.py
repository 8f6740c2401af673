"""The GPUs that jobs need, and the pool that hands them out."""

import pytest

from latentlab.errors import UserError
from latentlab.sweeps.jobs.pool import Need, Pool, need


@pytest.mark.parametrize(
    ("trainer", "wanted"),
    [
        ({}, Need(gpus=0)),
        ({"accelerator": "cpu", "devices": 3}, Need(ranks=3)),
        ({"accelerator": "cpu", "devices": "auto"}, Need()),
        ({"accelerator": "gpu", "devices": 2}, Need(gpus=2)),
        ({"accelerator": "gpu", "devices": "2"}, Need(gpus=2)),
        ({"accelerator": "cuda", "devices": "auto"}, Need(gpus=None)),
        ({"accelerator": "gpu", "devices": -1}, Need(gpus=None)),
    ],
)
def test_devices_of_a_trainer(trainer, wanted):
    assert need(trainer, None) == wanted
    assert need(trainer, 4).gpus == (4 if wanted.on_gpu else 0)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({"accelerator": "cpu", "devices": 0}, "trainer.devices=0"),
        ({"accelerator": "cpu", "num_nodes": 2}, "trainer.num_nodes=2"),
        ({"accelerator": "gpu", "devices": 4}, "trainer.devices=4 .* hydra.launcher.devices_per_job=2"),
        ({"accelerator": "gpu", "devices": [1]}, "hydra.launcher.devices"),
    ],
)
def test_devices_that_no_job_can_have(trainer, words):
    with pytest.raises(UserError, match=words):
        need(trainer, None if trainer.get("devices") == [1] else 2)


@pytest.mark.parametrize(("names", "words"), [(["0", "1"], "trainer.devices=3.*2 GPUs"), ([], "trainer=cpu")])
def test_a_pool_that_is_too_small(names, words):
    with pytest.raises(UserError, match=words):
        Pool(names).check(Need(gpus=3), "job")


def test_returned_gpus_are_handed_out_last():
    pool = Pool(["a", "b", "c"])
    first = pool.take(Need(gpus=1))
    pool.give_back(first)
    assert pool.take(Need(gpus=2)) == ("b", "c")
    assert not pool.has(Need(gpus=2)) and pool.has(Need(gpus=1)) and not pool.has(Need(gpus=None))
