"""The model zoo: models by name, and the numbers that they must reproduce."""

import json
import shutil
from pathlib import Path

import pytest
from commands import call, refusal
from omegaconf import OmegaConf

import latentlab
from latentlab import zoo
from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.run.environment import SESSIONS, last_command
from latentlab.tracking.artifacts import CACHE, download
from latentlab.zoo.__main__ import add, main

QUIET = ("nll.samples=0", "mutual_information.examples=0", "figures.draw=false")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(zoo.FOLDER, raising=False)


@pytest.fixture
def own(monkeypatch, tmp_path):
    """A user's zoo with a copy of a model of the package."""
    shutil.copytree(zoo.EXAMPLES / "vae_digits", tmp_path / "zoo" / "mine")
    monkeypatch.setenv(zoo.FOLDER, str(tmp_path / "zoo"))
    return tmp_path / "zoo" / "mine"


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("sessions", ["abc", [], ["abc"], [{"command": 3}], [{"command": "train.py seed=1"}]])
def test_the_command_of_a_run_is_read_from_any_file(tmp_path, sessions):
    path = tmp_path / "environment.json"
    path.write_text(json.dumps({SESSIONS: sessions}))
    assert last_command(path) == ("train.py seed=1" if "seed" in str(sessions) else "")


@pytest.mark.parametrize("name", zoo.models())
def test_a_model_of_the_package_is_small_and_reproduces_its_number(name):
    run = zoo.models()[name]
    assert sum(path.stat().st_size for path in zoo.files(run)) < 200_000
    done = call("evaluate.py", f"run=zoo:{name}", *QUIET)
    assert done.status == 0, done.err
    assert "reproduces" in done.out
    assert sorted(path.name for path in run.path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "expected.json",
        "summary.json",
    ]
    expected = zoo.read_expected(run)
    found = latentlab.load(name).elbos(samples=expected["samples"]).mean()
    assert found == pytest.approx(expected["value"], abs=zoo.tolerance(expected, expected["samples"]))


def test_a_number_that_is_not_reproduced_is_one_line(own):
    change(own / "expected.json", value=-1.0)
    line = refusal(call("evaluate.py", "run=zoo:mine", *QUIET, "output_dir=" + str(own)))
    assert "test/elbo" in line and "-1.0" in line
    assert (own / "evaluation.json").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"metric": "model", "value": 1.0},
        {"metric": "test/elbo\x1b[31m"},
        {"value": "low"},
        {"value": float("nan")},
        {"noise": float("inf")},
        {"noise": -1.0},
        {"samples": 0},
    ],
)
def test_a_damaged_number_is_refused_and_the_other_models_are_listed(own, values, capsys):
    change(own / "expected.json", **values)
    with pytest.raises(UserError, match="damaged"):
        zoo.verified(RunDirectory(own), {"model": "vae", "settings": {"samples": 1}})
    main([])
    out = capsys.readouterr().out
    assert "damaged" in out and "vae_digits" in out and "\x1b" not in out


def test_a_damaged_copy_is_mended_and_keeps_its_evaluation(own):
    copy = download("zoo:mine", "run")
    whole = copy.best_checkpoint.read_bytes()
    copy.evaluation.write_text("{}")
    copy.best_checkpoint.write_bytes(whole[:-9] + b"x" * 9)
    copy.expected.unlink()
    assert download("zoo:mine", "run") == copy
    assert copy.best_checkpoint.read_bytes() == whole
    assert copy.expected.exists() and copy.evaluation.exists()


def test_the_best_model_of_a_run_is_added(small, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match=zoo.FOLDER):
        main(["add", str(small), "new"])
    folder = tmp_path / "zoo"
    main(["add", str(small), "new", f"zoo={folder}"])
    loaded, original = latentlab.load("new", zoo=folder), latentlab.load(small)
    assert (loaded.elbos() == original.elbos()).all()
    with pytest.raises(UserError, match="there already"):
        add(small, "new", folder)
    with pytest.raises(UserError, match="no name"):
        add(small, "../new", folder)
    main([f"zoo={folder}"])
    assert "vae_digits" in capsys.readouterr().out
    monkeypatch.setenv(zoo.FOLDER, str(folder))
    assert "did you mean new?" in refusal(call("evaluate.py", "run=zoo:nwe"))


def test_a_model_of_somebody_else_executes_nothing(own):
    config = OmegaConf.load(own / "config.yaml")
    config.module.model.encoder._target_ = "os.system"
    OmegaConf.save(config, own / "config.yaml")
    with pytest.raises(UserError, match=r"os\.system"):
        latentlab.load("zoo:mine")


def test_a_model_is_not_resumed(own, tmp_path):
    for place in ("zoo:mine", str(own)):
        assert "start a new run" in refusal(call("train.py", f"resume={place}", "trainer.max_epochs=999"))


def test_a_folder_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setenv(zoo.FOLDER, "/nowhere")
    assert zoo.FOLDER in refusal(call("evaluate.py", "run=zoo:mine"))
