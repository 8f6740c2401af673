"""The panels of a dashboard, in groups: every key that they name is logged by a run.

Lines and bars are means over runs of the same model, bands and whiskers one standard error of that mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr

STEP, EPOCH = "trainer/global_step", "epoch"
MODEL = wr.Config("names.model")
# Runs that a panel reads at most.
RUNS = 200
# What a sweep varies, as a rule; an axis of one value does no harm.
VARIED = {
    "model": MODEL,
    "prior": wr.Config("names.prior"),
    "objective": wr.Config("names.objective"),
    "latents": wr.Config("model.latent_dim"),
    "learning rate": wr.Config("optimizer.lr"),
    "batch size": wr.Config("data.batch_size"),
}


@dataclass(frozen=True)
class Group:
    """Panels under one heading.

    Attributes:
        name: the heading.
        text: what the panels show, and what to beware of.
        panels: the panels, two in a row.
    """

    name: str
    text: str
    panels: Sequence[Any]


def groups() -> list[Group]:
    """All groups, in the order in which they are read."""
    return [bounds(), pictures(), latents(), training(), sweep()]


def bounds() -> Group:
    """How good the models are."""
    return Group(
        "Bounds",
        "The ELBO is a bound on log p(x) in nats per example: higher is better, and only runs on the same data under "
        "the same protocol can be compared. Validation is exact over the whole validation set. Test bounds are those "
        "of the best epoch; bars are means over runs of a model, whiskers one standard error over its seeds. The NLL "
        "is the importance-weighted estimate that `python evaluate.py ... wandb=true` adds: lower is better.",
        [
            curve("Validation ELBO by epoch, nats", ["val/elbo"]),
            bars("Test ELBO, nats", "test/elbo"),
            wr.ScatterPlot(
                title="Test NLL (nats) against parameters",
                x=wr.SummaryMetric("model/parameters"),
                y=wr.SummaryMetric("test/nll"),
                log_x=True,
            ),
            bars("Best validation ELBO so far, nats", "best/val_elbo"),
        ],
    )


def pictures() -> Group:
    """What the models have learned, side by side."""
    return Group(
        "Latents and samples",
        "The latent plot is z ~ q(z|x) of the test set (its two principal components, if there are more latents), "
        "coloured by label; samples are x ~ p(x). The slider goes through the epochs that were drawn: choose `epoch` "
        "as its step in the settings of the panel. The last picture is of the best epoch.",
        [
            media("Latents, z ~ q(z|x)", "figures/latents"),
            media("Samples, x ~ p(x)", "figures/samples"),
            media("Reconstructions", "figures/reconstructions"),
            media("Means of p(x|z) beside samples", "figures/sample_means"),
        ],
    )


def latents() -> Group:
    """What each layer of latents tells."""
    return Group(
        "Latents by layer",
        "The KL of a layer is the information in nats that it carries about x; a layer near zero is not used. Layer 1 "
        "is next to the data.",
        [
            curve("KL of each layer by epoch, nats", regex="val/kl_[0-9]+"),
            curve("Reconstruction by epoch, nats", ["val/reconstruction"]),
            wr.WeavePanelSummaryTable(table_name="tables/layer_kl"),
            wr.WeavePanelSummaryTable(table_name="tables/latents"),
        ],
    )


def training() -> Group:
    """How training went."""
    return Group(
        "Training",
        "The trained bound of single batches, which is noisy, and has another value than the validation ELBO where the "
        "objective is another bound. Steps are skipped only by models that are trained with callbacks.skip. Examples "
        "a second and seconds count training alone, without validation and figures.",
        [
            curve("Trained bound by step, nats", regex="train/(elbo|iwae|reconstruction)", x=STEP),
            curve("Steps skipped for their gradient", ["train/skipped_steps"], x=STEP),
            bars("Examples a second", "time/examples_per_second"),
            bars("Seconds of training", "time/train_seconds"),
        ],
    )


def sweep() -> Group:
    """What matters in a sweep."""
    return Group(
        "Sweep",
        "A line is a run, from what was varied to its bounds. Importance and correlation are with the best validation "
        "ELBO; they describe the runs that are shown, so filter to one sweep (its group) first.",
        [
            wr.ParallelCoordinatesPlot(
                title="From choices to bounds",
                columns=[
                    *(column(metric, name) for name, metric in VARIED.items()),
                    column(wr.SummaryMetric("best/val_elbo"), "best val ELBO"),
                    column(wr.SummaryMetric("test/elbo"), "test ELBO"),
                ],
            ),
            wr.ParameterImportancePlot(with_respect_to="best/val_elbo"),
        ],
    )


def curve(title: str, y: Sequence[str] = (), regex: str | None = None, x: str = EPOCH) -> Any:
    """Metrics over epochs or steps, unsmoothed, one line for each model."""
    return wr.LinePlot(
        title=title,
        x=x,
        y=list(y),
        metric_regex=regex,
        groupby=MODEL,
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
        smoothing_type="none",
        smoothing_factor=0,
        max_runs_to_show=RUNS,
    )


def bars(title: str, metric: str) -> Any:
    """A number that runs end with, one bar for each model."""
    return wr.BarPlot(
        title=title,
        metrics=[metric],
        groupby=MODEL,
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
        max_runs_to_show=RUNS,
        max_bars_to_show=50,
    )


def media(title: str, key: str) -> Any:
    """A figure of every run."""
    return wr.MediaBrowser(title=title, media_keys=[key], num_columns=2)


def column(metric: Any, name: str) -> Any:
    """An axis of the parallel coordinates."""
    return wr.ParallelCoordinatesPlotColumn(metric=metric, display_name=name)
