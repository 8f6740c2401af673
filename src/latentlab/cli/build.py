"""The objects that a config describes, and the processes of a job on several devices."""

import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf

from latentlab.cli.overrides import quoted
from latentlab.cli.script import config_folders, config_name, new_process
from latentlab.errors import UserError
from latentlab.processes import devices, ranks
from latentlab.run.trust import SPECIAL, Trusted, check_names, locate

log = logging.getLogger(__name__)

DATA_ROOT = "data"  # the default in conf/data/


def build(node: Any, **arguments: Any) -> Any:
    """Build the object that the user's own config describes, with further arguments.

    A config that was read from a run is built by `build_saved` instead.
    Lists and mappings become Python's own: OmegaConf's types must not end up in a checkpoint.
    """
    from latentlab.cli.memory import within_memory  # late, because it imports Lightning

    with within_memory(node):
        return instantiate(node, _convert_="all", **arguments)


def name_of_data(option: str, data: Any) -> str:
    """Return the full name of the images that a config describes, such as `binarised_fashionmnist`.

    Observations of a classical model are named after their option. So are data with a mistake, which is refused later.

    Args:
        option: the option of the group `data`.
        data: the config of the data.
    """
    from latentlab.data import ImageData  # late, because it imports Lightning

    try:
        node: Any = OmegaConf.to_container(data, resolve=True)
        kind = locate(node["_target_"], "data")  # Hydra would log a class that is missing
        images = isinstance(kind, type) and issubclass(kind, ImageData)
        return instantiate(node, _convert_="all").full_name if images else option
    except Exception:  # the config is not checked yet
        return option


def trusted(modules: str | Iterable[str] = ()) -> Trusted:
    """Return the targets that a saved config may name in this command.

    These are the targets in the config folders of the command, the listed classes of libraries, and the modules that
    the user trusts.

    Args:
        modules: modules trusted on the command line, besides those of LATENTLAB_TRUST.
    """
    return Trusted.of(config_folders(), [modules] if isinstance(modules, str) else modules)


def build_saved(node: Any, where: str, trusted: Trusted, kind: type = object, **arguments: Any) -> Any:
    """Build the object that a saved config describes, from plain data.

    Every `_target_` is looked up among the trusted ones right before it is called. Hydra's `instantiate` never sees a
    saved config, because it resolves interpolations and imports every name.

    Args:
        node: a part of the config, a mapping with a `_target_`.
        where: its dotted key, such as `module`.
        trusted: the targets that it may name.
        kind: the class that the object must have.
        arguments: further arguments, which replace those of the config.

    Raises:
        UserError: for a target that is not trusted, arguments that do not fit it, or an object of another class.
    """
    found = _built(node, where, trusted, arguments)
    if not isinstance(found, kind):
        raise UserError(f"{where}: this is {type(found).__name__}, where {kind.__name__} is needed")
    return found


def _built(node: Any, where: str, trusted: Trusted, replaced: Mapping[str, Any]) -> Any:
    if isinstance(node, list | tuple):
        return [_built(each, f"{where}[{index}]", trusted, {}) for index, each in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    check_names(node, where)
    arguments = {
        key: _built(value, f"{where}.{key}", trusted, {})
        for key, value in node.items()
        if key not in (*SPECIAL, *replaced)
    }
    if node.get("_target_") is None:
        return arguments
    target = trusted.find(node["_target_"], where)
    return _called(partial(target, **arguments, **replaced), where, bool(node.get("_partial_")))


def _called(call: "partial[Any]", where: str, later: bool) -> Any:
    try:
        return call if later else call()
    except UserError:
        raise
    except Exception as error:  # the arguments may be anything
        reason = " ".join(str(error).split())
        raise UserError(
            f"{where}: {call.func.__name__} cannot be built from this config ({reason})"
        ) from error


def check_places(data: Mapping[str, Any], given: Collection[str]) -> None:
    """Refuse a saved place of data that does not exist, and report a saved path, which may be anywhere.

    Args:
        data: the group `data` of a saved config.
        given: the keys of it that the command gives.

    Raises:
        UserError: if a place is missing, and not the default.
    """
    root, path = data.get("root", DATA_ROOT), data.get("path")
    if path is not None and "path" not in given:
        if not Path(path).expanduser().exists():
            raise UserError(f"data.path={path}: the images of the run are not there: give data.path=PATH")
        log.info("images: %s (from the config of the run; data.path=PATH gives another place)", path)
    if "root" not in given and root != DATA_ROOT and not Path(root).expanduser().is_dir():
        raise UserError(
            f"data.root={root}: there is no such folder, and a saved config creates none: give data.root=DIR, "
            "or set LATENTLAB_DATA"
        )


def start_ranks(job: Any, trainer: Mapping[str, Any]) -> bool:
    """Run the job in one process for each device if it has several, and return True if it did.

    Args:
        job: Hydra's own config of the job.
        trainer: the trainer's config.

    Raises:
        UserError: if devices are missing, or a process failed.
    """
    in_sweep = job.mode == RunMode.MULTIRUN and job.launcher._target_.endswith(".BasicLauncher")
    number = devices.ranks_to_start(trainer, in_sweep)
    if number:
        os.chdir(job.runtime.cwd)  # hydra.job.chdir=true has left it
        ranks.run(rank_command(job), number)
    return number > 0


def rank_command(job: Any) -> list[str]:
    """Return the command of a rank: the overrides of this job, in its directory.

    This process's own command line may be that of a whole sweep.
    """
    folders = {source.provider: source.path for source in job.runtime.config_sources}
    more = [f"--config-dir={folders['command-line']}"] if "command-line" in folders else []
    of_sweep = re.compile(r"[+~]*hydra[./](mode|run|sweep|launcher)\b")
    own = [override for override in job.overrides.hydra if not of_sweep.match(override)]
    return [
        *(*new_process(config_name()), f"--config-path={folders['main']}", *more),
        *(f"--config-name={job.job.config_name}", *job.overrides.task, *own),
        *(quoted("hydra.run.dir", job.runtime.output_dir), "hydra.output_subdir=null"),
    ]
