"""Overrides of the command line: quoting, and the old names of keys, which work for one more release."""

import re
import shlex
from collections.abc import Iterable

from latentlab.cli.screen import warn
from latentlab.errors import UserError

_FIGURES = (
    "latents|samples|reconstructions|manifold|usage|layer_kl|frozen_layers|classes|denoising|loss_by_time"
)
# The old keys of train.py by pattern, and their names today. The first pattern that matches the whole key counts.
KEYS: tuple[tuple[str, str], ...] = (
    (r"(?:model\.)?schedule(\..+)?", r"noise_schedule\1"),
    (r"least_noise\.\w+", "noise_schedule.gamma_min"),
    (r"(?:chain|model)\.inference\.(?:noise_)?schedule(\..+)?", r"model.up.noise_schedule\1"),
    (r"(?:chain|model)\.inference\.steps(\..+)?", r"model.up\1"),
    (r"(?:chain|model)\.inference\.((?:encoder|posterior)(?:\..+)?)", r"\1"),
    (r"(?:chain|model)\.transitions\.(denoiser(?:\..+)?)", r"\1"),
    (r"(?:chain|model)\.transitions(\..+)?", r"model.down\1"),
    # Two entries of one list today, so that either keeps its default.
    (r"(?:model\.)?steps\.beta1", "step_size.betas.0"),
    (r"(?:model\.)?steps\.beta2", "step_size.betas.1"),
    (r"steps(\..+)?", r"step_size\1"),
    # model.steps itself is the number of diffusion steps.
    (r"model\.steps(\..+)", r"model.step_size\1"),
    (rf"callbacks\.(?:layers|figures|sampling_steps|{_FIGURES})\.every_n_epochs", "figures.every_n_epochs"),
    (r"callbacks\.layers(\..+)?", r"figures.latents_layers\1"),
    (rf"callbacks\.({_FIGURES}|sampling_steps)(\..+)?", r"figures.\1\2"),
    # A run has several loggers today, each with its settings under its name.
    (r"logger\.(project|entity|name|group|tags|notes|job_type|offline|log_model)", r"logger.wandb.\1"),
)
# The flags of Lightning's Trainer that conf/trainer/ leaves out.
LIGHTNING = (
    "max_steps min_steps max_time min_epochs fast_dev_run overfit_batches limit_train_batches limit_val_batches "
    "limit_test_batches val_check_interval gradient_clip_algorithm profiler enable_progress_bar deterministic "
    "benchmark detect_anomaly inference_mode reload_dataloaders_every_n_epochs barebones enable_checkpointing"
)
# The old options of train.py's groups, and the group and option today.
OPTIONS: dict[str, tuple[str, str]] = {
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


def shell_word(key: str, value: object) -> str:
    """Return an override with any text as its value, quoted for a shell."""
    plain = re.fullmatch(r"[\w./+-]+", str(value)) and str(value) not in ("null", "true", "false")
    return shell(f"{key}={value}") if plain else as_text(key, str(value))


def as_text(key: str, value: str) -> str:
    """Return an override whose value is a text in quotes, quoted for a shell."""
    words = [quoted(key, value)] if re.search(r'["\\]', value) else [f'{key}="{value}"', quoted(key, value)]
    return min(map(shell, words), key=len)


def shell(word: str) -> str:
    """Return a word quoted for a shell."""
    if "'" in word and not re.search(r'["$`\\!]', word):
        return f'"{word}"'
    return shlex.quote(word)


def with_null(word: str) -> str:
    """Return an override with Python's None as null, as W&B's agents write it. A quoted None stays a text."""
    key, equals, value = word.partition("=")
    if re.search(r"[\"']", value):
        return word
    return key + equals + re.sub(r"(?<![^=,\[(:\s])None(?![^,\])}\s])", "null", value)


def with_plus(word: str) -> str:
    """Return an override as Hydra needs it for a key that no config lists.

    Such keys are flags of Lightning's Trainer and the options of a data set of torchvision.
    """
    flag = re.match(r"trainer\.(\w+)=", word)
    free = flag[1] in LIGHTNING.split() if flag else re.match(r"data\.options[.=]", word)
    return f"++{word}" if free else word


def rename_old_keys(words: Iterable[str], script: str) -> list[str]:
    """Return a command line under today's names, and print a line on standard error for each old one.

    Args:
        words: the arguments.
        script: "train" or "evaluate".

    Raises:
        UserError: for a sweep over options of one old group that are in two groups today.
    """
    today = _todays_training if script == "train" else _todays_evaluation
    found: list[str] = []
    for word in _without_idle(list(words)):
        renamed = today(word)
        if renamed != [word]:
            new = " ".join(renamed)
            warn(f"{word}: now called {new}; the old name works until the next release")
        # Two old keys may be one today.
        found += [each for each in renamed if each == word or each not in found]
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
    if word == "debug=default":  # it changes the trainer, which evaluate.py does not configure
        return ["debug=traceback"]
    # Hydra would take figures=false for an option of train.py's group `figures`.
    return [re.sub(r"^figures=", "figures.draw=", word)]


def _without_idle(words: list[str]) -> list[str]:
    """Leave out the old keys that had no effect."""
    idle = [word for word in words if re.match(r"model\.latent_dim=", word)]
    if "chain=noised_data" not in words or not idle:
        return words
    for word in idle:
        warn(f"{word}: left out, because it has no effect with chain=noised_data")
    return [word for word in words if word not in idle]


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
    by_group: dict[str, list[str]] = {}
    for name, option in dict.fromkeys(today):
        by_group.setdefault(name, []).append(option)
    new = [f"{name}={','.join(chosen)}" for name, chosen in by_group.items()]
    if len(new) > 1:
        raise UserError(f"{group}{value}: these are options of two groups today: use {' and '.join(new)}")
    name, _, chosen_today = new[0].partition("=")
    return name, f"={chosen_today}"
