"""The API key of Weights & Biases, and the mode that follows from it."""

import netrc
import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator

from latentlab.errors import UserError

Mode = Literal["online", "offline", "disabled"]
MODES: dict[str, Mode] = {
    "online": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
REMEDY = "run `wandb login` or set WANDB_API_KEY"


def has_key() -> bool:
    """Return True if WANDB_API_KEY or the netrc file holds a key for the W&B server."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    chosen = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else []
    files = chosen or [Path.home() / ".netrc", Path.home() / "_netrc"]
    return bool(os.environ.get("WANDB_API_KEY")) or any(_names_host(file, host) for file in files)


def check_offline(offline: bool | None) -> bool | None:
    """Return `offline`.

    Raises:
        UserError: if it is False and there is no key.
    """
    if offline is False and not has_key():
        raise UserError(f"logger.offline=false: no W&B API key found; {REMEDY}")
    return offline


# As an annotation, it is checked when the experiment is composed.
Offline = Annotated[bool | None, AfterValidator(check_offline)]


def choose_mode(offline: bool | None) -> Mode:
    """Choose a mode: by `offline`, else by WANDB_MODE, else online if there is a key.

    Raises:
        UserError: if `offline` is False and there is no key.
    """
    check_offline(offline)
    if offline is not None:
        return "offline" if offline else "online"
    return MODES.get(os.environ.get("WANDB_MODE", ""), "online" if has_key() else "offline")


def _names_host(file: Path, host: str) -> bool:
    try:
        return host in netrc.netrc(file).hosts
    except (OSError, netrc.NetrcParseError):
        return False
