"""`hydra/sweeper=optuna`: a hyperparameter search with `python train.py -m sweep=optuna ...`.

Hydra imports this module at every start, so that slow imports stand inside functions.
"""

from collections.abc import Sequence
from typing import Any, final

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.latentlab.launcher import JobsLauncher


@final
class SearchSweeper(Sweeper):
    """Runs the trials of a search through the configured launcher.

    Args:
        settings: the keys of `latentlab.sweeps.search.search.SearchSettings`.
    """

    config: DictConfig
    loader: ConfigLoader
    launcher: Launcher

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher.

        Raises:
            UserError: if Optuna is missing, or the launcher's settings are wrong.
        """
        from hydra.core.plugins import Plugins

        _require_optuna()
        from latentlab.sweeps.search.batches import RecordedTask

        # The launcher replaces the loader by one that keeps every config, which a search does not need.
        self.config, self.loader = config, hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=RecordedTask(task_function), config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        """Search, and report the best trials.

        Raises:
            UserError: if the settings or the space are wrong, the storage belongs to another search, or too many
                trials failed.
        """
        from latentlab.sweeps.search.command import run_search

        sweep = self.launcher.sweep if isinstance(self.launcher, JobsLauncher) else None
        run_search(self.settings, arguments, self.config, self.loader, self.launcher, sweep)
        return []


def _require_optuna() -> None:
    from latentlab.errors import UserError

    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError("hydra/sweeper=optuna needs Optuna: pip install 'latentlab[search]'") from error
