"""Where a run is recorded: metrics.csv always, and W&B or TensorBoard beside it."""

# Importing the siblings registers their loggers; neither imports its library before it is used.
from latentlab.tracking import tensorboard, wandb
from latentlab.tracking.csv import CSVMetrics
from latentlab.tracking.record import (
    finish,
    log_best,
    log_checkpoint,
    log_figure,
    log_summary,
    log_table,
)

__all__ = [
    "CSVMetrics",
    "finish",
    "log_best",
    "log_checkpoint",
    "log_figure",
    "log_summary",
    "log_table",
    "tensorboard",
    "wandb",
]
