"""The end of training: validated once, wherever it lies."""

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.utilities import _is_max_limit_reached

from latentlab.lit.epoch_loop import ShortStepLoop


class FitLoop(_FitLoop):
    """Lightning's loop over epochs, which also repeats a validation that was cut off after the last step."""

    @property
    def done(self) -> bool:
        validations = self.epoch_loop.val_loop.batch_progress.current
        owed = self.epoch_loop.restarting and validations.completed < validations.ready
        return super().done and not owed


class EpochLoop(ShortStepLoop):
    """Lightning's loop over the batches of an epoch, which also validates after the last step of the training.

    Lightning alone would not validate there if `trainer.max_steps` ends the training within an epoch, or if
    `trainer.check_val_every_n_epoch` leaves out the last epoch.

    Attributes:
        extra: True if the validation due now is one that a longer training would not have. It chooses best.ckpt, but
            counts for no patience, as the run may be resumed to train longer.
    """

    extra = False

    @classmethod
    def install(cls, trainer: Trainer) -> None:
        """Replace the trainer's loops, before a checkpoint is loaded."""
        old = trainer.fit_loop.epoch_loop
        if not isinstance(old, cls):
            loop = trainer.fit_loop.epoch_loop = cls(trainer, old.min_steps, old.max_steps)
            loop.val_loop = old.val_loop  # the data are attached to it already
            trainer.fit_loop.__class__ = FitLoop

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        ends = self.trainer.enable_validation and ends_training(self.trainer)
        due = super()._should_check_val_fx(data_fetcher)
        self.extra = (ends or due) and not self._is_regular(data_fetcher)
        return ends or due

    def _is_regular(self, data_fetcher: _DataFetcher) -> bool:
        stop, self.trainer.should_stop = self.trainer.should_stop, False
        try:
            return super()._should_check_val_fx(data_fetcher)
        finally:
            self.trainer.should_stop = stop


def has_taken_all_steps(trainer: Trainer) -> bool:
    """Return True after the last step that `trainer.max_steps` allows."""
    loop = trainer.fit_loop.epoch_loop
    return _is_max_limit_reached(loop.global_step, loop.max_steps)


def ends_training(trainer: Trainer) -> bool:
    """Return True after the last step of the training."""
    fit, loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    last_epoch = _is_max_limit_reached(trainer.current_epoch + 1, fit.max_epochs or -1)
    return (
        has_taken_all_steps(trainer) or (last_epoch and loop._num_ready_batches_reached()) or stops(trainer)
    )


def ends_epoch(trainer: Trainer) -> bool:
    """Return True after the last step of an epoch, which may end early."""
    return trainer.fit_loop.epoch_loop._is_training_done or stops(trainer)


def stops(trainer: Trainer) -> bool:
    """Return True if something asked the training to stop, and it may."""
    return trainer.should_stop and trainer.fit_loop._can_stop_early


def is_extra(trainer: Trainer) -> bool:
    """Return True if the last validation was extra, see `EpochLoop`."""
    return getattr(trainer.fit_loop.epoch_loop, "extra", False)


def time_is_up(trainer: Trainer) -> bool:
    """Return True if `trainer.max_time` has passed. A resumed run may get more time."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    left = [timer.time_remaining() for timer in timers]
    return any(seconds is not None and seconds <= 0 for seconds in left)
