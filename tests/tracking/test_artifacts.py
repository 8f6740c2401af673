"""Runs that are kept as artifacts in W&B, which a stand-in of its server holds."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from commands import QUICK, call, refusal

import latentlab
from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.run.results import read_results, write_results
from latentlab.tracking import artifacts, wandb_key
from latentlab.tracking.wandb import _log_artifact

NAME = "team/project/model-abc:best"


class Kept:
    """The stand-in of a W&B run: keeps the artifact that it logs."""

    id = "abc"

    def log_artifact(self, artifact, aliases):
        self.artifact, self.aliases = artifact, aliases


@pytest.fixture
def kept(small, monkeypatch, tmp_path):
    """The artifact of a run, behind a stand-in of `wandb.Api`. It lists the downloads."""
    run, downloads = Kept(), []
    place = RunDirectory(shutil.copytree(small, tmp_path / "original"))
    value = read_results(place.summary)["test/elbo"]
    write_results(place.expected, {"metric": "test/elbo", "value": value, "noise": 1.0, "samples": 1})
    _log_artifact(run, place.best_checkpoint, {})
    entries = run.artifact.manifest.entries

    def download(name, root):
        downloads.append(name)
        target = Path(root, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(entries[name].local_path, target)

    def artifact(name, type):
        assert type == "model"
        collection, _, alias = name.rpartition("/")[2].partition(":")
        if collection != run.artifact.name or alias not in (*run.aliases, "v0"):
            raise wandb.errors.CommError(f"artifact {name} not found\nin the project")
        get = lambda entry: SimpleNamespace(download=lambda root: download(entry, root))  # noqa: E731
        return SimpleNamespace(
            entity="team",
            project="project",
            name=f"{collection}:v0",
            manifest=run.artifact.manifest,
            get_entry=get,
        )

    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv(artifacts.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(artifacts, "answers", lambda: True)
    monkeypatch.setattr(wandb, "Api", lambda overrides, timeout: SimpleNamespace(artifact=artifact))
    monkeypatch.chdir(tmp_path)
    return downloads


def test_an_artifact_is_read_like_a_run_and_downloaded_once(kept, small):
    loaded, local = latentlab.load(NAME), latentlab.load(small)
    assert (loaded.elbos() == local.elbos()).all() and loaded.config == local.config
    assert sorted(kept) == ["checkpoints/best.ckpt", "config.yaml", "expected.json"]
    for word in (f"run={NAME}", f"ckpt_path={NAME}"):
        done = call("evaluate.py", word, "nll.samples=0", "figures.draw=false", "output_dir=out")
        assert done.status == 0 and "reproduces" in done.out, done.err
    assert (
        latentlab.evaluate(NAME, ["nll.samples=0", "figures.draw=false", "output_dir=out"])["model"] == "vae"
    )
    assert len(kept) == 3


def test_an_artifact_resumes_in_a_new_directory(kept):
    assert call("train.py", f"resume={NAME}", "trainer.max_epochs=2").status == 0
    assert RunDirectory(Path("outputs/model-abc_best")).summary.exists()
    line = refusal(call("train.py", f"resume={NAME}", "trainer.max_epochs=3"))
    assert "resume=" in line and "outputs/model-abc_best" in line


def test_an_artifact_that_is_missing_or_of_another_kind_is_one_line(kept, monkeypatch):
    line = refusal(call("evaluate.py", "run=team/project/model-other:best"))
    assert "run=team/project/model-other:best" in line and "not found in the project" in line
    monkeypatch.setattr(artifacts.RunDirectory, "config", property(lambda run: run.path / "model.yaml"))
    with pytest.raises(UserError, match="log_model"):
        artifacts.download(NAME, "run")


@pytest.mark.parametrize("key", ["run", "ckpt_path", "resume", "model.pretrained"])
def test_without_a_connection_an_artifact_is_one_line(key, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    script = "evaluate.py" if key == "run" else "train.py"
    words = [f"{key}={NAME}", *(() if key in ("run", "resume") else QUICK)]
    words += ["model=latent_vdm"] if key == "model.pretrained" else []
    line = refusal(call(script, *words))
    assert f"{key}={NAME}" in line and "wandb login" in line
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_MODE=offline" in refusal(call(script, *words))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert wandb_key.server() in refusal(call(script, *words))
    assert not [*tmp_path.iterdir()]


def test_a_path_is_no_artifact(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model:best").touch()
    assert not any(
        map(artifacts.is_artifact, ("model:best", "runs/best.ckpt", "/runs/a:b", "https://x.y/a:b"))
    )
    assert all(map(artifacts.is_artifact, ("model-ID:v3", "project/model-ID:latest", NAME)))
