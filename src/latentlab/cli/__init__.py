"""The edge of the command line: a user's mistake ends in one line and an exit status that is not 0."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ContextDecorator
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from latentlab.cli.checks import did_you_mean
from latentlab.errors import UserError
from latentlab.processes import places as devices
from latentlab.processes import ranks
from latentlab.sweeps.jobs.naming import quoted

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)


class one_line_errors(ContextDecorator):
    """Turns a user's mistake into one line on standard error and exit status 1; `debug=...` shows the traceback.

    It holds nothing, so that what it decorates can be sent to another process, as launchers for clusters do.
    """

    def __enter__(self) -> None:
        """Nothing is prepared."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """End with the line, or let the error pass."""
        if error is None or not isinstance(error, (*_mistakes(), RuntimeError)):
            return
        debugs = any(argument.startswith("debug=") for argument in sys.argv[1:])
        if debugs and not isinstance(error, MissingConfigException):
            return
        if devices.lost_a_peer(error) and (here := devices.place()):
            _leave(here, error)
        if isinstance(error, _mistakes()):
            sys.exit(f"error: {explain(error)}")


def run(main: Callable[[], None], config_name: str) -> None:
    """Run a `hydra.main` function; mistakes that Hydra finds itself are explained too.

    SIGTERM ends the run as an exception would, so that it is closed as failed, with exit status 143; Ctrl-C with 130.

    Args:
        main: the decorated function.
        config_name: the primary config, whose keys are suggested for a mistyped one.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing, so that `explain` sees the error
    explain.config_name = config_name  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, terminate)
    ranks.follow_parent()
    with one_line_errors():
        try:
            main()
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except ValueError as error:
            if "Config group override" not in str(error):
                raise
            raise UserError(_unknown_option()) from error


def build(node: Any, **arguments: Any) -> Any:
    """Build what a config describes, with further arguments.

    Its lists and mappings become Python's own, for what OmegaConf makes of them must not end up in a checkpoint.
    """
    return instantiate(node, _convert_="all", **arguments)


def build_each(nodes: Any) -> list[Any]:
    """Build every entry of a group; one without a class, which tunes an entry that is left out, is passed over."""
    return [build(node) for node in nodes.values() if node and "_target_" in node]


def start_ranks(job: Any, trainer: Mapping[str, Any]) -> bool:
    """Train in processes of their own, if there are several devices; whether that is done.

    Each runs the job's overrides alone, in the job's directory: nothing else of this process's command line, which
    may be that of a whole sweep.

    Args:
        job: Hydra's own config of the job.
        trainer: the trainer's config.

    Raises:
        UserError: for devices that there are not, or when one of the processes fails.
    """
    in_sweep = job.mode == RunMode.MULTIRUN and job.launcher._target_.endswith(".BasicLauncher")
    number = devices.ranks_to_start(trainer, in_sweep)
    if number:
        ranks.run(_again(job), number)
    return number > 0


def _again(job: Any) -> list[str]:
    folders = {source.provider: source.path for source in job.runtime.config_sources}
    conf = Path(folders["main"])
    more = [f"--config-dir={folders['command-line']}"] if "command-line" in folders else []
    whole = re.compile(r"[+~]*hydra[./](mode|run|sweep|launcher)\b")  # what Hydra is to do with the job
    own = [override for override in job.overrides.hydra if not whole.match(override)]
    return [
        *(sys.executable, str(conf.parent / "train.py"), f"--config-path={conf}", *more),
        *(f"--config-name={job.job.config_name}", *job.overrides.task, *own),
        *(quoted("hydra.run.dir", job.runtime.output_dir), "hydra.output_subdir=null"),
    ]


def _run_name(now: str, trainer: Any) -> str:
    """What the run directory's name begins with: the time, or what all processes that a launcher started agree on."""
    return devices.common_start(now) if devices.has_peers(trainer) else now


OmegaConf.register_new_resolver("run_name", _run_name, replace=True)


def terminate(signum: int, frame: Any) -> None:
    """Raise what ends the run in order, with the status of a process that a signal ended."""
    signal.signal(signum, signal.SIG_IGN)  # what follows is not cut short by another one
    sys.exit(128 + signum)


def _leave(here: devices.Place, error: BaseException) -> NoReturn:
    # What looks after the ranks knows which one was lost; the first leaves the word to it.
    if here.rank or os.environ.get(devices.PARENT) is None:
        reason = " ".join(str(error).split())
        print(f"error: rank {here.rank} lost another process of its job ({reason})", file=sys.stderr)
    sys.exit(ranks.LOST)


def _mistakes() -> tuple[type[BaseException], ...]:
    # Lightning's own complaints, where it is loaded: importing it takes seconds.
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    return (*MISTAKES, *([lightning.MisconfigurationException] if lightning else []))


def explain(error: BaseException) -> str:
    """One line that names what is wrong and the way out."""
    for kind, words in EXPLANATIONS.items():
        if isinstance(error, kind):
            return " ".join(words(error).split())
    return " ".join(str(error).split())


def _missing_option(error: Any) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = error.options or []
    return (
        f"{group}={option}: no such option{did_you_mean(option, options)} ({group} has {', '.join(options)})"
    )


def _unknown_option() -> str:
    # Hydra stumbles over model=3 or model=null, which are no words.
    for argument in sys.argv[1:]:
        group, _, option = argument.partition("=")
        options = sorted(path.stem for path in (_folder() / group).glob("*.yaml"))
        if group and options and option not in options:
            return f"{argument}: no such option ({group} has {', '.join(options)})"
    return "a group takes the name of one of its options (--help lists them)"


def _composition(error: Any) -> str:
    found = re.search(r"Could not override '([^'@]+)", str(error))
    if found is None:
        return str(error)
    key = found.group(1)
    known = _known_keys()
    parent = key.rpartition(".")[0]
    extra = f"; +{key}=... passes an argument that the config does not list" if parent in known else ""
    return f"{key}: no such key or group{did_you_mean(key, known)} (--help lists the groups{extra})"


def _instantiation(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, UserError):
        return str(cause)
    where = str(error).rpartition("full_key: ")[2]
    if "gpu backend" in str(cause):
        return f"{where}: {_NO_GPU}"
    return f"{where}: {cause} (debug=default shows the traceback)"


def _override(error: Any) -> str:
    reason = str(error).splitlines()[0].partition(" expecting")[0]
    return f"'{error.override}' is not of the form key=value ({reason})"


def _missing_value(error: Any) -> str:
    return f"{error.full_key} is needed: give it as {error.full_key}=..."


def _interpolation(error: Any) -> str:
    [key] = re.findall(r"key '([^']+)' not found", str(error)) or ["another key"]
    return f"{error.full_key} is taken from {key}, which this config lacks: the chosen options do not go together"


def _resolution(error: Any) -> str:
    return str(error.__cause__ if isinstance(error.__cause__, UserError) else error)


def _os_error(error: Any) -> str:
    if error.filename is None:
        return str(error)
    # Not known in a process that a launcher for clusters has started.
    key = "output_dir" if getattr(explain, "config_name", "train") == "evaluate" else "hydra.run.dir"
    return f"{error.filename}: {error.strerror} (choose another place with {key}=DIR or data.root=DIR)"


_NO_GPU = (
    "no GPU that this build of torch can use: trainer=cpu trains without one "
    "(python -c 'import torch; print(torch.version.cuda)' says None for a CPU build)"
)
EXPLANATIONS: dict[type[BaseException], Callable[[Any], str]] = {
    UserError: str,
    MissingConfigException: _missing_option,
    OverrideParseException: _override,
    ConfigCompositionException: _composition,
    InstantiationException: _instantiation,
    InterpolationKeyError: _interpolation,
    InterpolationResolutionError: _resolution,
    MissingMandatoryValue: _missing_value,
    OSError: _os_error,
}


def _folder() -> Path:
    return Path(sys.argv[0]).resolve().parent / "conf"


def _known_keys() -> list[str]:
    GlobalHydra.instance().clear()
    name: str = explain.config_name  # type: ignore[attr-defined]
    plain = [argument.partition(",")[0] for argument in sys.argv[1:]]  # of a sweep's options the first
    with initialize_config_dir(str(_folder()), version_base="1.3"):
        groups = list(compose(name, return_hydra_config=True).hydra.runtime.choices)  # those of this script
        chosen = [
            word for word in plain if word.split("=")[0] in groups and re.fullmatch(r"[\w@/]+=[\w./-]+", word)
        ]
        config = compose(name, chosen, return_hydra_config=True)
    tasks = {key: node for key, node in _plain(config).items() if key != "hydra"}
    launcher = _dotted(_plain(config.hydra.launcher), "hydra.launcher.")
    return [*groups, *_dotted(tasks), *launcher]


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config)


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if not key.startswith("_"):
            yield prefix + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
