"""Mistakes on the command line: one line each, with the key and the remedy."""

import shutil
import urllib.request
from pathlib import Path

import pytest
from commands import DATA, OFFLINE, QUICK, call, command, needs_mnist, refusal
from runs import summary

from latentlab.errors import UserError

REFUSED = {
    "unknown option": ("model=vea", ["model=vea", "did you mean", "model has"]),
    "number for an option": ("model=3", ["model=3: no such option", "model has", "vae"]),
    "null for an option": ("prior=null", ["prior=null: no such option", "standard_normal"]),
    "unknown debug option": ("debug=defalt", ["debug=defalt", "did you mean default?"]),
    "unknown group": ("optimzer=sgd", ["optimzer", "did you mean optimizer?"]),
    "unknown key": ("optimizer.lrr=1", ["optimizer.lrr", "did you mean optimizer.lr?"]),
    "unknown setting": ("sed=1", ["sed", "did you mean seed?"]),
    "unknown key of a group of the model": (
        "model=markovian_hvae chain=noising model.up.noise_schedule.gama_min=1",
        ["did you mean model.up.noise_schedule.gamma_min?"],
    ),
    "unlisted key": ("trainer.strategy=ddp", ["trainer.strategy", "+trainer.strategy=..."]),
    "unknown argument": ("+optimizer.lrr=1", ["optimizer.lrr", "Adam", "did you mean lr?"]),
    "unknown target": ("optimizer._target_=torch.optim.Adm", ["optimizer._target_", "no such class"]),
    "no value": ("model", ["'model'", "key=value"]),
    "wrong type": ("optimizer.lr=abc", ["optimizer.lr=abc", "number"]),
    "text for a number": ("optimizer.lr='3'", ["optimizer.lr='3'", "text", "number"]),
    "number for a whole one": ("model.latent_dim=2.0", ["model.latent_dim=2.0", "whole number"]),
    "wrong type, interpolated": ("seed=abc", ["error: seed=abc", "integer"]),
    "null": ("model.latent_dim=null", ["model.latent_dim=null", "integer"]),
    "no latents": ("model.latent_dim=0", ["model.latent_dim=0", "greater than 0"]),
    "batch size": ("data.batch_size=-1", ["data.batch_size=-1", "greater than 0"]),
    "learning rate": ("optimizer.lr=-1", ["optimizer.lr=-1", "from 1e-12 to 10000"]),
    "width": ("encoder.hidden=[0]", ["encoder.hidden", "greater than 0"]),
    "seed": ("seed=-1", ["seed=-1", "greater than or equal to 0"]),
    "clipping": ("trainer.gradient_clip_val=-1", ["trainer.gradient_clip_val=-1", "greater than or equal"]),
    "clipping under mixed precision": (
        "trainer.gradient_clip_val=1 trainer.precision=bf16-mixed",
        ["trainer.gradient_clip_val=1", "optimizer.fused=false"],
    ),
    "accumulation": ("trainer.accumulate_grad_batches=0", ["trainer.accumulate_grad_batches=0"]),
    "device": ("trainer.devices=0", ["devices=0"]),
    "too many validated": ("data.val_size=5000", ["data.val_size=5000", "1527"]),
    "part of the test set": (
        "+trainer.limit_test_batches=1",
        ["trainer.limit_test_batches=1", "leave it out"],
    ),
    "nothing to watch": (
        "callbacks=early_stopping data.val_size=0",
        ["callbacks.early_stopping", "data.val_size"],
    ),
    "no checkpoint kept": ("~callbacks.best", ["callbacks.best", "leave it in"]),
    "part of another model": ("model=autoencoder prior=mog", ["prior=mog", "autoencoder", "change nothing"]),
    "chain of another model": ("model=vae chain=noised_data", ["chain", "change nothing"]),
    "likelihood": ("data=continuous_digits", ["BernoulliLikelihood", "protocol=threshold"]),
    "options of different models": ("data=earthquakes", ["model.num_components", "do not go together"]),
    "protocol": ("protocol=static", ["protocol=static", "Digits", "threshold"]),
    "unknown data set": (
        "data=binarised_mnist data.dataset=MNST",
        ["data.dataset=MNST", "did you mean MNIST?"],
    ),
    "no key for W&B": (
        "logger=wandb logger.wandb.offline=false",
        ["logger.wandb.offline=false", "wandb login"],
    ),
    "figures of no callback": ("figures=none", ["figures=none: callbacks=none has no figures"]),
    "settings of no logger": ("logger.wandb.name=x", ["logger.wandb.name", "logger=wandb"]),
    "folder of other data": ("data.root=there", ["data.root", "not read from a folder"]),
    "left out and set": ("~optimizer.lr optimizer.lr=2", ["optimizer.lr", "leave out ~optimizer.lr"]),
    "no run to resume": ("resume=", ["resume=PATH"]),
    "key of evaluate.py": ("run=there", ["run", "did you mean resume?"]),
    "word of a path": ("resume there", ["type resume=there"]),
    "nothing to resume": ("ckpt_path=none.ckpt", ["ckpt_path=none.ckpt", "no such file"]),
}


def test_data_of_a_missing_module_are_one_line(tmp_path):
    place = tmp_path / "conf" / "data"
    place.mkdir(parents=True)
    (place / "bars.yaml").write_text("_target_: nowhere.Bars\nprotocol: ${protocol}\n")
    words = ("data=bars", f"--config-dir={tmp_path / 'conf'}", "logger=none", f"hydra.run.dir={tmp_path}/run")
    line = refusal(call("train.py", *words))
    assert "there is no such class" in line and "PYTHONPATH" in line


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("LATENTLAB_DATA", str(tmp_path))
    line = refusal(call("train.py", *QUICK, f"hydra.run.dir={tmp_path}/run", *arguments.split()))
    assert [word for word in words if word not in line] == [], line
    assert not (tmp_path / "run").exists()


def test_a_key_that_only_options_of_a_sweep_have_gets_the_form_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(call("train.py", "-m", "model=em_mixture,cavi_mixture", "model.num_components=3"))
    assert "'model.num_components=choice(3)'" in line and not list(tmp_path.iterdir())


def test_a_mistake_in_its_own_process(tmp_path):
    line = refusal(command("train.py", *QUICK, "model.latent_dim=0", home=tmp_path))
    assert line == "error: model.latent_dim=0: input should be greater than 0"


def test_debug_shows_the_traceback(tmp_path):
    place = f"hydra.run.dir={tmp_path}/run"
    with pytest.raises(UserError, match="latent_dim=0"):
        call("train.py", *QUICK, "debug=default", "model.latent_dim=0", place)


@pytest.mark.parametrize("option", ["traceback", "default"])
def test_debug_shows_the_traceback_of_an_evaluation(option):
    with pytest.raises(UserError, match=r"none\.ckpt"):
        call("evaluate.py", f"debug={option}", "ckpt_path=none.ckpt")


@pytest.mark.parametrize("data", ["binarised_mnist", "static_mnist"])
def test_missing_data_without_network(tmp_path, monkeypatch, data):
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first use
    places = (f"data.root={tmp_path}/data", f"hydra.run.dir={tmp_path}/run")
    quick = [word for word in QUICK if not word.startswith(("data=", "logger="))]  # with W&B
    line = refusal(call("train.py", *quick, f"data={data}", *places))
    assert not (tmp_path / "run").exists()
    assert f"{tmp_path}/data" in line and "cannot be downloaded" in line
    assert "data.root" in line and "data=binarised_digits" in line


@needs_mnist
def test_a_damaged_file(tmp_path):
    name = "train-images-idx3-ubyte"
    shutil.copytree(
        Path(DATA, "MNIST", "raw"), tmp_path / "MNIST" / "raw", ignore=shutil.ignore_patterns("*.gz")
    )
    (tmp_path / "MNIST" / "raw" / name).chmod(0o644)
    with (tmp_path / "MNIST" / "raw" / name).open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"damaged")
    arguments = ("data=binarised_mnist", f"data.root={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    line = refusal(call("train.py", *QUICK, *arguments))
    assert name in line and "damaged" in line and "delete it" in line


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_an_output_directory_that_cannot_be_written(small, tmp_path, folder):
    (tmp_path / "file").write_text("")
    line = refusal(call("train.py", *QUICK, f"hydra.run.dir={tmp_path}/{folder}"))
    assert f"{tmp_path}/file" in line and "hydra.run.dir=DIR" in line
    checkpoint = f"ckpt_path={small}/checkpoints/best.ckpt"
    line = refusal(call("evaluate.py", checkpoint, f"output_dir={tmp_path}/{folder}"))
    assert f"{tmp_path}/file" in line and "output_dir=DIR" in line


def test_a_directory_that_holds_a_run_is_not_overwritten(small):
    before = summary(small)
    line = refusal(call("train.py", *QUICK, f"hydra.run.dir={small}"))  # the command that made it
    assert f"{small} already holds a run" in line
    assert f"python train.py resume={small}" in line and "hydra.run.dir" in line
    assert summary(small) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("batch_size=0", "batch_size=0"),
        ("nll.samples=many", "nll.samples=many"),
        ("nll.samples=2 nll.chunk=0", "nll.chunk=0"),
        ("accelerator=abacus", "accelerator=abacus"),
        ("bach_size=3", "did you mean batch_size?"),
        ("model=vdm", "model: no such key or group (--help lists the groups)"),
    ],
)
def test_a_mistake_in_an_evaluation(small, arguments, words):
    line = refusal(call("evaluate.py", f"ckpt_path={small}/checkpoints/best.ckpt", *arguments.split()))
    assert words in line


def test_a_run_without_its_key_is_one_line(small):
    assert f"type run={small}" in refusal(call("evaluate.py", str(small)))
    assert f"type resume={small}" in refusal(call("train.py", str(small)))
    assert "did you mean run?" in refusal(call("evaluate.py", f"resume={small}"))


def test_an_evaluation_needs_a_checkpoint():
    assert "ckpt_path=RUN" in refusal(call("evaluate.py"))


def test_a_callback_without_its_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.callbacks.device_stats_monitor._PSUTIL_AVAILABLE", False)
    monitor = "+callbacks.d._target_=pytorch_lightning.callbacks.DeviceStatsMonitor"
    line = refusal(call("train.py", *QUICK, monitor, "trainer=cpu", f"hydra.run.dir={tmp_path}/run"))
    assert "DeviceStatsMonitor" in line and "psutil" in line and not (tmp_path / "run").exists()
