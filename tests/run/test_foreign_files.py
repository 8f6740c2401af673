"""Foreign files: YAML is plain data, a checkpoint is read in outline, links and pipes are refused."""

import math
import os
import pickle
import zipfile

import pytest
import torch
from omegaconf import OmegaConf

from latentlab.errors import UserError
from latentlab.run.archive import Stored, outline
from latentlab.run.directory import RunDirectory
from latentlab.run.files import write_text
from latentlab.run.metrics import read_rows
from latentlab.run.plain import DEEPEST, LARGEST_FILE, MOST_VALUES, read_plain
from latentlab.run.results import read_results
from latentlab.sweeps.jobs.directory import Record, read_record

PLAIN = {
    "text": [
        "a",
        "1e-3",
        "1.0",
        "true",
        "null",
        "~",
        "",
        "0x10",
        "2001-01-01",
        "<<",
        "=",
        "a: b",
        "1_000",
        ".5",
        "é\n",
    ],
    "numbers": [0, -7, 1e-3, 1e20, -0.5, 2**62, float("inf")],
    "others": [True, False, None, [], {}, {"a.b": {"c d": [1]}}],
}


def test_a_config_that_omegaconf_wrote_is_read_as_it_was(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(PLAIN)))
    assert read_plain(path) == PLAIN == OmegaConf.to_container(OmegaConf.load(path))


@pytest.mark.parametrize(
    "text", ["1e-3", "1e5", "-1.5E+3", "010", "0b11", "1:30", "1_0", ".inf", "+.5", "on", "No", "-"]
)
def test_scalars_are_those_of_omegaconf(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(f"a: [{text}]" if text != "-" else "a: ['-']")
    assert read_plain(path) == OmegaConf.to_container(OmegaConf.load(path))
    path.write_text("nan: .nan")
    assert math.isnan(read_plain(path)["nan"])


REFUSED = {
    "an interpolation": "a: {b: '${c}'}",
    "an interpolation in a key": "a: {'${b}': 1}",
    "an alias": "a: &x 1\nb: *x",
    "an anchor": "a: &x 1",
    "a tag": "a: !!str 1",
    "a key of another type": "a: {1: 2}",
    "a double key": "a: {b: 1, b: 2}",
    "two documents": "a: 1\n--- \nb: 1",
    "a control character": 'a: "\\e"',
    "depth": "[" * (DEEPEST + 2),
    "many values": f"[{'1,' * (MOST_VALUES + 1)}]",
    "a large file": "#" * (LARGEST_FILE + 1),
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_is_not_plain_data(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError):
        read_plain(path)


STATE = {
    "state_dict": {"a": torch.zeros(3, 4).T, "b": torch.ones(2)[1:], "c": torch.tensor(1)},
    "epoch": 1,
    "x": [None, 0.5],
}


def test_the_outline_of_a_checkpoint(tmp_path):
    torch.save(STATE, tmp_path / "a.ckpt")
    found = outline(tmp_path / "a.ckpt")
    assert found["state_dict"] == {"a": Stored((4, 3)), "b": Stored((1,)), "c": Stored(())}
    assert found["epoch"] == 1 and found["x"] == [None, 0.5]


@pytest.mark.parametrize(
    "dtype", [torch.half, torch.bfloat16, torch.double, torch.uint8, torch.int32, torch.bool]
)
def test_the_types_of_weights(tmp_path, dtype):
    torch.save({"a": torch.zeros(5, dtype=dtype)}, tmp_path / "a.ckpt")
    assert outline(tmp_path / "a.ckpt") == {"a": Stored((5,))}


@pytest.mark.parametrize(
    "value", [{1, 2}, b"bytes", complex(1), pickle.PickleBuffer, torch.Size([1]), torch.float32]
)
def test_other_values_are_no_state(tmp_path, value):
    torch.save({"a": value}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError):
        outline(tmp_path / "a.ckpt")


def test_members_are_stored_as_they_are(tmp_path):
    torch.save(STATE, tmp_path / "a.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "a.ckpt") as good,
        zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, good.read(name))
    with pytest.raises(ValueError, match="compressed"):
        outline(tmp_path / "b.ckpt")


# -- Links, pipes and damaged numbers


@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        "train.log",
        "metrics.csv",
        "environment.json",
        "checkpoints",
        "figures",
        "wandb/run-1",
        ".hydra",
    ],
)
def test_a_run_whose_links_lead_elsewhere_is_refused(tmp_path, name):
    victim, run = tmp_path / "victim", RunDirectory(tmp_path / "run")
    victim.write_text("mine")
    (run.path / name).parent.mkdir(parents=True)
    (run.path / name).symlink_to(victim)
    with pytest.raises(UserError, match=f"{name} is a link to"), run.lock():
        pass
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path.parent.parent / "victim")])
def test_drafts_are_regular_files(tmp_path, make):
    path = tmp_path / "run" / "evaluation.json"
    path.parent.mkdir()
    make(path.with_name("evaluation.json.part"))
    with pytest.raises(UserError, match=r"evaluation\.json\.part is "):
        write_text(path, "{}")
    assert not (tmp_path / "victim").exists()


def test_links_inside_a_run_and_to_a_run_are_fine(tmp_path):
    (tmp_path / "real" / "wandb" / "run-1").mkdir(parents=True)
    (tmp_path / "real" / "wandb" / "latest-run").symlink_to("run-1")
    (tmp_path / "run").symlink_to("real")
    with RunDirectory(tmp_path / "run").lock():
        assert (tmp_path / "real" / ".lock").exists()


RESULTS = [
    "[" * 200_000,
    '{"test/elbo": "12"}',
    '{"test/elbo": [1]}',
    '{"test/elbo": 1' + "0" * 400 + "}",
    "[1]",
    "1e",
]


METRICS = [
    "epoch,step\n0,1e999\n",
    "epoch,step\n0,1,2\n",
    f"{'x' * 200_000}\n1\n",
    "a\nb\n",
    "epoch\n" + "9" * 101 + "\n",
]


DAMAGED = [(read_results, text) for text in RESULTS] + [(read_rows, text) for text in METRICS]


@pytest.mark.parametrize(("read", "text"), DAMAGED, ids=range(len(DAMAGED)))
def test_results_and_metrics_that_are_no_numbers(tmp_path, read, text):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        read(path)


@pytest.mark.parametrize("read", [read_results, read_rows])
def test_a_pipe_is_not_read(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"seconds": "abc"}', "[]", '{"attempts": null}'])
def test_a_damaged_record_of_a_job_counts_as_missing(tmp_path, text):
    (tmp_path / "job.json").write_text(text)
    assert read_record(tmp_path) == Record()
