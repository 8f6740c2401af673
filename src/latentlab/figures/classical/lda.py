"""Figures of topics: their words beside the truth, and the ELBO against time."""

from matplotlib.figure import Figure
from pydantic import PositiveInt
from torch import cdist

from latentlab.classical.base import Source, matched
from latentlab.classical.lda import LDA
from latentlab.figures.classical.axes import BLUE, EXACT, label, row
from latentlab.figures.drawing import figure

MOST_TOPICS = 8


@figure
def topics(model: LDA, data: Source, words: PositiveInt = 30) -> Figure:
    """Draw the probabilities of the words of each topic, and the true topic that is nearest.

    Args:
        model: the inference.
        data: the corpus. Its true topics are drawn if they are known and as many.
        words: the largest number of words, the most frequent ones.
    """
    number = min(model.num_topics, MOST_TOPICS)
    drawn, panels = row(number, 2.6, 3.0)
    chosen = data.x.sum(0).argsort(descending=True)[:words].sort().values
    true = data.truth.get("topics", model.topics[:0])
    order = matched(cdist(model.topics, true, p=1)) if len(true) == model.num_topics else ()
    for k, axes in enumerate(panels):
        axes.bar(range(len(chosen)), model.topics[k, chosen].numpy(), color=BLUE, width=0.8)
        if len(order):
            axes.plot(range(len(chosen)), true[order[k], chosen].numpy(), "_", color=EXACT, ms=9, mew=1.8)
        label(
            axes,
            f"topic {k + 1}",
            "word",
            "" if k else "probability (black: truth)" if len(order) else "probability",
        )
    return drawn


@figure
def elbo(model: LDA, data: Source) -> Figure:
    """Draw the ELBO against the seconds of the iterations, or against iterations for a run of another process."""
    drawn, (axes,) = row(1, 5.6, 3.8)
    bounds = model.history.values["elbo"][1:]
    timed = len(model.seconds) == len(bounds)
    axes.plot(model.seconds if timed else range(1, len(bounds) + 1), bounds, "o-", color=BLUE, ms=3, lw=1.4)
    axes.ticklabel_format(axis="y", useOffset=False)
    label(axes, f"{len(bounds)} iterations", "seconds" if timed else "iteration", "ELBO in nats")
    return drawn
