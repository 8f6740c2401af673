"""The sections of a dashboard: panels whose keys every run logs.

Lines and bars are means over runs of the same model. Bands and whiskers are one standard error of that mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr

STEP, EPOCH = "trainer/global_step", "epoch"
MODEL = wr.Config("names.model")
# The largest number of runs in a panel.
RUNS = 200
# The settings that sweeps vary most often.
VARIED = {
    "model": MODEL,
    "prior": wr.Config("names.prior"),
    "objective": wr.Config("names.objective"),
    "latents": wr.Config("model.latent_dim"),
    "learning rate": wr.Config("optimizer.lr"),
    "batch size": wr.Config("data.batch_size"),
}


@dataclass(frozen=True)
class Section:
    """Panels under one heading.

    Attributes:
        name: the heading.
        text: the explanation of the panels.
        panels: the panels, two in a row.
    """

    name: str
    text: str
    panels: Sequence[Any]


def sections() -> list[Section]:
    """Return all sections in order."""
    return [bounds(), pictures(), latents(), training(), sweep()]


def bounds() -> Section:
    """Bounds and likelihoods."""
    return Section(
        "Bounds",
        "The ELBO is a bound on log p(x) in nats per example. Higher is better. Compare only runs on the same data "
        "under the same protocol. Validation bounds are exact over the whole validation set. Test bounds are those "
        "of the best epoch. Bars are means over runs of a model, whiskers one standard error over its seeds. The "
        "NLL is the importance-weighted estimate that `python evaluate.py ... wandb=true` adds. Lower is better.",
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


def pictures() -> Section:
    """Figures of all runs side by side."""
    return Section(
        "Latents and samples",
        "The latent plot shows z ~ q(z|x) of the test set, coloured by label: the first two principal components if "
        "there are more latents. Samples are x ~ p(x). The slider moves through the drawn epochs: choose `epoch` as "
        "its step in the settings of the panel. The last picture is of the best epoch.",
        [
            media("Latents, z ~ q(z|x)", "figures/latents"),
            media("Samples, x ~ p(x)", "figures/samples"),
            media("Reconstructions", "figures/reconstructions"),
            media("Means of p(x|z) of the samples", "figures/sample_means"),
        ],
    )


def latents() -> Section:
    """The KL of each layer."""
    return Section(
        "Latents by layer",
        "The KL of a layer is the information in nats that it carries about x. A layer near zero is not used. Layer "
        "1 is next to the data.",
        [
            curve("KL of each layer by epoch, nats", regex="val/kl_[0-9]+"),
            curve("Reconstruction by epoch, nats", ["val/reconstruction"]),
            wr.WeavePanelSummaryTable(table_name="tables/layer_kl"),
            wr.WeavePanelSummaryTable(table_name="tables/latents"),
        ],
    )


def training() -> Section:
    """The trained bound and the speed of training."""
    return Section(
        "Training",
        "The trained bound is that of single batches, which is noisy. Its value differs from the validation ELBO if "
        "the objective is another bound. Only runs with callbacks.skip skip steps. Examples a second and seconds "
        "count training alone, without validation and figures.",
        [
            curve("Trained bound by step, nats", regex="train/(elbo|iwae|ciwae|tvo|reconstruction)", x=STEP),
            curve("Steps skipped for their gradient", ["train/skipped_steps"], x=STEP),
            bars("Examples a second", "time/examples_per_second"),
            bars("Seconds of training", "time/train_seconds"),
        ],
    )


def sweep() -> Section:
    """The effect of the settings that a sweep varies."""
    return Section(
        "Sweep",
        "Each line is a run, from its settings to its bounds. Importance and correlation are with the best "
        "validation ELBO. They describe the runs that are shown, so filter to one sweep (its group) first.",
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
    """Return a plot of metrics over epochs or steps, unsmoothed, one line for each model."""
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
    """Return a bar plot of a final number, one bar for each model."""
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
    """Return a browser of one figure of every run."""
    return wr.MediaBrowser(title=title, media_keys=[key], num_columns=2)


def column(metric: Any, name: str) -> Any:
    """Return an axis of the parallel coordinates."""
    return wr.ParallelCoordinatesPlotColumn(metric=metric, display_name=name)
