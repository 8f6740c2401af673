"""A job that writes the files of train.py without training: `python fake_job.py what=WORD hydra.run.dir='DIR'`.

It has four epochs. Each adds a row to metrics.csv and writes a checkpoint. `what` selects how the job ends.
"""

import atexit
import builtins
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from pathlib import Path

EPOCHS = 4
DIVERGED = 76  # latentlab.errors.Diverged.status, without the import


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given = dict(word.partition("=")[::2] for word in sys.argv[1:])
    folder = Path(given["hydra.run.dir"].strip("'"))
    what, seed = given.get("what", "fine"), int(given.get("seed", 0))
    first = resumed(given)
    if not (folder / "config.yaml").exists():
        (folder / "config.yaml").write_text(f"what: {what}\nseed: {seed}\n")
    (folder / "wandb_run_id.txt").write_text("abc")
    with (folder / "began").open("a") as file:
        file.write(f"{time.time()} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    (folder / "environment.json").write_text(json.dumps(dict(os.environ)))
    for epoch in range(first, EPOCHS):
        log(folder, epoch, seed)
        if epoch == 1:
            ENDS[what](folder)
        time.sleep(float(given.get("pause", 0)))
        (folder / "checkpoints").mkdir(exist_ok=True)
        save(folder / "checkpoints" / "last.ckpt", epoch)
    (folder / "summary.json").write_text(json.dumps({"test/elbo": -100.0 + seed, "val/elbo": -101.0 + seed}))
    with (folder / "ended").open("a") as file:
        file.write(f"{time.time()}\n")
    if what == "late" and first == 0:
        fail("the server is gone")


def resumed(given: dict[str, str]) -> int:
    last = Path(given["hydra.run.dir"].strip("'")) / "checkpoints" / "last.ckpt"
    if int(os.environ.get("SLURM_RESTART_COUNT", 0)) and last.exists():  # SLURM has queued the job again
        return load(last) + 1
    if "ckpt_path" not in given:
        return 0
    return load(Path(given["ckpt_path"].strip("'"))) + 1


def save(path: Path, epoch: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("epoch", str(epoch))


def load(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return int(archive.read("epoch"))


def log(folder: Path, epoch: int, seed: int) -> None:
    path = folder / "metrics.csv"
    if not path.exists():
        path.write_text("epoch,val/elbo\n")
    with path.open("a") as file:
        file.write(f"{epoch},{-110 + seed + epoch}\n")


def fail(words: str, status: int = 1) -> None:
    print("epoch 2")
    print(f"error: {words}", file=sys.stderr)
    sys.exit(status)


def hang(folder: Path) -> None:
    """Ignore SIGTERM, as a rank in a collective does, and start a child process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(100)"])
    (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(100)


def once(folder: Path) -> None:
    if len((folder / "began").read_text().splitlines()) == 1:
        fail("no luck")


def state(folder: Path) -> None:
    """Write what a job finds in its process, and change all of it."""
    found = {
        "argv": sys.argv[1:],
        "main": sys.modules["__main__"].__file__,
        "path": sys.path[0],
        "place": os.getcwd(),
        "input": sys.stdin.read(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "leads": os.getpgid(0) == os.getpid(),
        "terminal": os.isatty(1),
        "buffers": [sys.stdout.line_buffering, sys.stderr.line_buffering],
        "signals": [
            str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
        ],
        "filters": len(warnings.filters),
        "threads": threading.active_count(),
        "sum": sum(range(10)),
    }
    (folder / "state.json").write_text(json.dumps(found))
    (folder / "draw").write_text(str(random.random()))
    atexit.register((folder / "exit").write_text, "at the end")
    os.chdir(folder)
    os.environ["LATER"] = "1"
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    builtins.sum = lambda numbers: 0


def use_library(folder: Path) -> None:
    """Write into the temporary folders of a library."""
    import fake_library

    for name, place in (("own", fake_library.FOLDER.name), ("shared", fake_library.SHARED)):
        (Path(place) / f"file{os.getpid()}").write_text("")
        (folder / name).write_text(place)


ENDS = {
    "state": state,
    "library": use_library,
    "fine": lambda folder: None,
    "crash": lambda folder: fail("training diverged/x is missing"),
    "once": once,
    "late": lambda folder: None,
    "early": lambda folder: os.kill(os.getpid(), signal.SIGKILL),
    "diverge": lambda folder: fail("the bound is nan at epoch 2", DIVERGED),
    "raise": lambda folder: {}["key"],
    "hang": hang,
    "wait": lambda folder: time.sleep(100),
    "empty": lambda folder: sys.exit(0),
}

if __name__ == "__main__":
    main()
