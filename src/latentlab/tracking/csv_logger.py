"""The logger that writes metrics.csv in the run directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from latentlab.run.directory import RunDirectory
from latentlab.run.metrics import MetricsFile


class CSVMetrics(Logger):
    """Appends metrics to `save_dir`/metrics.csv.

    Lightning's `CSVLogger` deletes the file when a run resumes. This logger continues it.

    Args:
        save_dir: the run directory.
    """

    name = ""
    version = ""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._save_dir = save_dir
        self.file = MetricsFile(RunDirectory(Path(save_dir)).metrics)

    @property
    def save_dir(self) -> str:
        return self._save_dir

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, since config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.file.append(metrics, step)
