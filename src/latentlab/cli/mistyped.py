"""Words that Hydra cannot read, and names that other programs use, each with the word to type instead."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from latentlab.cli.overrides import as_text, quoted, shell, shell_word
from latentlab.cli.paths import PATHS
from latentlab.cli.script import config_name, group_options, groups_with
from latentlab.errors import UserError, did_you_mean

# The names of other programs, and the settings here.
ELSEWHERE = {
    **dict.fromkeys(
        ("epochs", "epoch", "n_epochs", "num_epochs", "nepochs", "max_epoch"), "trainer.max_epochs"
    ),
    **dict.fromkeys(("lr", "learning_rate", "rate", "alpha"), "optimizer.lr"),
    **dict.fromkeys(("wd", "weight_decay", "decay"), "optimizer.weight_decay"),
    **dict.fromkeys(("batch_size", "bs", "batch", "train_batch_size"), "data.batch_size"),
    **dict.fromkeys(("eval_batch_size", "test_batch_size", "val_batch_size"), "data.eval_batch_size"),
    **dict.fromkeys(
        ("latent_dim", "latent_size", "latent", "z_dim", "zdim", "nz", "latents"), "model.latent_dim"
    ),
    **dict.fromkeys(("hidden", "hidden_dim", "hidden_size", "width", "n_hidden", "h_dim"), "encoder.hidden"),
    **dict.fromkeys(("beta", "kl_weight", "beta_vae"), "objective.beta"),
    **dict.fromkeys(("k", "samples", "n_samples", "num_samples", "importance_samples"), "objective.samples"),
    **dict.fromkeys(("dataset", "data_set", "data_name"), "data"),
    **dict.fromkeys(("root", "data_dir", "data_path", "data_root", "datadir"), "data.root"),
    **dict.fromkeys(("val_size", "val_split", "validation_split"), "data.val_size"),
    **dict.fromkeys(
        ("out", "output", "outdir", "save_dir", "log_dir", "logdir", "run_dir", "dir"), "hydra.run.dir"
    ),
    **dict.fromkeys(("checkpoint", "ckpt", "load", "weights", "model_path", "resume_from"), "ckpt_path"),
    **dict.fromkeys(("random_seed", "manual_seed", "rng_seed"), "seed"),
    **dict.fromkeys(("devices", "n_gpu", "num_gpus", "ngpus"), "trainer.devices"),
    **dict.fromkeys(("gpu", "gpus", "cuda", "device", "use_cuda", "accelerator"), "trainer=gpu"),
    **dict.fromkeys(
        ("grad_clip", "clip", "clip_grad", "max_grad_norm", "gradient_clip"), "trainer.gradient_clip_val"
    ),
    **dict.fromkeys(("fp16", "bf16", "amp", "precision", "mixed_precision"), "trainer.precision"),
    **dict.fromkeys(("patience", "early_stopping", "early_stop"), "callbacks=early_stopping"),
    **dict.fromkeys(("arch", "architecture", "net", "network"), "model"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("lr_scheduler", "lr_schedule", "sched"), "scheduler"),
    **dict.fromkeys(("loss", "bound", "estimator"), "objective"),
    **dict.fromkeys(("wandb", "use_wandb", "log"), "logger=wandb"),
    **dict.fromkeys(("no_wandb", "nolog", "no_log"), "logger=none"),
    **dict.fromkeys(("project", "wandb_project"), "logger.wandb.project"),
    **dict.fromkeys(("name", "run_name", "exp_name"), "logger.wandb.name"),
    **dict.fromkeys(("n_trials", "trials"), "hydra.sweeper.n_trials"),
    **dict.fromkeys(("jobs", "n_jobs"), "hydra.launcher.n_jobs"),
    **dict.fromkeys(("sweep_dir",), "hydra.sweep.dir"),
    **dict.fromkeys(("config", "exp"), "experiment"),
    **dict.fromkeys(("components", "num_components", "n_components"), "prior.num_components"),
}
# Keys of train.py and evaluate.py that the other script has under another name.
OTHER_SCRIPT = {"run": "resume", "resume": "run"}
# Characters that text editors and slides put in place of plain ones.
TYPESET = str.maketrans(
    dict.fromkeys("“”„‟«»", '"')
    | dict.fromkeys("‘’‚`´", "'")
    | dict.fromkeys("–—−‐‑", "-")
    | {"\u00a0": " ", "\u200b": "", "\ufeff": "", "＝": "=", "，": ",", "…": "..."}
)
_FORM = "a setting has the form key=value"
_SEVERAL = re.compile(r"[;,\s]+(?=[\w.]+=)")
_CALL = re.compile(r"(\w+)\(.*")
_CALLS = "choice(a,b), range(1,10), interval(0,1) and glob(*) are the calls of a sweep"


def read(word: str, before: str = "", after: Sequence[str] = ()) -> Override:
    """Return an override as Hydra reads it.

    Args:
        word: the override.
        before: the word before it.
        after: the words after it.

    Raises:
        UserError: if Hydra cannot read it, with the word to type instead.
    """
    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, ValueError, RecursionError) as error:
        raise UserError(unreadable(word, before, after)) from error


def unreadable(word: str, before: str = "", after: Sequence[str] = ()) -> str:
    """Explain a word that Hydra cannot read, between the word before it and those after it."""
    plain = _plain(word)
    if plain != word:
        return f"{word!r} has a character of a text editor: type {shell(plain)}"
    key, equals, value = word.partition("=")
    if not equals:
        return _without_value(word, before, after)
    if len(settings := _SEVERAL.split(word)) > 1:
        return f"{word}: these are several settings: type {' '.join(map(shell, settings))}"
    tidy = f"{key.strip()}={value.strip().lstrip('=')}".rstrip(",")
    if tidy != word and _is_readable(tidy):
        return f"{word!r} has a space, comma or = too many: type {shell(tidy)}"
    return f"{word}: {_value_remedy(key, value)}"


def dashed(word: str, after: Sequence[str], known: Sequence[str]) -> str:
    """Explain an option that Hydra does not have, such as `--epochs 10`."""
    key, equals, value = word.lstrip("-").partition("=")
    if not equals and after and not re.search(r"=|^-", after[0]):
        value = after[0]
    name = key.replace("-", "_")
    target = ELSEWHERE.get(name.lower(), name)
    if "=" not in target:
        target = f"{target}={value or '...'}"
    is_setting = name.lower() in ELSEWHERE or "." in name or group_options(name)
    close = "" if is_setting else "".join(get_close_matches(word.partition("=")[0], known, n=1, cutoff=0.75))
    remedy = f"did you mean {close}?" if close else f"settings have no dashes: type {shell(target)}"
    return f"{word}: no such option; {remedy}"


def suggestion(key: str, known: Sequence[str]) -> str:
    """Return "; did you mean X?" for the key that is probably meant, "" if none is close."""
    meant = ELSEWHERE.get(key.lower(), OTHER_SCRIPT.get(key))
    if meant and meant.partition("=")[0] in known:
        return f"; did you mean {meant}?"
    known = [each for each in known if key.startswith("hydra") or not each.startswith("hydra.")]
    last = [each for each in known if each.rpartition(".")[2] == key.lower()]
    return f"; did you mean {last[0]}?" if last else did_you_mean(key, known)


def _plain(word: str) -> str:
    plain = word.translate(TYPESET)
    # Editors join the two dashes of a long option.
    return f"-{plain}" if plain != word and re.match(r"-\w{2}", plain) else plain


def _without_value(word: str, before: str, after: Sequence[str]) -> str:
    if before.endswith("="):
        return f"{before!r} and its value are apart: type {shell(before + word)}"
    if after and (found := re.fullmatch(r"=(.*)", after[0])):
        value = found[1] or (after[1] if len(after) > 1 else "...")
        return f"{word!r} and its value are apart: type {shell(f'{word}={value}')}"
    if found := re.fullmatch(r"([\w./]+)(?:\s*:\s*|\s+)(\S+)", word):
        return f"{word!r}: {_FORM}: type {shell(f'{found[1]}={found[2]}')}"
    if word in PATHS and after and "=" not in after[0]:
        return f"{word!r} and its value are apart: type {shell_word(word, after[0])}"
    if (Path(word) / "config.yaml").is_file():
        run = "run" if config_name() == "evaluate" else "resume"
        return f"{word!r}: {_FORM}: type {shell_word(run, word)}"
    if word.endswith(".ckpt"):
        return f"{word!r}: {_FORM}: type {as_text('ckpt_path', word)}"
    meant = [f"{group}={word}" for group in groups_with(word.lower())] if word.isidentifier() else []
    if options := group_options(word):
        meant = [f"{word}={options[0]}"]
    return f"{word!r}: {_FORM}{f': did you mean {meant[0]}?' if meant else ''}"


def _value_remedy(key: str, value: str) -> str:
    if value[:1] in tuple("[{"):
        return "this is no list [a,b] and no mapping {a:1,b:2}: check the brackets and commas"
    if value.isdigit():
        return "the number is too long"
    if re.match(r"['\"]", value):
        return f"a quote is not closed, or is in the wrong place: type {as_text(key, value.strip(value[0]))}"
    if (call := _CALL.fullmatch(value)) and "/" not in value:
        return f"{call[1]}(...) cannot be read: {_CALLS}; as text: {as_text(key, value)}"
    text = as_text(key, value)
    if _is_readable(quoted(key, value)):
        return f"quote the value: type {text}"
    return f"Hydra cannot read the value: {_FORM} (--help shows examples)"


def _is_readable(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except (HydraException, ValueError, RecursionError):
        return False
    return True
