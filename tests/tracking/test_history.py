"""The history of W&B and the points of TensorBoard equal metrics.csv, however a run was interrupted."""

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from forks import Ended, forked
from records import history, logged, records, runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latentlab.run.metrics import MetricsFile
from latentlab.tracking.record import finish, start
from latentlab.tracking.tensorboard import tensorboard_logger
from latentlab.tracking.wandb import wandb_logger

RUN = ("data=binarised_digits", "data.batch_size=64", "encoder.hidden=[16]", "trainer.log_every_n_steps=1")
FIGURES = (
    *("figures=none", "figures.every_n_epochs=1"),
    "+figures.samples={_target_: latentlab.figures.samples, _partial_: true}",
)
# More than one block of a record. NaN and infinity are values too.
ROWS = [
    (
        {
            "train/elbo": -1.0 / (step + 3),
            "epoch": step // 100,
            **({"val/elbo": -step / 7} if step % 9 else {}),
        },
        step,
    )
    for step in range(300)
] + [({"train/elbo": float("nan"), "epoch": 3}, 300), ({"train/elbo": float("-inf"), "epoch": 3}, 301)]
LOGGERS = {"wandb": wandb_logger, "tensorboard": tensorboard_logger}


def command(folder: Path, *arguments: str, home: str = "") -> Ended:
    env = {"LATENTLAB_TRUST": "tests.faults.killing", "HOME": home or str(folder)}
    return forked("train.py", *arguments, home=folder, env=env, timeout=240)


def train(run: Path, *arguments: str, home: str = "") -> Ended:
    return command(run.parent, *RUN, *arguments, f"hydra.run.dir={run}", home=home)


def kill(run: Path, signal: str, batch: int) -> str:
    """Return the option that sends a run a signal once."""
    settings = f"number: {signal}, event: batch, n: {batch}, once: {run}.killed"
    return f"+callbacks.kill={{_target_: tests.faults.killing.Kill, {settings}}}"


def write(folder, rows):
    """Write metrics.csv anew."""
    (folder / "metrics.csv").unlink(missing_ok=True)
    file = MetricsFile(folder / "metrics.csv")
    for metrics, step in [*rows, ({"train/elbo": 0.0}, 1000)]:
        file.append(metrics, step)
    file.rewind(1000)


def points(folder):
    """Return the points of all event files, as TensorBoard itself reads them."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return Counter(
        (tag, each.step, repr(each.value)) for tag in events.Tags()["scalars"] for each in events.Scalars(tag)
    )


def expected(rows):
    return Counter(
        (name, step, repr(torch.tensor(float(value)).item()))
        for row, step in rows
        for name, value in row.items()
    )


def equal(name, folder):
    if name == "wandb":
        return repr(history(folder)) == repr(logged(folder))
    rows = [{key: value for key, value in row.items()} for row in logged(folder)]
    return points(folder) == expected((row, int(row.pop("trainer/global_step"))) for row in rows)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A directory with a record of `ROWS` by each logger, and no metrics.csv."""
    folder = tmp_path_factory.mktemp("recorded") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        loggers = [make(str(folder)) for make in LOGGERS.values()]
        for logger in loggers:
            start(logger)
            for metrics, step in ROWS:
                logger.log_metrics(metrics, step)
            logger.save()
        finish(loggers)
    return folder


def resumed(recorded, folder, name, rows):
    """Resume a copy of the recorded run after `rows`, and log the other rows."""
    shutil.copytree(recorded, folder, symlinks=True, dirs_exist_ok=True)
    write(folder, rows)
    logger = LOGGERS[name](str(folder))
    start(logger)
    return logger


@pytest.mark.parametrize("name", LOGGERS)
@pytest.mark.parametrize("kept", [0, 137])
def test_a_record_is_cut_back_to_the_rows_of_metrics_csv_and_continued(recorded, tmp_path, name, kept):
    logger = resumed(recorded, tmp_path, name, ROWS[:kept])
    later = [({"train/elbo": 0.5, "epoch": 9}, 400), ({"test/elbo": 0.25}, 401)]
    for metrics, step in later:
        logger.log_metrics(metrics, step)
    finish([logger])
    write(tmp_path, ROWS[:kept] + later)
    assert equal(name, tmp_path)


@pytest.mark.parametrize("name", LOGGERS)
def test_rows_that_a_record_lacks_are_added(recorded, tmp_path, name):
    """Here the record was cut short by a kill, and lacks a row in the middle as older versions left it."""
    shutil.copytree(recorded, tmp_path, symlinks=True, dirs_exist_ok=True)
    (file,) = (
        [*tmp_path.glob("wandb/off*/*.wandb")] if name == "wandb" else [*tmp_path.glob("tensorboard/events*")]
    )
    os.truncate(file, file.stat().st_size // 2 + 1)
    rows = [*ROWS[:50], ({"train/elbo": 0.5}, 49), *ROWS[50:]]
    write(tmp_path, rows)
    logger = LOGGERS[name](str(tmp_path))
    start(logger)
    finish([logger])
    assert equal(name, tmp_path)


def test_a_record_with_damaged_bytes_is_cut_before_them(recorded, tmp_path):
    shutil.copytree(recorded, tmp_path, symlinks=True, dirs_exist_ok=True)
    (file,) = tmp_path.glob("wandb/off*/*.wandb")
    data = bytearray(file.read_bytes())
    data[20_000:20_400] = random.Random(0).randbytes(400)
    file.write_bytes(bytes(data))
    write(tmp_path, ROWS)
    logger = wandb_logger(str(tmp_path))
    start(logger)
    finish([logger])
    assert equal("wandb", tmp_path)


def test_a_sent_record_is_left_alone_and_its_rows_are_not_sent_again(recorded, tmp_path):
    shutil.copytree(recorded, tmp_path, symlinks=True, dirs_exist_ok=True)
    (file,) = tmp_path.glob("wandb/off*/*.wandb")
    file.with_name(f"{file.name}.synced").touch()
    before = file.read_bytes()
    write(tmp_path, ROWS[:100])
    logger = wandb_logger(str(tmp_path))
    start(logger)
    for metrics, step in [*ROWS[100:], ({"train/elbo": 0.5}, 500)]:
        logger.log_metrics(metrics, step)
    finish([logger])
    assert file.read_bytes() == before
    rows = [item["history"]["item"] for item in records(runs(tmp_path)[1]) if "history" in item]
    assert [row["trainer/global_step"] for row in rows] == [500]


def shown(run):
    """Return the steps at which a figure is in the history, oldest first."""
    items = [item["history"]["item"] for each in runs(run) for item in records(each) if "history" in item]
    return [item["trainer/global_step"] for item in items if "figures/samples._type" in item]


def test_a_killed_run_and_a_longer_one_have_the_history_of_metrics_csv(tmp_path):
    """In both loggers of the run. A figure of each epoch and of the last test stays, except for those of the last
    moment before the kill."""
    run, both = tmp_path / "run", "logger=[wandb,tensorboard]"
    assert train(run, both, *FIGURES, "trainer.max_epochs=4", kill(run, "SIGKILL", 70)).status == -9
    for epochs in (4, 5):
        done = command(tmp_path, f"resume={run}", f"trainer.max_epochs={epochs}")
        assert (done.status, done.err) == (0, "")
        assert history(run) == logged(run)
        assert equal("tensorboard", run)
        assert [step for step in shown(run) if step != 60] == [20, 40, 80, 80 if epochs == 4 else 100, 100][
            :epochs
        ]
    summary = json.loads((run / "summary.json").read_text())
    assert json.loads((run / "wandb" / "summary.json").read_text())["test/elbo"] == summary["test/elbo"]


def test_a_service_of_wandb_that_dies_ends_neither_the_run_nor_its_history(tmp_path):
    """One line says so. W&B itself would print a traceback of 35 lines at the end of the process."""
    run = tmp_path / "run"
    service = "+callbacks.kill={_target_: tests.tracking.failing.KillService, epoch: 1}"
    done = train(run, "figures=none", "trainer.max_epochs=2", service)
    assert (done.status, done.err) == (0, "")
    assert [line[:11] for line in done.out.splitlines() if line.startswith("W&B")] == [
        "W&B: no API",
        "W&B failed ",
    ]
    assert history(run) == logged(run) and (run / "summary.json").exists()
    assert json.loads((run / "wandb" / "summary.json").read_text())["test/elbo"]


def test_a_wandb_that_cannot_be_opened_costs_one_line(tmp_path):
    """The folder cannot be written, as on a full or read-only disk. The home folder cannot be written either."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "wandb").touch()
    done = train(run, "figures=none", "trainer.max_epochs=1", home="/dev/null")
    assert (done.status, done.err) == (0, "")
    assert [line[:10] for line in done.out.splitlines() if line.startswith("W&B")] == ["W&B failed"]
    assert logged(run) and (run / "summary.json").exists()


@pytest.mark.faults
def test_eighteen_resumed_runs(tmp_path):
    found = Counter()
    for n in range(18):
        run = tmp_path / f"run{n}"
        signal = ("SIGKILL", "SIGTERM", "SIGINT")[n % 3]
        words = ("figures=none", "trainer.max_epochs=6", kill(run, signal, 25 + 5 * n))
        assert train(run, *words).status == {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}[signal]
        done = command(tmp_path, f"resume={run}")
        assert (done.status, done.err) == (0, ""), done
        recorded, known = (Counter(map(repr, rows)) for rows in (history(run), logged(run)))
        found["lacking"] += (known - recorded).total()
        found["doubled"] += (recorded - known).total()
        found["equal"] += recorded == known
    print(f"18 resumed runs: {dict(found)}")
    assert found["equal"] == 18
