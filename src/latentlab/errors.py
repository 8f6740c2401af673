"""Mistakes that a user can mend: shown as one line, never as a traceback."""

from typing import ClassVar


class UserError(Exception):
    """A mistake of the user, in one line that names what is wrong and the remedy.

    Attributes:
        status: the exit status of a command that ends with this error.
    """

    status: ClassVar[int] = 1


class Diverged(UserError):
    """The bound became NaN or infinite during training."""

    status = 76
