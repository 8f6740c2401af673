"""Overrides of the command line: quoting, and the old names of keys, which work for one more release."""

import re
import sys
from collections.abc import Iterable

# Old keys by pattern, and their names today, for all overrides below them as well. The first that matches counts.
KEYS: tuple[tuple[str, str], ...] = (
    (r"(model\.)?schedule", "noise_schedule"),
    (r"chain\.inference\.schedule", "chain.inference.noise_schedule"),
)
# Old options of a group, and the group and option today.
OPTIONS: dict[str, tuple[str, str]] = {
    "logger=csv": ("logger", "none"),
}

_OVERRIDE = re.compile(r"(?P<mark>[+~]*)(?P<key>[\w./]+)(?P<package>@[\w.:]*)?(?P<value>=.*)?", re.DOTALL)


def quoted(key: str, value: object) -> str:
    """Return an override with any text as its value."""
    # Hydra keeps a backslash unless a quote follows it.
    text = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), str(value))
    return f"{key}='{text}'"


def rename_old_keys(words: Iterable[str]) -> list[str]:
    """Return the words of a command line under today's names, with a line on standard error for each old one."""
    words = list(words)
    renamed = list(map(todays_name, words))
    for old, new in zip(words, renamed, strict=True):
        if old != new:
            print(f"{old}: now called {new}; the old name works until the next release", file=sys.stderr)
    return renamed


def todays_name(word: str) -> str:
    """Return an override under today's names, other words of a command line unchanged."""
    found = _OVERRIDE.fullmatch(word)
    if found is None or not (found["value"] or found["mark"]):
        return word
    key, value = _option(_key(found["key"]), found["value"] or "")
    return f"{found['mark']}{key}{found['package'] or ''}{value}"


def _key(key: str) -> str:
    for old, new in KEYS:
        if match := re.fullmatch(rf"{old}(?P<below>\..+)?", key):
            return match.expand(new) + (match["below"] or "")
    return key


def _option(group: str, value: str) -> tuple[str, str]:
    options = value.removeprefix("=").split(",")
    if not any(f"{group}={option}" in OPTIONS for option in options):
        return group, value
    today = [OPTIONS.get(f"{group}={option}", (group, option)) for option in options]
    groups = {name for name, _ in today}
    if len(groups) > 1:  # a sweep over options that are in two groups today
        return group, value
    return groups.pop(), "=" + ",".join(dict.fromkeys(option for _, option in today))
