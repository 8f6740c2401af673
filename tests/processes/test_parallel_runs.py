"""Training on several devices: the numbers of one, and one set of files.

The runs are few: all numbers come from one run on two ranks and one on three.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from commands import QUICK, ROOT, call
from forks import ADDRESS, forked, start
from launchers import slurm, until
from omegaconf import OmegaConf
from torch.distributed import run

from latentlab.data import Digits
from latentlab.protocols import Threshold

RUN = (*QUICK, "data.batch_size=200", "trainer.log_every_n_steps=1", "+callbacks.probe._target_=probe.Probe")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The directories of runs of two ranks, started by train.py and by srun, and of three by torchrun."""
    home = tmp_path_factory.mktemp("runs")
    path = {"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("src", "tests", "tests/processes"))}
    words = (*RUN, "trainer=ddp_cpu")
    own = forked("train.py", *words, "hydra.run.dir=own", home=home, env=path)
    started = torchrun_command(*words, "trainer.devices=3", home=home, env=path)
    tasks = [start("train.py", *words, home=home, env=path | slurm(rank)) for rank in (0, 1)]
    done = {"own": [own], "torchrun": [started], "srun": [task.finish() for task in tasks]}
    found = {}
    for name, pattern in {"own": "own", "torchrun": "outputs/2*/*", "srun": "outputs/slurm-4711.0_*"}.items():
        assert [each.status for each in done[name]] == [0] * len(done[name]), done[name]
        [found[name]] = home.glob(pattern)  # one directory a run
        config = OmegaConf.load(found[name] / "config.yaml")
        del config.callbacks.probe  # an evaluation builds nothing from elsewhere
        OmegaConf.save(config, found[name] / "config.yaml")
    return home, done, found


def torchrun_command(*arguments, home, env):
    rank = [sys.executable, str(ROOT / "tests" / "processes" / "torchrun_rank.py"), "train.py"]
    words = ["--nproc_per_node=3", "--no-python", *rank, *arguments]
    return forked(run.__file__, *words, home=home, env=env | {ADDRESS: os.environ[ADDRESS]})


WORLDS = {"own": 2, "torchrun": 3, "srun": 2}


@pytest.mark.parametrize("name", WORLDS)
def test_a_run_speaks_with_one_voice_and_writes_one_set_of_files(runs, name):
    _, done, found = runs
    said = "".join(each.out for each in done[name])
    each = {2: "100 on each of 2", 3: "66 or 67 on each of 3"}[WORLDS[name]]
    for words in (f"batches of 200: {each} devices", "epoch 1/1", "test/elbo", "run: "):
        assert said.count(words) == 1, said
    assert all(words.err.count("\n") == 0 for words in done[name] if name != "torchrun"), done[name]
    files = {path.name for path in found[name].iterdir() if not path.name.startswith("probe_")}
    assert files == {
        ".hydra",
        "checkpoints",
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "summary.json",
        "train.log",
    }
    assert (found[name] / "train.log").read_text().count("epoch 1/1") == 1
    summary = json.loads((found[name] / "summary.json").read_text())
    assert summary["trainer/devices"] == WORLDS[name]
    assert summary["trainer/examples_per_step"] == 200


@pytest.mark.parametrize("name", WORLDS)
def test_ranks_have_the_same_weights_and_share_the_batches_of_one_process(runs, name):
    _, _, found = runs
    probes = [torch.load(found[name] / f"probe_{rank}.pt") for rank in range(WORLDS[name])]
    for moment in (0, 1):
        assert all(torch.equal(probe["weights"][moment], probes[0]["weights"][moment]) for probe in probes)
    assert not torch.equal(*probes[0]["weights"])
    alone = Digits(Threshold(), batch_size=200).train_dataloader()
    for index, batch in enumerate(alone):
        together = torch.cat([probe["batches"][index] for probe in probes])
        assert rows(together) == rows(batch.x.flatten(1).bool())


def test_libraries_that_record_runs_are_imported_by_their_users_alone(runs):
    assert torch.load(runs[2]["torchrun"] / "probe_0.pt")["libraries"] == []  # of a new interpreter


def rows(images):
    return sorted(map(bytes, images.byte().numpy()))


@pytest.mark.parametrize("name", ["own", "torchrun"])
def test_one_process_finds_the_bound_that_several_summed(runs, name):
    _, _, found = runs
    summary = json.loads((found[name] / "summary.json").read_text())
    done = call(
        "evaluate.py", f"ckpt_path={found[name]}/checkpoints/best.ckpt", "figures.draw=false", "nll.samples=0"
    )
    assert done.status == 0, done.err
    again = json.loads((found[name] / "evaluation.json").read_text())
    for key in ("test/elbo", "test/elbo_stderr", "test/kl", "test/num_examples"):
        assert again[key] == pytest.approx(summary[key], rel=1e-9)


def test_the_trained_bound_is_the_mean_over_ranks(runs):
    """On two and three ranks, the first batch has the same weights and examples: only its draws differ."""
    _, _, found = runs
    first = {}
    for name in WORLDS:
        lines = (found[name] / "metrics.csv").read_text().splitlines()
        row = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
        first[name] = float(row["train/elbo"])
    assert first["own"] == first["srun"]
    assert first["torchrun"] == pytest.approx(
        first["own"], abs=0.5
    )  # near -545; ranks by themselves differ by more


def test_a_rank_that_is_killed_in_training_ends_the_job(tmp_path):
    long = ("trainer=ddp_cpu", "trainer.max_epochs=10000", "hydra.run.dir=run")
    job = start("train.py", *QUICK, *long, home=tmp_path)
    until(lambda: (tmp_path / "run" / "checkpoints" / "last.ckpt").exists())
    second = children(job.pid)[1]
    os.kill(second, signal.SIGKILL)
    done = job.finish()
    assert done.status == 1 and done.err.splitlines() == [
        "error: rank 1 of 2 was killed by SIGKILL, and the job ended with it",
        f"resume: python train.py resume={tmp_path}/run",
    ]


def children(pid):
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [map(int, line.split()) for line in listed.splitlines()]
    return sorted(child for child, parent in pairs if parent == pid)
