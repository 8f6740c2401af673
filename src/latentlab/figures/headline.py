"""The number by which a run is followed."""

from collections.abc import Container

# A bound, or what a model without one is followed by.
SCORES = ("elbo", "reconstruction")


def headline(metrics: Container[str], split: str) -> list[str]:
    """The name of the score of a split, such as val/elbo; nothing where none was logged."""
    return [name for name in (f"{split}/{score}" for score in SCORES) if name in metrics][:1]
