"""The environment of Weights & Biases: the API key, the server, the mode, and the variables of a single run."""

import logging
import netrc
import os
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import AbstractContextManager, chdir, suppress
from pathlib import Path
from typing import Annotated, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from pydantic import AfterValidator

from latentlab.errors import UserError

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]
MODES: dict[str, Mode] = {
    "online": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
REMEDY = "run `wandb login` or set WANDB_API_KEY"
SERVER = "https://api.wandb.ai"
RUN_ID = "WANDB_RUN_ID"
# The variables that name one run, which the jobs of a sweep cannot share.
OF_ONE_RUN = (RUN_ID, "WANDB_NAME", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM")
PATIENCE = 10  # seconds until the server counts as unreachable


def server() -> str:
    """Return the address of the W&B server: WANDB_BASE_URL, or that of `wandb login`, or W&B's own."""
    settings = ConfigParser(interpolation=None)
    with suppress(ConfigError, UnicodeDecodeError):
        settings.read(Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser() / "settings")
    known = settings.get("default", "base_url", fallback=SERVER)
    return os.environ.get("WANDB_BASE_URL", known)


def own_settings() -> AbstractContextManager[None]:
    """Leave the working directory, so that W&B loads its settings from the environment and the home only.

    W&B would also read ./wandb/settings. In a run of an attacker, that file can send the key to another server.
    """
    return chdir("/")


def leave_out_run() -> list[str]:
    """Remove the variables of one run from the environment, and return their names."""
    return [name for name in OF_ONE_RUN if os.environ.pop(name, None)]


def has_key() -> bool:
    """Return True if WANDB_API_KEY or the netrc file holds a key for the W&B server."""
    host = urlsplit(server()).hostname or ""
    chosen = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else []
    files = chosen or [Path.home() / ".netrc", Path.home() / "_netrc"]
    return bool(os.environ.get("WANDB_API_KEY")) or any(_names_host(file, host) for file in files)


def check_offline(offline: bool | None) -> bool | None:
    """Return `offline`.

    Raises:
        UserError: if it is False and there is no key.
    """
    if offline is False and not has_key():
        raise UserError(f"logger.wandb.offline=false: no W&B API key found; {REMEDY}")
    return offline


# As an annotation, it is checked when the experiment is composed.
Offline = Annotated[bool | None, AfterValidator(check_offline)]


def choose_mode(offline: bool | None) -> Mode:
    """Choose a mode: by `offline`, else by WANDB_MODE, else online if there is a key. Online needs a server.

    Raises:
        UserError: if `offline` is False and there is no key, or the server does not answer.
    """
    check_offline(offline)
    default: Mode = "online" if has_key() else "offline"
    mode = MODES.get(os.environ.get("WANDB_MODE", ""), default)
    if offline is not None:
        mode = "offline" if offline else "online"
    if mode != "online" or answers():
        return mode
    if offline is False:
        raise UserError(
            f"logger.wandb.offline=false: the W&B server {server()} does not answer; try again, or use "
            "logger.wandb.offline=true"
        )
    log.warning("W&B: the server %s does not answer: logging offline", server())
    return "offline"


def answers() -> bool:
    """Return True if the W&B server can be reached."""
    try:
        urlopen(server(), timeout=PATIENCE).close()
    except HTTPError:  # an answer too
        return True
    except (OSError, ValueError):
        return False
    return True


def _names_host(file: Path, host: str) -> bool:
    try:
        return host in netrc.netrc(file).hosts
    except (OSError, netrc.NetrcParseError):
        return False
