"""Runs from an attacker: `python tests/faults/hostile.py [WORD ...]` tries those with a word in their name, or all."""

import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hostile_checkpoints
import hostile_configs
import hostile_files
import numpy as np
from canary import CODE, GOOD, OWNED, Spoil
from forks import Ended, forked
from hostile_checkpoints import Call

CASES = hostile_configs.CASES | hostile_checkpoints.CASES | hostile_files.CASES


def evil(run: Path) -> None:
    """Add files that execute something when they are read carelessly."""
    (run / "evil.py").write_text(f"{CODE}\nclass Evil: pass\n")
    (run / "hubconf.py").write_text(f"def evil(): {CODE}\n")
    (run / "evil.pkl").write_bytes(pickle.dumps(Call(os.system, f"touch {OWNED}")))
    np.save(run / "evil.npy", np.array([Call(os.system, f"touch {OWNED}")]), allow_pickle=True)


@dataclass(frozen=True)
class Attack:
    """The result of a command on a hostile run.

    Attributes:
        ended: the command's end.
        executed: the files that it should not have written.
    """

    ended: Ended
    executed: list[str]

    @property
    def explained(self) -> bool:
        """True if there is one line of an error at most, and no traceback."""
        lines = [line for line in self.ended.err.splitlines() if not line.startswith("resume: ")]
        return (self.ended.status == 0 or len(lines) == 1) and "Traceback" not in self.ended.err

    @property
    def survived(self) -> bool:
        """True if nothing was executed, and the run was refused with one line or was harmless."""
        return not self.executed and self.explained and self.ended.status in (0, 1)


COMMANDS: dict[str, tuple[str, ...]] = {
    "evaluate": ("evaluate.py", "run={run}", "nll.samples=2"),
    "resume": ("train.py", "resume={run}", "trainer.max_epochs=3"),
    "pretrained": (
        *("train.py", "model=latent_vdm", "data=binarised_digits", "logger=none", "callbacks=none"),
        *("encoder.hidden=[4]", "decoder.hidden=[4]", "model.latent_dim=2", "denoiser.embedding=8"),
        *("trainer.max_epochs=1", "model.eval_steps=[]", "hydra.run.dir={home}/new"),
        "model.pretrained={run}/checkpoints/best.ckpt",
    ),
}


def attack(spoil: Spoil, command: Iterable[str], home: Path) -> Attack:
    """Spoil a copy of the good run in the empty folder `home`, and run a command on it."""
    run = home / "run"
    shutil.copytree(GOOD, run)
    evil(run)
    spoil(run)
    known = {"run", "new", ".cache", ".config", ".netrc"}
    words = [word.format(run=run, home=home) for word in command]
    ended = forked(*words, home=home, timeout=60, memory=4000)
    found = [str(path) for path in home.rglob("*") if path.name.startswith(OWNED)]
    return Attack(ended, found + [path.name for path in home.iterdir() if path.name not in known])


def tried(kind: str, names: Iterable[str]) -> dict[str, Attack]:
    """Run a command of COMMANDS on some cases, print those that did not survive, and return all results."""
    results = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            results[f"{kind}: {name}"] = found = attack(CASES[name], COMMANDS[kind], Path(folder))
        if not found.survived:
            print(
                f"{kind}: {name}: status {found.ended.status}, {found.executed}, {found.ended.err[-300:]!r}",
                flush=True,
            )
    return results


def summary(results: Mapping[str, Attack]) -> str:
    """Count the results."""
    longest = max(results, key=lambda name: results[name].ended.seconds)
    largest = max(results, key=lambda name: results[name].ended.peak_mb)
    each = results.values()
    return (
        f"{len(results)} hostile files: executed {sum(bool(one.executed) for one in each)}, "
        f"tracebacks {sum(not one.explained for one in each)}, "
        f"refused {sum(one.ended.status == 1 for one in each)}, harmless {sum(one.ended.status == 0 for one in each)}, "
        f"most memory {results[largest].ended.peak_mb:.0f} MB ({largest}), "
        f"longest time {results[longest].ended.seconds:.1f} s ({longest})"
    )


def main(words: Sequence[str]) -> None:
    """Run every command on all cases, or on those with one of the words in their name."""
    for kind in COMMANDS:
        names = [name for name in CASES if not words or any(word in name for word in words)]
        print(summary(tried(kind, names)))


if __name__ == "__main__":
    main(sys.argv[1:])
