"""Overrides of the command line: quoting, and the old names of keys, which work for one more release."""

import re
import sys
from collections.abc import Iterable

_FIGURES = (
    "latents|samples|reconstructions|manifold|usage|layer_kl|frozen_layers|classes|denoising|loss_by_time"
)
# The old keys of train.py by pattern, and their names today. The first pattern that matches the whole key counts.
KEYS: tuple[tuple[str, str], ...] = (
    (r"(?:model\.)?schedule(\..+)?", r"noise_schedule\1"),
    (r"chain\.inference\.(?:noise_)?schedule(\..+)?", r"model.up.noise_schedule\1"),
    (r"chain\.inference\.steps(\..+)?", r"model.up\1"),
    (r"chain\.inference\.((?:encoder|posterior)(?:\..+)?)", r"\1"),
    (r"chain\.transitions\.(denoiser(?:\..+)?)", r"\1"),
    (r"chain\.transitions(\..+)?", r"model.down\1"),
    (r"steps(\..+)?", r"step_size\1"),
    (r"model\.steps(\..+)", r"model.step_size\1"),  # model.steps itself is the number of diffusion steps
    (rf"callbacks\.(?:layers|{_FIGURES})\.every_n_epochs", "figures.every_n_epochs"),
    (r"callbacks\.layers(\..+)?", r"figures.latents_layers\1"),
    (rf"callbacks\.({_FIGURES}|sampling_steps)(\..+)?", r"figures.\1\2"),
)
# The old options of train.py's groups, and the group and option today.
OPTIONS: dict[str, tuple[str, str]] = {
    "logger=csv": ("logger", "none"),
    **{
        f"module={name}": ("module", "gradient")
        for name in ("vae", "hierarchical", "autoencoder", "conditional", "diffusion", "latent_diffusion")
    },
    "callbacks=hierarchy": ("figures", "hierarchy"),
    "callbacks=conditional": ("figures", "conditional"),
    "callbacks=ladder": ("callbacks", "gradient_skip"),
    "callbacks=diffusion": ("callbacks", "ema"),
    "callbacks=latent_diffusion": ("callbacks", "ema"),
    **{
        f"callbacks=classical_{name}": ("callbacks", "classical")
        for name in ("bbvi", "earthquakes", "gamma", "mean_field", "normal_gamma", "ppca")
    },
}
# Old entries that are several today.
DELETED = {"~callbacks.samples": ["~figures.samples", "~figures.sample_means"]}

_OVERRIDE = re.compile(r"(?P<mark>[+~]*)(?P<key>[\w./]+)(?P<package>@[\w.:]*)?(?P<value>=.*)?", re.DOTALL)


def quoted(key: str, value: object) -> str:
    """Return an override with any text as its value."""
    # Hydra keeps a backslash unless a quote follows it.
    text = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), str(value))
    return f"{key}='{text}'"


def rename_old_keys(words: Iterable[str], script: str) -> list[str]:
    """Return a command line under today's names, and print a line on standard error for each old one.

    Args:
        words: the arguments.
        script: "train" or "evaluate".
    """
    today = _todays_training if script == "train" else _todays_evaluation
    found: list[str] = []
    for word in words:
        renamed = today(word)
        if renamed != [word]:
            new = " ".join(renamed)
            print(f"{word}: now called {new}; the old name works until the next release", file=sys.stderr)
        found += [
            each for each in renamed if each == word or each not in found
        ]  # two old keys may be one today
    return found


def todays_name(word: str) -> str:
    """Return an override of train.py under today's names, and other words unchanged."""
    found = _OVERRIDE.fullmatch(word)
    if found is None or not (found["value"] or found["mark"]):
        return word
    key, value = _option(_key(found["key"]), found["value"] or "")
    return f"{found['mark']}{key}{found['package'] or ''}{value}"


def _todays_training(word: str) -> list[str]:
    return DELETED.get(word) or [todays_name(word)]


def _todays_evaluation(word: str) -> list[str]:
    # Hydra would take figures=false for an option of train.py's group `figures`.
    return [re.sub(r"^figures=", "figures.draw=", word)]


def _key(key: str) -> str:
    for old, new in KEYS:
        if match := re.fullmatch(old, key):
            return match.expand(new)
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
