"""metrics.csv: columns, crashes and resumes."""

import csv

import pytest
import torch
from toy import ToyData, ToyModule, trainer_in

from latentlab.callbacks import LastCheckpoint
from latentlab.run.metrics import MetricsFile, read_rows
from latentlab.tracking.csv_logger import CSVMetrics


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_is_on_disk_once_logged_and_columns_may_come_later(tmp_path):
    logger = CSVMetrics(str(tmp_path))
    logger.log_metrics({"train/elbo": torch.tensor(-1.5), "epoch": 0.0}, step=1)
    assert rows(tmp_path) == [{"epoch": "0", "step": "1", "train/elbo": "-1.5"}]
    logger.log_metrics({"val/elbo": -2.0, "epoch": 0}, step=1)
    logger.log_metrics({"train/elbo": -1.0}, step=2)
    assert [row["val/elbo"] for row in rows(tmp_path)] == ["", "-2.0", ""]
    assert [row["train/elbo"] for row in rows(tmp_path)] == ["-1.5", "", "-1.0"]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_new_logger_appends_to_the_file(tmp_path):
    CSVMetrics(str(tmp_path)).log_metrics({"a": 1.0}, step=1)
    CSVMetrics(str(tmp_path)).log_metrics({"b": 2.0}, step=2)
    assert rows(tmp_path) == [
        {"epoch": "", "step": "1", "a": "1.0", "b": ""},
        {"epoch": "", "step": "2", "a": "", "b": "2.0"},
    ]


def test_a_row_that_a_crash_cut_short_is_dropped(tmp_path):
    for step in (1, 20):
        CSVMetrics(str(tmp_path)).log_metrics({"a": 10.25}, step)
    whole = (tmp_path / "metrics.csv").read_bytes()
    first = whole.index(b",20,")
    for end in range(first, len(whole) - 1):  # "2" is another step than "20"
        (tmp_path / "metrics.csv").write_bytes(whole[:end])
        assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == ["1"]
        CSVMetrics(str(tmp_path)).log_metrics({"a": 10.25}, step=20)
        assert (tmp_path / "metrics.csv").read_bytes() == whole


def test_a_resumed_run_writes_no_row_twice(tmp_path):
    logger = CSVMetrics(str(tmp_path))
    for step in (0, 1, 1, 2, 3, None):
        logger.log_metrics({"a": 1.0}, step)
    MetricsFile(tmp_path / "metrics.csv").rewind(2)
    CSVMetrics(str(tmp_path)).log_metrics({"a": 2.0}, step=2)
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [
        *(("0", "1.0"), ("1", "1.0"), ("1", "1.0"), ("2", "2.0"))
    ]
    MetricsFile(tmp_path / "none.csv").rewind(2)
    assert not (tmp_path / "none.csv").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_a_resume_keeps_the_rows(tmp_path, resume):
    torch.manual_seed(0)
    trainer_in(tmp_path, [LastCheckpoint()], CSVMetrics(str(tmp_path)), epochs=2).fit(ToyModule(), ToyData())
    first = rows(tmp_path)
    checkpoint = tmp_path / "checkpoints" / "last.ckpt" if resume else None
    trainer = trainer_in(tmp_path, [LastCheckpoint()], CSVMetrics(str(tmp_path)), epochs=3)
    module = ToyModule()
    trainer.fit(module, ToyData(), ckpt_path=checkpoint)
    trainer.test(module, ToyData(), verbose=False)
    everything = rows(tmp_path)
    assert [row["train/elbo"] for row in everything[: len(first)]] == [row["train/elbo"] for row in first]
    assert everything[-1]["test/elbo"]
    assert not (tmp_path / "hparams.yaml").exists()
