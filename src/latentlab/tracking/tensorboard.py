"""TensorBoard: event files in RUN/tensorboard."""

from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory
from latentlab.tracking.record import record_figure


def tensorboard_logger(save_dir: str) -> TensorBoardLogger:
    """Return the logger that writes event files to `save_dir`/tensorboard.

    Args:
        save_dir: the run directory.

    Raises:
        UserError: if TensorBoard is not installed.
    """
    folder = RunDirectory(Path(save_dir)).tensorboard
    try:
        return TensorBoardLogger(save_dir, name=folder.name, version="", default_hp_metric=False)
    except ModuleNotFoundError as error:
        raise UserError(
            "logger=tensorboard: TensorBoard is not installed; pip install tensorboard"
        ) from error


@record_figure.register
def _(logger: TensorBoardLogger, key: str, path: Path, step: int, epoch: int, caption: str) -> None:
    from matplotlib.image import imread  # late, as it is slow to import

    writer: Any = logger.experiment
    writer.add_image(key, imread(path)[..., :3], step, dataformats="HWC")
