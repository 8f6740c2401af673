"""The number of devices and processes of a job, and the requests that are refused."""

import pytest
import torch
from commands import QUICK, call, refusal
from launchers import TWO, slurm, torchrun

from latentlab.errors import UserError
from latentlab.processes import devices


@pytest.mark.parametrize(
    ("asked", "number"),
    [(1, 1), (3, 3), ("2", 2), ([0, 1], 2), ("0,1,2", 3), ("1,", 1), ("auto", 1), (-1, 1)],
)
def test_the_devices_of_a_cpu_are_counted(asked, number):
    assert devices.devices_per_node({"accelerator": "cpu", "devices": asked}) == number


@pytest.mark.parametrize(("asked", "number"), [(1, 1), (2, 2), ("auto", 4), (-1, 4), ([1, 3], 2)])
def test_the_devices_of_a_machine_with_gpus_are_counted(monkeypatch, asked, number):
    monkeypatch.setattr(devices, "gpus", lambda: 4)
    for accelerator in ("gpu", "cuda", "auto"):
        assert devices.devices_per_node({"accelerator": accelerator, "devices": asked}) == number


def test_processes_are_started_where_no_launcher_has(monkeypatch):
    assert devices.ranks_to_start(TWO, in_sweep=False) == 2
    assert devices.ranks_to_start(TWO | {"devices": 1}, in_sweep=True) == 0
    batch_script = slurm(tasks=2)
    del batch_script["SLURM_STEP_ID"]
    for found in (torchrun(), slurm(), {devices.RANK: "1/2"}):
        with monkeypatch.context() as patch:
            for name, value in found.items():
                patch.setenv(name, value)
            assert devices.ranks_to_start(TWO, in_sweep=False) == 0
    for name, value in batch_script.items():
        monkeypatch.setenv(name, value)
    assert devices.ranks_to_start(TWO, in_sweep=False) == 2


REFUSED = [
    ({"devices": 0}, {}, "trainer.devices=0: at least one"),
    ({"devices": []}, {}, "at least one"),
    ({"devices": "two"}, {}, "trainer.devices=two: give the number"),
    ({"devices": -2}, {}, "trainer.devices=-2: give the number"),
    ({"accelerator": "cpu", "devices": 99}, {}, "trainer.devices=99.* cores.*LATENTLAB_PROCESSES=99"),
    ({"accelerator": "gpu", "devices": 5}, {}, "trainer.devices=5: torch finds 4 GPUs"),
    ({"num_nodes": 2}, {}, "trainer.num_nodes=2.*srun or torchrun"),
    ({"devices": 3}, torchrun(), "torchrun has started 2 processes.*trainer.devices=3.* is 3"),
    ({"devices": 1}, torchrun(), "torchrun has started 2 processes"),
    ({"devices": 2, "num_nodes": 2}, slurm(), "srun has started 2 processes"),
    ({}, slurm() | {"SLURM_NTASKS_PER_NODE": ""}, "--ntasks-per-node"),
]


def test_more_processes_than_cores_are_started_if_the_user_allows_them(monkeypatch):
    monkeypatch.setenv(devices.PROCESSES, "99")
    assert devices.ranks_to_start({"accelerator": "cpu", "devices": 99}, in_sweep=False) == 99


@pytest.mark.parametrize(("settings", "found", "words"), REFUSED)
def test_devices_that_cannot_be_started_are_refused(monkeypatch, settings, found, words):
    monkeypatch.setattr(devices, "gpus", lambda: 4)
    for name, value in found.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=words):
        devices.ranks_to_start(TWO | settings, in_sweep=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trainer=ddp"], ["trainer.devices=auto", "no GPU", "trainer=ddp_cpu"]),
        (["trainer.devices=0"], ["trainer.devices=0"]),
        (
            ["hydra.mode=MULTIRUN", "trainer=ddp_cpu", "seed=1,2", "hydra/launcher=basic"],
            ["devices=2", "hydra/launcher"],
        ),
        (["trainer.precision=half"], ["trainer.precision=half", "'32-true'", "'bf16-mixed'"]),
        (["trainer=ddp_cpu", "trainer.num_nodes=2"], ["trainer.num_nodes=2", "torchrun"]),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    line = refusal(call("train.py", *QUICK, *arguments))
    assert all(word in line for word in words), line
    assert not list(tmp_path.rglob("config.yaml")) or not list(tmp_path.rglob("checkpoints"))


def test_slurm_tasks_with_one_device_each_are_separate_runs(monkeypatch):
    alone = TWO | {"devices": 1}
    for name, value in slurm(rank=1).items():
        monkeypatch.setenv(name, value)
    assert devices.ranks_to_start(alone, in_sweep=False) == 0
    assert (devices.rank(alone), devices.has_peers(alone)) == (0, False)
    assert (devices.rank(TWO), devices.has_peers(TWO)) == (1, True)


def test_tasks_of_slurm_agree_on_a_directory_also_when_they_are_queued_again(monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for rank in (0, 1):
        for name, value in slurm(rank).items():
            monkeypatch.setenv(name, value)
        assert devices.common_start(f"time {rank}") == "slurm-4711.0"
