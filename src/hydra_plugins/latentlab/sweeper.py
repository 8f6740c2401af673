"""Hydra's entry to a search for hyperparameters: `python train.py -m sweep=optuna ...`.

Hydra imports this at every start, so that all of the search is imported when one begins.
"""

from collections.abc import Sequence
from typing import Any, final

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@final
class SearchSweeper(Sweeper):
    """Runs trials of a search, through the configured launcher.

    Args:
        settings: the keys of `hydra.sweeper` (see `latentlab.sweeps.search.search.SearchSettings`).
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives, and make the launcher."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        """Search, and report what was found.

        Raises:
            UserError: for a mistake in the settings or the space, another study's storage, or too many failures.
        """
        from latentlab.errors import UserError

        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise UserError("hydra/sweeper=optuna needs Optuna: pip install 'latentlab[search]'") from error
        from latentlab.sweeps.search.command import run_search

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        run_search(self.settings, arguments, self.config, self.launcher, self.hydra_context)
        return []
