"""Directory names made from overrides: `model=vae seed=1` becomes `model-vae_seed-1`.

The names need no quotes in a shell or in an override such as `ckpt_path=multirun/NAME/JOB/checkpoints/best.ckpt`.
A hash at the end distinguishes names that would otherwise be equal.
"""

import hashlib
import re
from collections.abc import Iterable

LIMIT = 100
# Overrides that can be read back from the name. Commas only separate the values of a sweep.
PLAIN = re.compile(r"\+{0,2}[\w./]*\w=[\w.+,-]*", re.ASCII)

OF_HYDRA = re.compile(r"-|[+~]*hydra[./]")


def directory_name(overrides: Iterable[str]) -> str:
    """Return the directory name for overrides in any order, at most LIMIT characters long."""
    parts = sorted(overrides)
    name = "_".join(map(_readable, parts)) or "defaults"
    if len(name) <= LIMIT and all(PLAIN.fullmatch(part) and "/" not in part for part in parts):
        return name
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
    if len(name) > LIMIT:  # max_epochs is clear without trainer.
        name = _cut([_readable(_short(part)) for part in parts], LIMIT - 9)
    return f"{name[9 - LIMIT :].lstrip('-+._')}-{digest}"


def command_name(words: Iterable[str]) -> str:
    """Return the directory name of a sweep from its command line. Hydra's own options are ignored."""
    return directory_name(
        word for word in words if ("=" in word or word[:1] == "~") and not OF_HYDRA.match(word)
    )


def _cut(words: list[str], limit: int) -> str:
    # Drop words at the start: the model and the seed come last.
    while len(words) > 1 and len("_".join(words)) > limit:
        words = words[1:]
    return "_".join(words)


def _readable(override: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", override.replace(",", "+"), flags=re.ASCII).strip("-")


def _short(override: str) -> str:
    key, equals, value = override.partition("=")
    return f"{key.rpartition('.')[2]}{equals}{value}"
