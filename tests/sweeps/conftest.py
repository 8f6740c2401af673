"""The stand-in for train.py, for all tests of sweeps."""

import shutil
from pathlib import Path

import pytest
from commands import ROOT

HERE = Path(__file__).parent
CONFIG = """
defaults:
  - _self_
  - override hydra/launcher: jobs
  - override hydra/hydra_logging: none
  - override hydra/job_logging: none
what: fine
seed: 0
pause: 0
ckpt_path: null
hydra:
  sweep:
    dir: multirun/${sweep_name:}
    subdir: ${job_name:${hydra.overrides.task}}
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Copy fake_app.py and make a small conf/ with the real launcher and sweeper options."""
    place = tmp_path / "app"
    for group in ("launcher", "sweeper"):
        shutil.copytree(ROOT / "conf" / "hydra" / group, place / "conf" / "hydra" / group)
    jobs = place / "conf" / "hydra" / "launcher" / "jobs.yaml"
    # The modules of a real job take seconds to import.
    jobs.write_text(jobs.read_text().replace("start: null", "start: spawn"))
    (place / "conf" / "train.yaml").write_text(CONFIG)
    for name in ("fake_app.py", "fake_job.py"):
        shutil.copy(HERE / name, place)
    return place / "fake_app.py"
