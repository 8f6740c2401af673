"""Where progress is shown: a bar on a terminal, lines in a log, or nowhere."""

import logging
import sys
from abc import ABC, abstractmethod

from tqdm import tqdm

log = logging.getLogger(__name__)


class Display(ABC):
    """A place where progress is shown; `share` is the part of the training that is done, in [0, 1]."""

    @abstractmethod
    def refresh(self, title: str, share: float, figures: str) -> None:
        """Show where an epoch stands."""

    @abstractmethod
    def end_epoch(self, title: str, share: float, figures: str) -> None:
        """Show the figures of a finished epoch."""

    @abstractmethod
    def close(self) -> None:
        """Leave the terminal in order."""


class Bar(Display):
    """One bar for the whole training, on standard error.

    Args:
        share: the part that was done before, on a resume.
    """

    def __init__(self, share: float) -> None:
        # The bar takes what the figures leave of the line; 80 columns are enough for all of them.
        form = "{desc} |{bar}|{remaining}{postfix}"
        self.bar = tqdm(
            total=1.0, initial=share, bar_format=form, dynamic_ncols=True, mininterval=0, file=sys.stderr
        )

    def refresh(self, title: str, share: float, figures: str) -> None:
        """Redraw the bar."""
        self.bar.set_description_str(title, refresh=False)
        self.bar.set_postfix_str(figures, refresh=False)
        self.bar.update(share - self.bar.n)
        self.bar.refresh()

    def end_epoch(self, title: str, share: float, figures: str) -> None:
        """Redraw the bar."""
        self.refresh(title, share, figures)

    def close(self) -> None:
        """End the bar's line."""
        self.bar.close()


class Lines(Display):
    """One line an epoch in the log."""

    def refresh(self, title: str, share: float, figures: str) -> None:
        """Nothing: a log stands still."""

    def end_epoch(self, title: str, share: float, figures: str) -> None:
        """Log the line."""
        log.info("%s  %s", title, figures)

    def close(self) -> None:
        """Nothing."""


class Silence(Display):
    """Nothing at all."""

    def refresh(self, title: str, share: float, figures: str) -> None:
        """Nothing."""

    def end_epoch(self, title: str, share: float, figures: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
