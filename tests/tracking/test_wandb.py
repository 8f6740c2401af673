import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from toy import ToyData, ToyModule, trainer_in

from latentlab.callbacks import BestCheckpoint, Latents
from latentlab.errors import UserError
from latentlab.tracking import finish, log_figure
from latentlab.tracking.wandb import STEP, choose_mode, has_key, wandb_logger

CONFIG = {"model": {"latent_dim": 2, "prior": {"name": "standard_normal"}}, "seed": 1, "tags": ["a", "b"]}


@pytest.fixture(autouse=True)
def no_key(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def records(run_dir):
    read = subprocess.run(
        [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(run_dir)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in read.stdout.splitlines() if line.startswith("{")]


def train(folder, exit_code=0, **config):
    torch.manual_seed(0)
    logger = wandb_logger(str(folder), **config)
    logger.log_hyperparams(CONFIG)
    module = ToyModule()
    trainer = trainer_in(folder, [Latents(1), BestCheckpoint()], logger, epochs=1)
    trainer.fit(module, ToyData())
    trainer.test(module, ToyData(), verbose=False)
    finish([logger], exit_code)
    return logger


def runs(folder):
    return sorted((folder / "wandb").glob("offline-run-*"))


def gather(run_dir, kind, *path):
    """The updates of one kind of record, merged."""
    merged = {}
    for record in records(run_dir):
        node = record.get(kind, {})
        for key in path:
            node = node.get(key, {})
        merged |= node
    return merged


def test_an_offline_run_read_back(tmp_path, caplog, capfd):
    with caplog.at_level(logging.INFO, logger="latentlab"):
        train(tmp_path, tags=["x"], group="g", notes="n", name="me", log_model="best")
    (run_dir,) = runs(tmp_path)
    lines = [record.message for record in caplog.records if record.name.startswith("latentlab.tracking")]
    where = f"W&B: no API key found, logging offline to {tmp_path / 'wandb'}"
    assert lines == [f"{where}; `wandb sync {run_dir}` sends it later"]
    assert "wandb" not in "".join(capfd.readouterr())

    config = gather(run_dir, "config", "update")
    assert {key: config[key] for key in CONFIG} == CONFIG
    run = gather(run_dir, "run")
    assert (run["project"], run["run_group"], run["job_type"], run["tags"]) == (
        "latentlab",
        "g",
        "train",
        ["x"],
    )
    assert (run["display_name"], run["notes"]) == ("me", "n")

    defined = [record["metric"] for record in records(run_dir) if "metric" in record]
    assert any(metric.get("glob_name") == "*" and metric["step_metric"] == STEP for metric in defined)
    rows = [record["history"]["item"] for record in records(run_dir) if "history" in record]
    assert [row[STEP] for row in rows if "train/elbo" in row] == [0, 1, 2, 3]
    assert all(STEP in row for row in rows)
    assert [row[STEP] for row in rows if "figures/latents._type" in row] == [4, 4]

    summary = gather(run_dir, "summary", "update")
    assert isinstance(summary["test/elbo"], float) and isinstance(summary["val/elbo"], float)
    assert summary["tables/latents._type"] == "table-file" and summary["tables/latents.nrows"] == 64
    assert list((run_dir / "files" / "media" / "images" / "figures").glob("latents_*.png"))

    artifacts = [record["artifact"] for record in records(run_dir) if "artifact" in record]
    assert ["best", "latest"] in [sorted(artifact.get("aliases", [])) for artifact in artifacts]
    assert not (tmp_path / "home" / ".local").exists()
    assert gather(run_dir, "exit").get("exit_code", 0) == 0


def test_a_failed_run_and_its_resume(tmp_path):
    # The second run of a process is its own; the second run of a run directory goes on with the first.
    first = train(tmp_path / "a", exit_code=1)
    second = train(tmp_path / "b", log_model=False)
    resumed = wandb_logger(str(tmp_path / "a"))
    finish([resumed], 0)
    assert first.version == resumed.version != second.version
    exits = [
        gather(run_dir, "exit")["exit_code"] for run_dir in (*runs(tmp_path / "a")[:1], *runs(tmp_path / "b"))
    ]
    assert exits == [1, 0]
    assert not [record for run_dir in runs(tmp_path / "b") for record in records(run_dir) if
                record.get("artifact", {}).get("type") == "model"]  # fmt: skip
    assert "WANDB_DATA_DIR" not in os.environ


def test_a_key_is_looked_for_without_asking_a_server(tmp_path, monkeypatch):
    assert not has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123456789\n")
    assert has_key() and choose_mode(None) == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_key()


def test_modes(monkeypatch):
    assert choose_mode(None) == choose_mode(True) == "offline"
    with pytest.raises(UserError, match=r"logger\.offline=false: no W&B API key found"):
        choose_mode(False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert [choose_mode(None), choose_mode(True), choose_mode(False)] == ["online", "offline", "online"]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert [choose_mode(None), choose_mode(True)] == ["disabled", "offline"]


def test_other_ranks_open_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = wandb_logger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, step=0)
    logger.log_hyperparams(CONFIG)
    finish([logger], 0)
    assert not list(tmp_path.glob("wandb*"))


def test_the_library_is_imported_by_its_user_alone():
    code = "import sys, latentlab.tracking; print({'wandb', 'tensorboard'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_configs(tmp_path):
    folder = str(Path(__file__).parents[2] / "conf" / "logger")
    with initialize_config_dir(folder, version_base="1.3"):
        assert compose("csv")._target_ is None and compose("none")._target_ is None
        offline = instantiate(compose("wandb", ["offline=true", "tags=[a]"]), save_dir=str(tmp_path))
        board = instantiate(compose("tensorboard"), save_dir=str(tmp_path))
    assert offline.version == (tmp_path / "wandb_run_id.txt").read_text().strip()
    log_figure([offline, board], "figures/x", picture(tmp_path), step=3)
    finish([offline, board])
    assert next(path.name for path in (tmp_path / "tensorboard").iterdir()).startswith("events.out")


def picture(folder):
    path = folder / "x.png"
    Image.new("P", (8, 8)).save(path)
    return path
