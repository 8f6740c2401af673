"""Requests to SLURM, job scripts, and the commands of W&B agents."""

import os
import subprocess
import warnings
from pathlib import Path

import pytest
import yaml
from commands import QUICK, ROOT, call
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from latentlab.sweeps.jobs.sweep import read_settings

CONF = ROOT / "conf"
SWEEPS = sorted((ROOT / "jobs" / "wandb").glob("*.yaml"))
JOBS = sorted((ROOT / "jobs").glob("*.sh"))


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        return config


# -- SLURM


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        (("hydra/launcher=slurm",), (1, 1, 0)),
        (("hydra/launcher=slurm_1gpu", "trainer=gpu"), (1, 1, 1)),
        (("hydra/launcher=slurm_node", "trainer=ddp", "trainer.devices=4"), (1, 4, 4)),
        (
            ("hydra/launcher=slurm_nodes", "trainer=ddp", "trainer.devices=8", "trainer.num_nodes=3"),
            (3, 8, 8),
        ),
    ],
)
def test_slurm_is_asked_for_a_task_and_a_gpu_for_each_device(overrides, asked):
    request = read_settings(composed(*overrides).hydra.launcher).slurm
    assert (request.nodes, request.tasks_per_node, request.gpus_per_node) == asked


def test_a_job_that_slurm_requeued_resumes(tmp_path, monkeypatch):
    arguments = (
        *QUICK,
        "data.batch_size=500",
        "trainer.log_every_n_steps=1",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert call("train.py", *arguments).status == 0
    assert "already holds a run" in call("train.py", *arguments).err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    done = call("train.py", *arguments, "trainer.max_epochs=2")
    assert done.status == 0 and "epoch 2/2" in done.out and "epoch 1/2" not in done.out


# -- A login node


@pytest.mark.parametrize(
    "allocation", [{}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}]
)
def test_a_login_node_is_quiet(tmp_path, monkeypatch, allocation):
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in allocation.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = call("train.py", *QUICK, f"hydra.run.dir={tmp_path}/run")
        evaluated = call("evaluate.py", f"run={tmp_path}/run", "nll.samples=0", "figures.draw=false")
    assert done.status == evaluated.status == 0, done.err + evaluated.err
    assert not [each for each in caught if "srun" in str(each.message)]


# -- Job scripts


@pytest.mark.parametrize("script", JOBS, ids=lambda path: path.stem)
def test_job_scripts_are_bash(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def submit(script: str, home: Path, *arguments: str, **variables: str) -> list[str]:
    """Return the words of the command that a job script ends in."""
    if not (home / "jobs").exists():
        (home / "jobs").symlink_to(ROOT / "jobs")
    for name, text in {
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "python": 'printf "%s\\n" "$@"',
    }.items():
        (home / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (home / name).chmod(0o755)
    environment = {
        "PATH": f"{home}:{os.environ['PATH']}",
        "PROJECT": str(home),
        "PYTHON": str(home / "python"),
        **{"SLURM_JOB_ID": "7", "LSB_JOBID": "7"},
        **variables,
    }
    done = subprocess.run(
        ["bash", ROOT / "jobs" / script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(("script", "name"), [("slurm.sh", "slurm-7"), ("lsf.sh", "lsf-7")])
def test_a_job_trains_in_its_directory_and_resumes_there(tmp_path, script, name):
    words = ["model=vae", "encoder.hidden=[8,8]"]
    given = {"OVERRIDES": " ".join(words)} if script == "lsf.sh" else {}
    arguments = [] if given else words
    place = tmp_path / "outputs" / name
    started = ["train.py", *words, f"hydra.run.dir='{place}'"]
    assert submit(script, tmp_path, *arguments, **given) == started
    (place / "checkpoints").mkdir(parents=True)
    last = place / "checkpoints" / "last.ckpt"
    last.touch()
    resumed = ["train.py", *words, f"ckpt_path='{last}'", f"hydra.run.dir='{place}'"]
    assert submit(script, tmp_path, *arguments, **given) == resumed
    (place / "summary.json").touch()
    assert submit(script, tmp_path, *arguments, **given) == [f"{place} is finished"]


@pytest.mark.parametrize("script", ["slurm.sh", "lsf.sh"])
def test_a_job_runs_an_agent_of_a_sweep(tmp_path, script):
    words = submit(script, tmp_path, SWEEP="me/latentlab/abc", COUNT="3")
    assert words == ["-m", "wandb", "agent", "--count", "3", "me/latentlab/abc"]


# -- W&B sweeps


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def some_values(parameters: dict) -> dict:
    """Return a point of the space of a sweep."""
    return {key: each["values"][0] if "values" in each else each["min"] for key, each in parameters.items()}


def agent_command(sweep: dict) -> list[str]:
    """Return the command of `wandb agent` for a point of a sweep."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    values = {key: {"value": value} for key, value in some_values(sweep["parameters"]).items()}
    replaced = create_sweep_command_args({"args": values})
    replaced |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    words = create_sweep_command(list(sweep["command"]))
    return [
        each for word in words for each in replaced.get(word.removeprefix("${").removesuffix("}"), [word])
    ]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_keys_and_metrics_of_wandb_sweeps_exist(path):
    sweep = read(path)
    assert sweep["metric"] == {"name": "val/elbo", "goal": "maximize"}
    words = agent_command(sweep)
    assert words[:3] == ["/usr/bin/env", "python", "train.py"] and not any("{" in word for word in words)
    config = composed(*words[3:])
    choices = config.hydra.runtime.choices
    for key, value in some_values(sweep["parameters"]).items():
        assert choices[key] == value if key in choices else OmegaConf.select(config, key) == value
    assert path.read_text().startswith("# ")


def test_an_agents_command_trains_and_logs_the_metric(tmp_path, monkeypatch):
    import wandb

    words = agent_command(read(ROOT / "jobs" / "wandb" / "digits_random.yaml"))[3:]
    wandb.teardown()  # it must read the environment again
    monkeypatch.chdir(tmp_path)
    for name, value in {"MODE": "offline", "SWEEP_ID": "abc123", "RUN_ID": "run1"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    quick = ("callbacks=none", "encoder.hidden=[16]", "data.batch_size=500", "trainer.log_every_n_steps=1")
    done = call("train.py", *words, *quick, "trainer.max_epochs=1", "hydra.run.dir=run")
    wandb.teardown()
    assert done.status == 0, done.err
    [folder] = (tmp_path / "run").glob("wandb/offline-run-*")
    assert folder.name.endswith("-run1"), "not the run of the agent"
    assert "val/elbo" in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
