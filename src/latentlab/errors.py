"""Mistakes that a user can mend: shown as one line, never as a traceback."""


class UserError(Exception):
    """A mistake in what the user gave; its text is one line that names what is wrong and the way out."""


class Diverged(UserError):
    """The bound became NaN or infinite while training."""
