"""Names of directories, and the table at the end of a sweep."""

import csv
from io import StringIO
from pathlib import Path
from statistics import stdev

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from latentlab.cli.overrides import quoted
from latentlab.errors import UserError
from latentlab.sweeps.jobs import directory, table
from latentlab.sweeps.jobs.job import Job, Outcome, Status
from latentlab.sweeps.jobs.naming import LIMIT, command_name, directory_name
from latentlab.sweeps.jobs.pool import Need, Pool, need

NAMES = {
    ("model=vae", "seed=1"): "model-vae_seed-1",
    ("model=vae,mog_vae", "seed=1,2,3"): "model-vae+mog_vae_seed-1+2+3",
    ("optimizer.lr=1e-3", "+x=2"): "+x-2_optimizer.lr-1e-3",
    (): "defaults",
}


@pytest.mark.parametrize(("overrides", "name"), NAMES.items())
def test_plain_overrides_are_names(overrides, name):
    assert directory_name(overrides) == name
    assert directory_name(reversed(overrides)) == name


ODD = [
    ["encoder.hidden=[8,8]"],
    ["encoder.hidden=[8]", "seed=1"],
    ["encoder.hidden=8"],
    ["ckpt_path=/a/b.ckpt"],
    ["ckpt_path=a/b.ckpt"],
    ["~callbacks.latents"],
    ["+names.title='a b, c'"],
    ["data=x", *(f"group{index}.a_long_name={index}" for index in range(20))],
    ["data=y", *(f"group{index}.a_long_name={index}" for index in range(20))],
    ["names.title=über"],
    ["names.title=.."],
]


def test_odd_overrides_have_names_of_their_own_that_need_no_quotes():
    names = [directory_name(overrides) for overrides in ODD]
    assert len(set(names)) == len(ODD)
    assert names[7].startswith("a_long_name-") and names[7] != names[8]
    for name in names:
        assert len(name) <= LIMIT and "/" not in name and name not in (".", "..")
        path = f"multirun/{name}/checkpoints/best.ckpt"
        assert OverridesParser.create().parse_override(f"ckpt_path={path}").value() == path


def test_a_command_is_named_without_what_is_about_hydra():
    words = [
        "-m",
        "model=vae,ppca",
        "hydra.launcher.n_jobs=2",
        "hydra/launcher=basic",
        "--config-name",
        "x",
        "seed=1",
    ]
    assert command_name(words) == directory_name(["model=vae,ppca", "seed=1"])


@pytest.mark.parametrize("text", ["a/b c", "it's", "a=b,c", "back\\slash", "\\'", "end\\", "[1]", "${x}"[1:]])
def test_quoted_values_are_read_back(text):
    assert OverridesParser.create().parse_override(quoted("key", text)).value() == text


def outcomes(folder: Path) -> list[Outcome]:
    found = []
    for model, elbos in {"vae": [-100.0, -102.0, -107.0], "ppca": [-90.0], "autoencoder": []}.items():
        for seed, elbo in enumerate(elbos, 1):
            job = Job(
                folder / f"{model}{seed}", (f"model={model}", f"seed={seed}"), f"model={model} seed={seed}"
            )
            found.append(Outcome(job, Status.FINISHED, "", 65.0, {"test/elbo": elbo, "val/elbo": 1.0}))
    odd = Job(folder / "odd", ("model=autoencoder",), "model=autoencoder [x]")
    failed = Job(folder / "bad", ("model=vae", "seed=9"), "model=vae seed=9")
    return [
        *found,
        Outcome(odd, Status.FINISHED, "", 3.0, {"test/reconstruction": -5.0}),
        Outcome(failed, Status.DIVERGED, "training diverged: [nan]", 9000.0),
    ]


def test_the_table_has_every_job_and_the_mean_over_seeds(tmp_path):
    console = Console(file=StringIO(), width=100)
    table.show(outcomes(tmp_path), console=console)
    shown = console.file.getvalue()
    error = stdev([-100, -102, -107]) / 3**0.5
    assert f"-103.00 +- {error:.2f}" in shown and "2.08" in shown
    for words in (
        "test/elbo",
        "model=autoencoder [x]",
        "1 min 5 s",
        "2 h 30 min",
        "diverged: training diverged: [nan]",
    ):
        assert words in shown, shown
    assert shown.count("+-") == 1 + 1  # in the head, and for the one group of several seeds


def test_the_metric_of_a_table():
    assert table.metric_of({"val/elbo": 1, "train/elbo": 2}) == ("val/elbo", 1.0)
    assert table.metric_of({"val/elbo": 1}, "test/nll") == ("test/nll", None)
    assert table.common_metric([], None) == "test/elbo"
    job = Job(Path(), ())
    mixed = [
        Outcome(job, Status.FINISHED, summary={name: 1.0}) for name in ("test/reconstruction", "train/elbo")
    ]
    assert table.common_metric(mixed) == "train/elbo"
    assert table.common_metric(mixed, "x") == "x"


def test_results_are_a_row_a_job(tmp_path):
    for name, status in {"one": "finished", "two": "failed"}.items():
        (tmp_path / name).mkdir()
        directory.write_record(
            tmp_path / name, directory.Record(status, "", 1.0, 1, [f"model={name}", "+x=[1,2]"])
        )
    (tmp_path / "one" / "summary.json").write_text('{"test/elbo": -3.5}')
    with table.write(tmp_path).open() as file:
        one, two = csv.DictReader(file)
    assert (one["model"], one["status"], one["test/elbo"], one["+x"]) == ("one", "finished", "-3.5", "[1,2]")
    assert (two["model"], two["status"], two["test/elbo"]) == ("two", "failed", "")


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
def test_what_a_trainer_needs(trainer, wanted):
    assert need(trainer, None) == wanted
    assert need(trainer, 4).gpus == (4 if wanted.on_gpu else 0)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({"accelerator": "cpu", "devices": 0}, "trainer.devices=0: at least one device"),
        ({"accelerator": "cpu", "num_nodes": 2}, "trainer.num_nodes=2"),
        (
            {"accelerator": "gpu", "devices": 4},
            "trainer.devices=4 is more than hydra.launcher.devices_per_job=2",
        ),
    ],
)
def test_what_no_job_can_have(trainer, words):
    with pytest.raises(UserError, match=words):
        need(trainer, 2)


def test_gpus_that_come_back_are_handed_out_last():
    pool = Pool(["a", "b", "c"])
    first = pool.take(Need(gpus=1))
    pool.give_back(first)
    assert pool.take(Need(gpus=2)) == ("b", "c")
    assert not pool.has(Need(gpus=2)) and pool.has(Need(gpus=1)) and not pool.has(Need(gpus=None))
