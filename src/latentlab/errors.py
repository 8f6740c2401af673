"""The errors that a user can correct; the command line shows them as one line without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake of the user, in one line that names the key and the remedy.

    Attributes:
        status: the exit status of a command that ends with this error.
    """

    status: int = 1

    def _render_traceback_(self) -> list[str]:
        """IPython and Jupyter show these lines in place of a traceback."""
        return [f"error: {self}", *getattr(self, "__notes__", ())]


class Diverged(UserError):
    """The bound became NaN or infinite during training."""

    status = 76


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the closest known word, "" if none is close."""
    lowered = {each.lower(): each for each in known}
    close = get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean {lowered[close[0]]}?" if close else ""
