"""The objects that a config describes, and the processes of a job on several devices."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from hydra.utils import instantiate

from latentlab.cli.overrides import quoted
from latentlab.processes import devices, ranks


def build(node: Any, **arguments: Any) -> Any:
    """Build the object that a config describes, with further arguments.

    Lists and mappings become Python's own: OmegaConf's types must not end up in a checkpoint.
    """
    return instantiate(node, _convert_="all", **arguments)


def build_each(nodes: Any) -> list[Any]:
    """Build every entry of a group that has a `_target_`.

    An entry without one changes the settings of another entry, which is left out here.
    """
    return [build(node) for node in nodes.values() if node and "_target_" in node]


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
        ranks.run(rank_command(job), number)
    return number > 0


def rank_command(job: Any) -> list[str]:
    """Return the command of a rank: the overrides of this job, in its directory.

    This process's own command line may be that of a whole sweep.
    """
    folders = {source.provider: source.path for source in job.runtime.config_sources}
    conf = Path(folders["main"])
    more = [f"--config-dir={folders['command-line']}"] if "command-line" in folders else []
    of_sweep = re.compile(r"[+~]*hydra[./](mode|run|sweep|launcher)\b")
    own = [override for override in job.overrides.hydra if not of_sweep.match(override)]
    return [
        *(sys.executable, str(conf.parent / "train.py"), f"--config-path={conf}", *more),
        *(f"--config-name={job.job.config_name}", *job.overrides.task, *own),
        *(quoted("hydra.run.dir", job.runtime.output_dir), "hydra.output_subdir=null"),
    ]
