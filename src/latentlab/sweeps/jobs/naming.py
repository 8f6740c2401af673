"""Directories named after overrides: model=vae seed=1 becomes model-vae_seed-1.

The names need no quotes in a shell, nor in an override such as `ckpt_path=multirun/NAME/JOB/checkpoints/best.ckpt`,
whose value may hold no `=`, comma or bracket. What cannot be told from such a name is in a hash at its end.
"""

import hashlib
import re
from collections.abc import Iterable

LIMIT = 100
# An override that its name tells whole; a comma only stands between the values of a sweep.
PLAIN = re.compile(r"\+{0,2}[\w./]*\w=[\w.+,-]*", re.ASCII)

OF_HYDRA = re.compile(r"-|[+~]*hydra[./]")


def directory_name(overrides: Iterable[str]) -> str:
    """The name of a sweep or a job with these overrides, whatever their order; at most LIMIT characters."""
    parts = sorted(overrides)
    name = "_".join(map(_readable, parts)) or "defaults"
    if len(name) <= LIMIT and all(PLAIN.fullmatch(part) and "/" not in part for part in parts):
        return name
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
    if len(name) > LIMIT:  # trainer.max_epochs is well known as max_epochs
        name = _cut([_readable(_short(part)) for part in parts], LIMIT - 9)
    return f"{name[9 - LIMIT :].lstrip('-+._')}-{digest}"


def command_name(words: Iterable[str]) -> str:
    """The name of a sweep, by the words of its command line; what is about Hydra does not count."""
    return directory_name(
        word for word in words if ("=" in word or word[:1] == "~") and not OF_HYDRA.match(word)
    )


def _cut(words: list[str], limit: int) -> str:
    # From the start: model and seed are nearer to the end.
    while len(words) > 1 and len("_".join(words)) > limit:
        words = words[1:]
    return "_".join(words)


def _readable(override: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", override.replace(",", "+"), flags=re.ASCII).strip("-")


def _short(override: str) -> str:
    key, equals, value = override.partition("=")
    return f"{key.rpartition('.')[2]}{equals}{value}"
