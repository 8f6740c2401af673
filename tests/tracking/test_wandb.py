"""The W&B logger, read back from its offline records."""

import json
import logging
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from time import sleep
from types import ModuleType

import pytest
import torch
import wandb
from commands import QUICK, ROOT, call, refusal
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from records import gather, records, runs, summary
from toy import ToyData, ToyModule, trainer_in
from wandb.sdk.wandb_run import Run

from latentlab.callbacks import BestCheckpoint, Figures
from latentlab.errors import UserError
from latentlab.figures import latents
from latentlab.tracking import wandb_key
from latentlab.tracking.record import finish, log_figure, log_summary, start
from latentlab.tracking.wandb import STEP, add_results, wandb_logger
from latentlab.tracking.wandb_key import SERVER, choose_mode, has_key, server
from latentlab.tracking.wandb_run import _without_launch

CONFIG = {"model": {"latent_dim": 2, "prior": {"name": "standard_normal"}}, "seed": 1, "tags": ["a", "b"]}


@pytest.mark.parametrize("launched", [False, True])
def test_only_a_program_that_uses_launch_pays_for_it(monkeypatch, launched):
    found = Run._detect_and_apply_job_inputs
    for name in [name for name in sys.modules if name.startswith("wandb.sdk.launch")]:
        monkeypatch.delitem(sys.modules, name)
    if launched:
        monkeypatch.setitem(sys.modules, "wandb.sdk.launch", ModuleType("launch"))
    with _without_launch():
        assert (Run._detect_and_apply_job_inputs is found) == launched
    assert Run._detect_and_apply_job_inputs is found


def opened(folder, **config):
    logger = wandb_logger(str(folder), **config)
    start(logger)
    return logger


def train(folder, exit_code=0, **config):
    torch.manual_seed(0)
    logger = opened(folder, **config)
    logger.log_hyperparams(CONFIG)
    module = ToyModule()
    trainer = trainer_in(folder, [Figures(1, latents=latents), BestCheckpoint()], logger, epochs=1)
    trainer.fit(module, ToyData())
    trainer.test(module, ToyData(), verbose=False)
    finish([logger], exit_code)
    return logger


def test_an_offline_run_read_back(tmp_path, caplog, capfd):
    with caplog.at_level(logging.INFO, logger="latentlab"):
        train(tmp_path, tags=["x"], group="g", notes="n", name="me", log_model="best")
    (run_dir,) = runs(tmp_path)
    lines = [record.message for record in caplog.records if record.name.startswith("latentlab.tracking")]
    folder = tmp_path / "wandb"
    assert lines == [f"W&B: no API key found, logging offline; `wandb sync {folder}` sends it later"]
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
    drawn = [(row[STEP], row["epoch"]) for row in rows if "figures/latents._type" in row]
    assert drawn == [(4, 0), (4, 1)]  # one after the epoch, one of the tested weights

    found = summary(run_dir)
    assert isinstance(found["test/elbo"], float) and isinstance(found["val/elbo"], float)
    assert found["best/val_elbo"] == found["val/elbo"]
    assert found["tables/latents._type"] == "table-file" and found["tables/latents.nrows"] == 64
    assert list((run_dir / "files" / "media" / "images" / "figures").glob("latents_*.png"))

    artifacts = [record["artifact"] for record in records(run_dir) if "artifact" in record]
    assert ["best", "latest"] in [sorted(artifact.get("aliases", [])) for artifact in artifacts]
    assert not (tmp_path / "home" / ".local").exists()
    assert gather(run_dir, "exit").get("exit_code", 0) == 0


def test_a_failed_run_and_its_resume(tmp_path):
    # Another run directory is another W&B run. The same run directory resumes its W&B run.
    first = train(tmp_path / "a", exit_code=1)
    second = train(tmp_path / "b", log_model=False)
    resumed = opened(tmp_path / "a")
    finish([resumed], 0)
    assert first.version == resumed.version != second.version
    before, after = runs(tmp_path / "a")
    exits = [gather(each, "exit").get("exit_code", 0) for each in (before, after, *runs(tmp_path / "b"))]
    assert exits == [1, 0, 0]
    # Without this setting, `wandb sync` would replace the run. It always replaces the summary.
    assert "resume" not in gather(before, "run") and gather(after, "run")["resume"] is True
    kept = {name: value for name, value in summary(before).items() if not name.startswith("_")}
    assert {"test/elbo", "tables/latents._type"} <= kept.keys() and kept.items() <= summary(after).items()
    others = [record for run_dir in runs(tmp_path / "b") for record in records(run_dir)]
    assert not [record for record in others if record.get("artifact", {}).get("type") == "model"]
    assert "WANDB_DATA_DIR" not in os.environ


def test_the_commit_is_that_of_the_code_wherever_the_command_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finish([opened("run")])
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    head = subprocess.run(asked, capture_output=True, text=True)
    (run_dir,) = runs(tmp_path / "run")
    assert gather(run_dir, "run").get("git", {}).get("commit", "") == head.stdout.strip()


def test_a_summary_holds_plain_numbers_and_a_table_of_layers(tmp_path):
    logger = opened(tmp_path)
    log_summary([logger], {"model": "vae", "test/kl_2": 0.5, "test/kl_1": 2.0, "test/elbo": -1.0}, step=7)
    finish([logger])
    sleep(1.1)  # W&B names records by the second
    settings = {"_target_": "latentlab.tracking.wandb.wandb_logger", "project": "p", "tags": []}
    add_results(tmp_path, {"wandb": settings}, {"model": "vae", "test/nll": 1.5, "test/elbo": -2.0})
    first, second = runs(tmp_path)
    (table,) = (first / "files" / "media" / "table" / "tables").glob("layer_kl_*.json")
    assert json.loads(table.read_text()) == {"columns": ["layer", "kl"], "data": [[1, 2.0], [2, 0.5]]}
    assert summary(first)["tables/layer_kl.nrows"] == 2
    found = summary(second)
    assert (found["test/nll"], found["test/elbo"], found["test/kl_2"]) == (1.5, -2.0, 0.5)
    assert found["tables/layer_kl._type"] == "table-file" and "model" not in found
    assert not [record for record in records(second) if "history" in record]


@pytest.mark.parametrize("settings", [{}, {"wandb": {"_target_": "latentlab.tracking.wandb.wandb_logger"}}])
def test_results_need_a_run_to_be_added_to(tmp_path, settings):
    with pytest.raises(UserError, match=r"wandb=true: the run in .* was not logged with logger=wandb"):
        add_results(tmp_path, settings, {"test/nll": 1.0})


def test_a_key_is_looked_for_without_asking_a_server(tmp_path, monkeypatch):
    assert not has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123456789\n")
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_key()


def test_modes(monkeypatch):
    monkeypatch.setattr(wandb_key, "answers", lambda: True)
    assert choose_mode(None) == choose_mode(True) == "offline"
    with pytest.raises(UserError, match=r"logger\.wandb\.offline=false: no W&B API key found"):
        choose_mode(False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert [choose_mode(None), choose_mode(True), choose_mode(False)] == ["online", "offline", "online"]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert [choose_mode(None), choose_mode(True)] == ["disabled", "offline"]


def test_a_server_that_does_not_answer(monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, logger="latentlab"):
        assert choose_mode(None) == "offline"
    assert "http://127.0.0.1:9 does not answer" in caplog.text
    with pytest.raises(
        UserError, match=r"logger\.wandb\.offline=false: .* does not answer; .*logger\.wandb\.offline=true"
    ):
        choose_mode(False)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.handle_request).start()
        assert choose_mode(None) == "online"  # an answer of 501


@pytest.mark.parametrize(("key", "value"), [("project", "a/b"), ("tags", ["a" * 65]), ("project", "a" * 129)])
def test_settings_that_wandb_refuses_are_named(tmp_path, key, value):
    with pytest.raises(UserError, match=rf"logger\.wandb\.{key}="):
        wandb_logger(str(tmp_path), **{key: value})
    assert not list(tmp_path.iterdir())


def test_the_jobs_of_a_sweep_do_not_share_the_variables_of_one_run(monkeypatch):
    for name in ("RUN_ID", "NAME", "RESUME", "TAGS"):
        monkeypatch.setenv(f"WANDB_{name}", "x")
    refused = call("train.py", "-m", *QUICK, "seed=1,2", "model.latent_dim=-1")
    assert "WANDB_RUN_ID, WANDB_NAME, WANDB_RESUME left out" in refused.err.splitlines()[0]
    assert {name for name in os.environ if name.startswith("WANDB_")} == {"WANDB_TAGS"}


def test_a_resumed_run_keeps_its_id(tmp_path, caplog, monkeypatch):
    first = opened(tmp_path)
    finish([first])
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    wandb.teardown()  # so that it reads the environment again
    second = opened(tmp_path)
    finish([second])
    assert second.version == first.version
    assert "WANDB_RUN_ID=another is not used" in caplog.text


def test_a_damaged_id_and_a_damaged_summary(tmp_path, caplog):
    """The id is that of the latest record, and the summary starts anew."""
    first = opened(tmp_path)
    finish([first])
    sleep(1.1)  # W&B names records by the second
    (tmp_path / "wandb_run_id.txt").write_text("")
    (tmp_path / "wandb" / "summary.json").write_text("{")
    second = opened(tmp_path)
    finish([second])
    assert first.version == second.version == (tmp_path / "wandb_run_id.txt").read_text().strip()
    assert [record.message for record in caplog.records if "summary.json is damaged" in record.message]


def test_a_disabled_run_takes_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = opened(tmp_path)
    log_figure([logger], "figures/x", picture(tmp_path), step=1)
    log_summary([logger], {"test/elbo": -1.0, "test/kl_1": 2.0}, step=1)
    finish([logger])
    assert not runs(tmp_path)


def test_offline_logs_are_sent_before_a_run_resumes_online(tmp_path, monkeypatch):
    finish([opened(tmp_path)])
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb_key, "answers", lambda: True)
    with pytest.raises(UserError, match=f"wandb sync {tmp_path}/wandb"):
        wandb_logger(str(tmp_path))
    assert len(runs(tmp_path)) == 1


def test_other_ranks_open_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = opened(tmp_path)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.log_hyperparams(CONFIG)
    finish([logger], 0)
    assert not list(tmp_path.glob("wandb*"))


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", ["logger=wandb", "hydra.job.num=0", *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return config.logger.wandb


def test_the_environment_counts_where_the_command_line_says_nothing(monkeypatch):
    assert composed("seed=3").name == "vae binarised_mnist seed3"
    defaults = {"project": "latentlab", "entity": None, "group": None, "job_type": "train", "notes": None}
    assert {key: composed()[key] for key in defaults} == defaults
    for name in ("PROJECT", "ENTITY", "NAME", "RUN_GROUP", "NOTES", "JOB_TYPE"):
        monkeypatch.setenv(f"WANDB_{name}", name.lower())
    given = composed("logger.wandb.project=mine", "logger.wandb.group=own")
    assert (given.project, given.group) == ("mine", "own")
    assert (given.entity, given.name, given.notes, given.job_type) == ("entity", "name", "notes", "job_type")


def test_tags_of_the_environment(tmp_path, monkeypatch):
    wandb.teardown()  # so that it reads the environment again
    monkeypatch.setenv("WANDB_TAGS", "a,b")
    finish([opened(tmp_path / "env")])
    finish([opened(tmp_path / "own", tags=["c"])])
    tags = [gather(*runs(tmp_path / name), "run")["tags"] for name in ("env", "own")]
    assert tags == [["a", "b"], ["c"]]


def test_no_key_is_one_line_before_anything_starts(tmp_path):
    folder = tmp_path / "run"
    done = call("train.py", *QUICK, "logger=wandb", "logger.wandb.offline=false", f"hydra.run.dir={folder}")
    line = "error: logger.wandb.offline=false: no W&B API key found; run `wandb login` or set WANDB_API_KEY"
    assert refusal(done) == line
    assert not folder.exists()


def test_configs(tmp_path):
    folder = str(ROOT / "conf" / "logger")
    with initialize_config_dir(folder, version_base="1.3"):
        assert compose("none") == compose("csv") == {}
        config = compose("wandb", ["wandb.offline=true", "wandb.tags=[a]", "wandb.name=me"])
        offline = instantiate(config.wandb, save_dir=str(tmp_path))
        board = instantiate(compose("tensorboard").tensorboard, save_dir=str(tmp_path))
    start(offline)
    assert offline.version == (tmp_path / "wandb_run_id.txt").read_text().strip()
    log_figure([offline, board], "figures/x", picture(tmp_path), step=3)
    finish([offline, board])
    assert next(path.name for path in (tmp_path / "tensorboard").iterdir()).startswith("events.out")


def picture(folder):
    path = folder / "x.png"
    Image.new("P", (8, 8)).save(path)
    return path


def test_the_working_directory_cannot_choose_the_server(tmp_path, monkeypatch):
    """A run of an attacker may hold wandb/settings, and may be the working directory."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text(
        "[default]\nbase_url = http://127.0.0.1:1\nproject = theirs\n"
    )
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    run = wandb_logger(str(tmp_path), offline=True)
    start(run)
    assert run.experiment.settings.base_url == server() == SERVER
    assert wandb.setup().settings.project != "theirs"
    finish([run])


def test_the_server_of_wandb_login_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.org\n")
    assert server() == "https://wandb.example.org"
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example.org")
    assert server() == "https://other.example.org"
