"""The ranks of a job: each gets the job's overrides, and all end when one ends."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from commands import ROOT
from launchers import until

from latentlab.cli.build import rank_command
from latentlab.errors import UserError
from latentlab.processes import devices, ranks


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
        *(sys.executable, str(ROOT / "train.py"), "--config-path=/p/conf", "--config-name=train"),
        *("model=vae", "logger.notes='a, b'", "hydra.verbose=true"),
        *(r"hydra.run.dir='/out/seed=1,model=\'v\''", "hydra.output_subdir=null"),
    ]


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


def test_messages_of_the_first_rank_are_not_repeated(quick, capfd):
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


@pytest.mark.parametrize(
    "text", ["[/pytorch/third_party/gloo/pair.cc] Connection closed by peer", "NCCL error"]
)
def test_errors_of_the_network_are_recognised(text):
    assert devices.lost_a_peer(RuntimeError(text))
    assert not devices.lost_a_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not devices.lost_a_peer(UserError(text))
