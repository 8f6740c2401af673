"""latentlab from Python: compose, train and evaluate as the commands do, and load a trained model."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from latentlab.cli import evaluating, experiment
from latentlab.cli.build import trusted
from latentlab.cli.calls import composed, process_restored
from latentlab.cli.evaluate import evaluate as run_evaluation
from latentlab.cli.overrides import quoted
from latentlab.cli.script import conf_folder
from latentlab.cli.train import fit
from latentlab.errors import UserError
from latentlab.processes import devices
from latentlab.run.checkpoints import BUILT
from latentlab.run.directory import RunDirectory
from latentlab.run.trust import Trusted
from latentlab.tracking.artifacts import download, is_artifact
from latentlab.trained import Trained
from latentlab.zoo import PREFIX, models


def load(
    run: str | Path,
    trust: str | Iterable[str] = (),
    device: str = "auto",
    data_root: str | None = None,
    zoo: str | Path | None = None,
) -> Trained:
    """Return the trained model of a run, ready to use.

    Loading a run of somebody else executes nothing of it. It may use the classes that latentlab's own `conf/` names.

    Args:
        run: a run directory, whose best checkpoint is taken, a checkpoint, the name of an artifact of W&B, such as
            "team/project/model-ID:best", or the name of a model in the zoo, such as "vae_digits" (see `latentlab.zoo`).
        trust: modules of your own whose classes the run's config may name.
        device: the device of the model, "auto" for a GPU if there is one.
        data_root: the folder of data sets, or the place of your own images, if it has moved since the training.
        zoo: your folder of the zoo, by default the one in LATENTLAB_ZOO.

    Raises:
        UserError: if there is no run that can be read and trusted.
    """
    modules = [trust] if isinstance(trust, str) else trust
    return _load(run, Trusted.of([conf_folder()], modules), device, data_root, zoo)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the checked config of `python train.py OVERRIDES`, with all values resolved.

    Raises:
        UserError: for the first mistake, in the words of the command line.
    """
    with composed("train", overrides) as (cfg, job), process_restored():
        chosen = experiment.compose(cfg, job)
        chosen.parts()  # refused if they do not fit together
        return OmegaConf.create(chosen.config)


def train(
    overrides: Sequence[str] = (), directory: str | Path | None = None, device: str = "auto"
) -> Trained:
    """Train in this process as `python train.py OVERRIDES` does: the same numbers and the same files.

    Ctrl-C, or the button of a notebook that interrupts, leaves a run that `train(["resume=RUN"])` resumes.

    Args:
        overrides: the settings, such as ["model=vae", "trainer.max_epochs=5"].
        directory: the run directory, or None for the default of the command.
        device: the device of the returned model, "auto" for a GPU if there is one.

    Returns:
        The trained run, as `load` returns it.

    Raises:
        UserError: for a mistake in the settings, a directory that holds a run already, or a training that diverged.
    """
    place = [] if directory is None else [quoted("hydra.run.dir", Path(directory).expanduser().absolute())]
    with composed("train", overrides, *place) as (cfg, job):
        chosen, run = experiment.compose(cfg, job), RunDirectory(Path(job.runtime.output_dir))
        _check_call(chosen.config, run)
        with _resumable(run), process_restored():
            fit(chosen, cfg, job)
        return _load(run.path, _trusted_here(chosen), device)


def evaluate(run: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate a run as `python evaluate.py run=RUN OVERRIDES` does, and return the contents of evaluation.json.

    Raises:
        UserError: for a mistake in the settings, or a run that cannot be read and trusted.
    """
    name = _named(run)
    place = quoted("run", name if is_artifact(str(name)) else Path(run).expanduser().absolute())
    with composed("evaluate", overrides, place) as (cfg, _), process_restored():
        if cfg.devices != 1:
            raise UserError(
                f"devices={cfg.devices}: each device needs a process: evaluate on the command line, with "
                "`python evaluate.py`"
            )
        return run_evaluation(cfg)[0]


def _check_call(config: Mapping[str, Any], run: RunDirectory) -> None:
    if devices.total_devices(config["trainer"]) > 1:
        raise UserError(
            f"trainer.devices={config['trainer'].get('devices')}: each device needs a process: start this training "
            "on the command line, with `python train.py`"
        )
    if config["ckpt_path"] is None and run.last_checkpoint.exists():
        path = str(run.path)
        raise UserError(
            f"{path} already holds a run: load it with latentlab.load({path!r}), resume it with "
            f"latentlab.train([{f'resume={path}'!r}]), or choose another directory"
        )


@contextmanager
def _resumable(run: RunDirectory) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if run.resumable_checkpoint():
            print(f"resume: latentlab.train([{f'resume={run.path}'!r}])", file=sys.stderr)
        raise


def _trusted_here(chosen: experiment.Experiment) -> Trusted:
    """Return the targets of a run that this call has trained, with those that the caller has named."""
    if chosen.trusted is not None:
        return chosen.trusted
    known = trusted()
    own = {target for part in BUILT for target in known.unlisted(chosen.config[part], part)}
    return replace(known, targets={**known.targets, **dict.fromkeys(own, frozenset())})


def _load(
    run: str | Path,
    trusted: Trusted,
    device: str = "auto",
    root: str | None = None,
    zoo: str | Path | None = None,
) -> Trained:
    name = _named(run, zoo)
    if is_artifact(str(name)):
        found = [download(str(name), "run", zoo).best_checkpoint]
    else:
        found = evaluating.checkpoints(Path(run).expanduser())
    return Trained(evaluating.read_saved(found, "run", trusted), device, root)


def _named(run: str | Path, zoo: str | Path | None = None) -> str | Path:
    # zoo:NAME for the name of a model in the zoo that is no path here, and else the run as it was given.
    text = str(run)
    if zoo is None and (Path(text).expanduser().exists() or text not in models()):
        return run
    return PREFIX + text.removeprefix(PREFIX)
