"""Several devices: the same steps and the same bound as on one, one voice, and an end for all when one ends.

The runs in processes of their own are few: all the numbers are read from two, of two and of three ranks.
"""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from commands import QUICK, ROOT, Finished, command, environment, refusal, start
from commands import call as call_here
from omegaconf import OmegaConf
from test_lit import data, module, trainer

from latentlab.callbacks import OwnSignals
from latentlab.cli.compose import rank_command
from latentlab.data import Digits
from latentlab.errors import UserError
from latentlab.lit import GradientModule
from latentlab.nn.compiled import compile_networks, networks
from latentlab.nn.mlp import MLP
from latentlab.objectives import STL, AnalyticELBO
from latentlab.processes import devices, ranks
from latentlab.protocols import Threshold

LAUNCHED = (
    devices.RANK,
    devices.PARENT,
    "TORCHELASTIC_RUN_ID",
    "SLURM_STEP_ID",
    "SLURM_NTASKS",
    "LOCAL_RANK",
)
TWO = {"accelerator": "cpu", "devices": 2, "num_nodes": 1}


@pytest.fixture(autouse=True)
def started_by_hand(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def slurm(rank=0, tasks=2):
    task = {"JOB_ID": "4711", "STEP_ID": "0", "NTASKS": tasks, "NTASKS_PER_NODE": tasks, "NNODES": 1}
    task |= {"PROCID": rank, "LOCALID": rank, "NODEID": 0, "NODELIST": "127.0.0.1", "JOB_NAME": "train"}
    return {f"SLURM_{name}": str(value) for name, value in task.items()}


def torchrun(rank=0, world=2):
    return {"TORCHELASTIC_RUN_ID": "none", "RANK": str(rank), "WORLD_SIZE": str(world)}


# -- How many processes, and what is refused


@pytest.mark.parametrize(
    ("asked", "number"),
    [(1, 1), (3, 3), ("2", 2), ([0, 1], 2), ("0,1,2", 3), ("1,", 1), ("auto", 1), (-1, 1)],
)
def test_the_devices_of_a_cpu_are_counted(asked, number):
    assert devices.devices_per_node({"accelerator": "cpu", "devices": asked}) == number


@pytest.mark.parametrize(("asked", "number"), [(1, 1), (2, 2), ("auto", 4), (-1, 4), ([1, 3], 2)])
def test_the_devices_of_a_machine_with_gpus_are_counted(monkeypatch, asked, number):
    monkeypatch.setattr(devices, "gpus", lambda: 4)
    for accelerator in ("gpu", "cuda", "auto"):
        assert devices.devices_per_node({"accelerator": accelerator, "devices": asked}) == number


def test_processes_are_started_where_no_launcher_has(monkeypatch):
    assert devices.ranks_to_start(TWO, in_sweep=False) == 2
    assert devices.ranks_to_start(TWO | {"devices": 1}, in_sweep=True) == 0
    batch_script = slurm(tasks=2)
    del batch_script["SLURM_STEP_ID"]
    for found in (torchrun(), slurm(), {devices.RANK: "1/2"}):
        with monkeypatch.context() as patch:
            for name, value in found.items():
                patch.setenv(name, value)
            assert devices.ranks_to_start(TWO, in_sweep=False) == 0
    for name, value in batch_script.items():
        monkeypatch.setenv(name, value)
    assert devices.ranks_to_start(TWO, in_sweep=False) == 2


REFUSED = [
    ({"devices": 0}, {}, "trainer.devices=0: at least one"),
    ({"devices": []}, {}, "at least one"),
    ({"devices": "two"}, {}, "trainer.devices=two: give the number"),
    ({"devices": -2}, {}, "trainer.devices=-2: give the number"),
    ({"accelerator": "gpu", "devices": 5}, {}, "trainer.devices=5: torch finds 4 GPUs"),
    ({"num_nodes": 2}, {}, "trainer.num_nodes=2.*srun or torchrun"),
    ({"devices": 3}, torchrun(), "torchrun has started 2 processes.*trainer.devices=3.* is 3"),
    ({"devices": 1}, torchrun(), "torchrun has started 2 processes"),
    ({"devices": 2, "num_nodes": 2}, slurm(), "srun has started 2 processes"),
    ({}, slurm() | {"SLURM_NTASKS_PER_NODE": ""}, "--ntasks-per-node"),
]


@pytest.mark.parametrize(("settings", "found", "words"), REFUSED)
def test_what_cannot_be_started_is_refused(monkeypatch, settings, found, words):
    monkeypatch.setattr(devices, "gpus", lambda: 4)
    for name, value in found.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=words):
        devices.ranks_to_start(TWO | settings, in_sweep=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trainer=ddp"], ["trainer.devices=auto", "no GPU", "trainer=ddp_cpu"]),
        (["trainer.devices=0"], ["trainer.devices=0"]),
        (
            ["hydra.mode=MULTIRUN", "trainer=ddp_cpu", "seed=1,2", "hydra/launcher=basic"],
            ["devices=2", "hydra/launcher"],
        ),
        (["trainer.precision=half"], ["trainer.precision=half", "'32-true'", "'bf16-mixed'"]),
        (["trainer=ddp_cpu", "trainer.num_nodes=2"], ["trainer.num_nodes=2", "torchrun"]),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    line = refusal(call_here("train.py", *QUICK, *arguments))
    assert all(word in line for word in words), line
    assert not list(tmp_path.rglob("config.yaml")) or not list(tmp_path.rglob("checkpoints"))


def test_tasks_of_slurm_with_one_device_each_are_runs_of_their_own(monkeypatch):
    alone = TWO | {"devices": 1}
    for name, value in slurm(rank=1).items():
        monkeypatch.setenv(name, value)
    assert devices.ranks_to_start(alone, in_sweep=False) == 0
    assert (devices.rank(alone), devices.has_peers(alone)) == (0, False)
    assert (devices.rank(TWO), devices.has_peers(TWO)) == (1, True)


def test_tasks_of_slurm_agree_on_a_directory_also_when_they_are_queued_again(monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for rank in (0, 1):
        for name, value in slurm(rank).items():
            monkeypatch.setenv(name, value)
        assert devices.common_start(f"time {rank}") == "slurm-4711.0"


def test_a_rank_runs_the_overrides_of_its_job_alone():
    sources = [SimpleNamespace(provider="main", path="/p/conf"), SimpleNamespace(provider="schema", path="")]
    overrides = SimpleNamespace(
        task=["model=vae", "logger.notes='a, b'"],
        hydra=["hydra.mode=MULTIRUN", "hydra/launcher=x", "hydra.run.dir=y", "hydra.verbose=true"],
    )
    job = SimpleNamespace(
        runtime=SimpleNamespace(config_sources=sources, output_dir="/out/seed=1,model='v'"),
        overrides=overrides,
        job=SimpleNamespace(config_name="train"),
    )
    assert rank_command(job) == [
        *(sys.executable, "/p/train.py", "--config-path=/p/conf", "--config-name=train"),
        *("model=vae", "logger.notes='a, b'", "hydra.verbose=true"),
        *(r"hydra.run.dir='/out/seed=1,model=\'v\''", "hydra.output_subdir=null"),
    ]


# -- The end of one is the end of all

SLEEPS = "import time; time.sleep(60)"
OWN = f"import os; number = int(os.environ['{devices.RANK}'][0])\n"


def failing(code, world=2):
    begun = time.monotonic()
    with pytest.raises((UserError, SystemExit)) as caught:
        ranks.run([sys.executable, "-c", OWN + code], world)
    assert time.monotonic() - begun < 20
    return caught.value


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(ranks, "PATIENCE", 0.3)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_others(quick, rank):
    error = failing(f"import signal\nif number == {rank}: os.kill(os.getpid(), signal.SIGKILL)\n{SLEEPS}")
    assert str(error).startswith(f"rank {rank} of 2 was killed by SIGKILL")


def test_the_rank_that_fails_is_heard(quick, capfd):
    said = failing(f"import sys\nif number == 1: print('noise'); sys.exit('error: it diverged')\n{SLEEPS}")
    assert str(said) == "rank 1 of 2: it diverged"
    raised = failing(
        f"if number == 2: raise ValueError('odd')\nif number == 1: os._exit({ranks.LOST})\n{SLEEPS}", 3
    )
    assert str(raised) == "rank 2 of 3: ValueError: odd"
    assert "Traceback" in capfd.readouterr().err


def test_what_the_first_rank_says_is_not_repeated(quick, capfd):
    ended = failing("import sys; sys.exit('error: mistake')", 3)
    assert isinstance(ended, SystemExit) and ended.code == 1
    assert capfd.readouterr().err == "error: mistake\n"


def test_ranks_that_lost_one_another_say_so(quick):
    error = failing(f"print('error: no network'); os._exit({ranks.LOST})")
    assert str(error) == "the 2 processes of this job lost one another: no network"


def test_ranks_end_with_the_process_that_looks_after_them(tmp_path):
    rank = (
        "import time\nfrom latentlab.processes import ranks\nranks.follow_parent()\n"
        f"open(f'rank{{number}}', 'w')\n{SLEEPS}"
    )
    main = f"import sys\nfrom latentlab.processes import ranks\nranks.run([sys.executable, '-c', {OWN + rank!r}], 2)"
    with subprocess.Popen([sys.executable, "-c", main], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        process.kill()
        begun = time.monotonic()
        assert process.stdout is not None
        process.stdout.read()  # the end of file comes when the last of them has closed it
        assert time.monotonic() - begun < 20


def until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "text", ["[/pytorch/third_party/gloo/pair.cc] Connection closed by peer", "NCCL error"]
)
def test_an_error_of_the_network_is_told_from_ones_own(text):
    assert devices.lost_a_peer(RuntimeError(text))
    assert not devices.lost_a_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not devices.lost_a_peer(UserError(text))


def test_the_handler_of_sigterm_stays_on_several_devices_only():
    before = signal.getsignal(signal.SIGTERM)
    try:
        own = OwnSignals()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Lightning puts its own
        own.on_train_start(SimpleNamespace(world_size=1), None)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        own.on_train_start(SimpleNamespace(world_size=2), None)
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, before)


# -- The same numbers


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_test_bound_is_the_same_on_any_number_of_devices(monkeypatch, world):
    """Ranks one after the other in this process: their sums add up to those of one process."""
    whole = module()
    trainer().test(whole, data(), verbose=False)
    parts = []
    for rank in range(world):
        made, few = module(), data()
        monkeypatch.setattr(type(few), "_rank_world", (rank, world))
        made.trainer = SimpleNamespace(world_size=world, global_rank=rank)
        monkeypatch.setattr(GradientModule, "global_rank", rank)
        with torch.no_grad():
            for index, batch in enumerate(few.test_dataloader()):
                made.test_step(batch, index)
        parts.append(made.tally)
    assert sum(part.count for part in parts) == 110
    total = sum(part.totals.get("elbo", 0.0) for part in parts)
    assert total / 110 == pytest.approx(whole.results["test/elbo"], abs=1e-10)


def test_accumulated_batches_have_the_gradient_of_the_larger_one():
    """A deterministic bound: the objective at the posterior's mean, over 160 examples in batches of 80 and 160."""
    seen = {}
    for size, number in ((160, 1), (80, 2), (40, 4)):
        made = module(objective=Reconstructs())
        made.on_before_optimizer_step = lambda _, made=made, size=size: seen.setdefault(
            size, torch.cat([p.grad.flatten().clone() for p in made.parameters() if p.grad is not None])
        )
        trainer(max_epochs=1, limit_val_batches=0, accumulate_grad_batches=number).fit(
            made, data(batch_size=size)
        )
    assert seen[160].norm() > 1
    for size in (80, 40):
        assert torch.allclose(seen[size], seen[160], rtol=1e-4, atol=1e-4)


class Reconstructs(AnalyticELBO):
    """log p(x|z) at the mean of q(z|x): no draws."""

    def __call__(self, model, x):
        return model.likelihood(model.posterior(x).mean[None]).log_prob(x)[0]


# -- Precision and compilation


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precisions_train_and_score(precision):
    made = module()
    trainer(max_epochs=1, precision=precision, limit_train_batches=2).fit(made, data())
    assert -600 < made.results["val/elbo"] < -300


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # torch's own
@pytest.mark.parametrize("objective", [AnalyticELBO(), STL()])
def test_compiled_networks_keep_their_names_and_numbers(objective):
    plain, compiled = module(objective), module(objective)
    compile_networks(compiled.model, backend="eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert len(list(networks(compiled.model))) == 2
    assert all(isinstance(network, MLP) for network in networks(compiled.model))
    x = torch.bernoulli(torch.full((5, 1, 28, 28), 0.3))
    gradients = []
    for each in (plain, compiled):
        torch.manual_seed(3)
        objective(each.model, x).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in each.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6)
    plain.load_state_dict(compiled.state_dict())


def test_what_cannot_be_compiled_is_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="has no networks"):
        compile_networks(torch.nn.Linear(1, 1))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        compile_networks(module().model)


# -- Real runs

RUN = (*QUICK, "data.batch_size=200", "trainer.log_every_n_steps=1", "+callbacks.probe._target_=probe.Probe")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The directories of runs of two ranks, started by train.py and by srun, and of three by torchrun."""
    home = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "tests"))
        done = {
            "own": [command("train.py", *RUN, "trainer=ddp_cpu", "hydra.run.dir=own", home=home)],
            "torchrun": [torchrun_command(*RUN, "trainer=ddp_cpu", "trainer.devices=3", home=home)],
        }
        tasks = []
        for rank in (0, 1):
            with pytest.MonkeyPatch.context() as task:
                for name, value in slurm(rank).items():
                    task.setenv(name, value)
                tasks.append(start("train.py", *RUN, "trainer=ddp_cpu", home=home))
        done["srun"] = [finished(task) for task in tasks]
    found = {}
    for name, pattern in {"own": "own", "torchrun": "outputs/2*/*", "srun": "outputs/slurm-4711.0_*"}.items():
        assert [each.status for each in done[name]] == [0] * len(done[name]), done[name]
        [found[name]] = home.glob(pattern)  # one directory a run
        config = OmegaConf.load(found[name] / "config.yaml")
        del config.callbacks.probe  # an evaluation builds nothing from elsewhere
        OmegaConf.save(config, found[name] / "config.yaml")
    return home, done, found


def finished(process):
    out, err = process.communicate(timeout=240)
    return Finished(process.returncode, out, err)


def torchrun_command(*arguments, home):
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=3",
        str(ROOT / "train.py"),
        *arguments,
    ]
    done = subprocess.run(words, cwd=home, env=environment(home), capture_output=True, text=True, timeout=240)
    return Finished(done.returncode, done.stdout, done.stderr)


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
    assert files == {".hydra", "checkpoints", "config.yaml", "metrics.csv", "summary.json", "train.log"}
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
    assert torch.load(runs[2]["own"] / "probe_0.pt")["libraries"] == []


def rows(images):
    return sorted(map(bytes, images.byte().numpy()))


@pytest.mark.parametrize("name", ["own", "torchrun"])
def test_one_process_finds_the_bound_that_several_summed(runs, name):
    _, _, found = runs
    summary = json.loads((found[name] / "summary.json").read_text())
    done = call_here(
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
    try:
        until(lambda: (tmp_path / "run" / "checkpoints" / "last.ckpt").exists())
        second = children(job.pid)[1]
        os.kill(second, signal.SIGKILL)
        begun = time.monotonic()
        done = finished(job)
        assert time.monotonic() - begun < 60
    finally:
        job.kill()
    assert refusal(done) == "error: rank 1 of 2 was killed by SIGKILL, and the job ended with it"


def children(pid):
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [map(int, line.split()) for line in listed.splitlines()]
    return sorted(child for child, parent in pairs if parent == pid)
