"""TensorBoard, with its event files in RUN/tensorboard."""

from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

from latentlab.errors import UserError
from latentlab.tracking.record import record_figure


def tensorboard_logger(save_dir: str) -> TensorBoardLogger:
    """The logger that writes event files to `save_dir`/tensorboard.

    Args:
        save_dir: the run directory.

    Raises:
        UserError: when TensorBoard is not installed.
    """
    try:
        return TensorBoardLogger(save_dir, name="tensorboard", version="", default_hp_metric=False)
    except ModuleNotFoundError as error:
        raise UserError(
            "logger=tensorboard: TensorBoard is not installed; pip install tensorboard"
        ) from error


@record_figure.register
def _(logger: TensorBoardLogger, key: str, path: Path, step: int, epoch: int, caption: str) -> None:
    from matplotlib.image import imread  # slow to import, and needed only where figures are drawn

    writer: Any = logger.experiment
    writer.add_image(key, imread(path)[..., :3], step, dataformats="HWC")
