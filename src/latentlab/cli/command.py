"""The frame around a script: renamed keys, signals, one-line errors and exit statuses."""

import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any, NoReturn

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from latentlab.cli.explain import config_name, explain, unknown_option
from latentlab.cli.overrides import rename_old_keys
from latentlab.errors import UserError
from latentlab.processes import devices, ranks

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)


class one_line_errors(ContextDecorator):
    """Ends the process with one line on standard error for a user's mistake.

    `debug=...` shows the traceback instead.

    It has no state: a launcher for clusters pickles the function that it decorates.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, (*_mistakes(), RuntimeError)):
            return
        debugs = any(argument.startswith("debug=") for argument in sys.argv[1:])
        if debugs and not isinstance(error, MissingConfigException):
            return
        if devices.lost_a_peer(error) and (here := devices.launched()):
            _leave(here, error)
        if isinstance(error, _mistakes()):
            print(f"error: {explain(error)}", file=sys.stderr)
            sys.exit(_status(error))


class OneLineParser(ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the options)")


def run(main: Callable[[], None]) -> None:
    """Run a `hydra.main` function.

    SIGTERM raises SystemExit, so that the run is closed as failed. The exit status is 143, and 130 after Ctrl-C.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    signal.signal(signal.SIGTERM, terminate)
    ranks.follow_parent()
    with one_line_errors():
        sys.argv[1:] = rename_old_keys(sys.argv[1:], config_name())
        try:
            main()
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        except ValueError as error:
            if "Config group override" not in str(error):
                raise
            raise UserError(unknown_option(sys.argv[1:])) from error


def terminate(signum: int, frame: Any) -> None:
    """Raise SystemExit with the status of a process that a signal ended."""
    signal.signal(signum, signal.SIG_IGN)  # a second signal does not interrupt the clean-up
    sys.exit(128 + signum)


def _leave(here: devices.Launched, error: BaseException) -> NoReturn:
    # The parent of the ranks reports which rank died, so the first rank stays silent.
    if here.rank or os.environ.get(devices.PARENT) is None:
        reason = " ".join(str(error).split())
        print(f"error: rank {here.rank} lost another process of its job ({reason})", file=sys.stderr)
    sys.exit(ranks.LOST)


def _mistakes() -> tuple[type[BaseException], ...]:
    # Lightning's own error, if Lightning is imported already: importing it takes seconds.
    lightning = sys.modules.get("lightning_fabric.utilities.exceptions")
    return (*MISTAKES, *([lightning.MisconfigurationException] if lightning else []))


def _status(error: BaseException) -> int:
    mistakes = [each for each in (error, error.__cause__) if isinstance(each, UserError)]
    return mistakes[0].status if mistakes else UserError.status
