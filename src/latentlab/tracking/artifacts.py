"""Runs kept elsewhere: artifacts of Weights & Biases, and models of the zoo (`zoo:NAME`).

They are copied into a cache once, and then read like any run directory.
"""

import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import platformdirs

from latentlab import zoo
from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.tracking.wandb_key import MODES, PATIENCE, answers, has_key, own_settings, server

# team/project/model-ID:best. The team and the project may be left out, as W&B has defaults for them.
NAME = re.compile(r"(?:[\w. -]+/){0,2}[\w][\w.-]*:[\w.-]+")
CACHE = "LATENTLAB_CACHE"


def is_artifact(text: str) -> bool:
    """Return True for the name of an artifact or of a model in the zoo that is not a path here."""
    return bool(NAME.fullmatch(text)) and not Path(text).expanduser().exists()


def download(name: str, key: str, folder: str | Path | None = None) -> RunDirectory:
    """Return the run in an artifact, from this machine's cache or else from W&B or the zoo.

    Nothing in it is trusted: it is read as any run of somebody else.

    Args:
        name: the name, such as "team/project/model-ID:best" or "zoo:NAME".
        key: the key under which the user gave it.
        folder: the user's folder of the zoo, by default the one in LATENTLAB_ZOO.

    Raises:
        UserError: offline, without a key, or if W&B has no such artifact with a checkpoint and its config, or if the
            zoo has no such model.
    """
    if name.startswith(zoo.PREFIX):
        return zoo.copied(name.removeprefix(zoo.PREFIX), key, _cache() / "zoo", folder)
    _check_online(name, key)
    try:
        artifact = _artifact(name)
        # A version never changes, in contrast to an alias such as `best`.
        version = "_".join((artifact.entity, artifact.project, artifact.name))
        run = RunDirectory(_cache() / "artifacts" / re.sub(r"[^\w.-]", "_", version))
        if not run.config.exists():
            _fill(run, artifact)
    except UserError:
        raise
    except Exception as error:  # W&B raises errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{key}={name}: there is no such file here, and W&B gives no such artifact ({reason})"
        ) from error
    return run


def copy(name: str, key: str, directory: Path) -> RunDirectory:
    """Copy the run in an artifact into a new directory, where it can be resumed.

    Raises:
        UserError: for a model of the zoo, if the directory is there already, or for the reasons of `download`.
    """
    if name.startswith(zoo.PREFIX):
        raise UserError(
            f"{key}={name}: a model of the zoo has no state of a training to resume: start a new run"
        )
    if directory.exists():
        raise UserError(
            f"{key}={name}: {directory} is there already: {key}={directory} takes that run, and hydra.run.dir=DIR "
            "another place"
        )
    shutil.copytree(download(name, key).path, directory)
    return RunDirectory(directory)


def _check_online(name: str, key: str) -> None:
    what = f"{key}={name}: there is no such file here, and an artifact of W&B"
    remedy = f"or download it elsewhere (`wandb artifact get {name}`), and give {key}=DIR"
    if MODES.get(os.environ.get("WANDB_MODE", ""), "online") != "online":
        raise UserError(f"{what} needs a connection: unset WANDB_MODE={os.environ['WANDB_MODE']}, {remedy}")
    if not has_key():
        raise UserError(f"{what} needs an API key: run `wandb login` or set WANDB_API_KEY, {remedy}")
    if not answers():
        raise UserError(f"{what} needs its server {server()}, which does not answer: try again, {remedy}")


def _artifact(name: str) -> Any:
    import wandb  # late, as it is slow to import

    with own_settings():
        return wandb.Api({"base_url": server()}, timeout=PATIENCE).artifact(name, type="model")


def _fill(run: RunDirectory, artifact: Any) -> None:
    # Only the files that a run needs, and those of a model in the zoo. The directory appears as a whole.
    names = [str(file.relative_to(run.path)) for file in (*zoo.files(run), *zoo.extra(run))]
    held = [each for each in names if each in artifact.manifest.entries]
    needed = [str(file.relative_to(run.path)) for file in (run.config, run.best_checkpoint)]
    if missing := [each for each in needed if each not in held]:
        raise UserError(
            f"{artifact.name} holds no {' and no '.join(missing)}: it was not kept by logger.wandb.log_model=best"
        )
    run.path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=run.path.parent) as draft:
        whole = Path(draft, "run")
        whole.mkdir()
        for each in held:
            artifact.get_entry(each).download(root=str(whole))
        if not run.path.exists():
            whole.rename(run.path)


def _cache() -> Path:
    chosen = os.environ.get(CACHE) or platformdirs.user_cache_path("latentlab")
    return Path(chosen).expanduser()
