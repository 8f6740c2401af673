#!/usr/bin/env python3
"""A stand-in for sbatch, squeue, scancel and srun that runs jobs on this machine. It keeps its files beside itself.

A file `refuse` there makes sbatch fail, `silent` makes all fail, and `reason` keeps jobs waiting for that reason.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

HOME = Path(sys.argv[0]).resolve().parent


def sbatch(*words: str) -> None:
    if (HOME / "refuse").exists():
        sys.exit("sbatch: error: Batch job submission failed: " + (HOME / "refuse").read_text())
    options = dict(word.lstrip("-").partition("=")[::2] for word in words[:-1])
    number = len(list(HOME.glob("*.job"))) + 1
    (HOME / f"{number}.job").write_text("\n".join(words))
    if not (HOME / "reason").exists():
        given = {"SLURM_JOB_ID": f"{number}", "SLURM_JOB_NODELIST": "n1"}
        with open(options["output"], "ab") as log:
            job = subprocess.Popen(
                ["bash", words[-1]],
                env={**os.environ, **given},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (HOME / f"{number}.pid").write_text(f"{job.pid}")
    print(number)


def squeue(*words: str) -> None:
    for path in HOME.glob("*.job"):
        reason = HOME / "reason"
        pid = path.with_suffix(".pid")
        if path.with_suffix(".cancelled").exists():
            state = "CANCELLED"
        elif not pid.exists():
            state = "PENDING"
        else:
            state = "RUNNING" if _lives(int(pid.read_text())) else "FAILED"
        why = reason.read_text() if reason.exists() else "None"
        name = next(word for word in path.read_text().splitlines() if word.startswith("--job-name="))
        print(f"{path.stem}|{state}|{why}|{name.partition('=')[2]}")


def scancel(*words: str) -> None:
    number = words[-1]
    if (HOME / "stubborn").exists() and number == "1":
        sys.exit("scancel: error: Kill job error on job id 1: Invalid job id specified")
    soft = words[0].startswith("--signal")
    if not soft:
        (HOME / f"{number}.cancelled").touch()
    pid = HOME / f"{number}.pid"
    if pid.exists():
        group = int(pid.read_text())
        if soft:  # the tasks alone, not the script
            for child in Path(f"/proc/{group}/task/{group}/children").read_text().split():
                os.kill(int(child), signal.SIGTERM)
        else:
            os.killpg(group, signal.SIGKILL)


def srun(*words: str) -> None:
    os.execvp(words[0], words)


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    if (HOME / "silent").exists():
        sys.exit(f"{Path(sys.argv[0]).name}: error: Unable to contact slurm controller (connect failure)")
    {"sbatch": sbatch, "squeue": squeue, "scancel": scancel, "srun": srun}[Path(sys.argv[0]).name](
        *sys.argv[1:]
    )
