"""The arrays and images of an evaluation: RUN/export/NAME.npz and RUN/export/NAME/0000.png."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentlab.errors import UserError, did_you_mean
from latentlab.evaluation import NLL_SAMPLES, choose_samples
from latentlab.run.files import replaced
from latentlab.trained import Array, Trained

log = logging.getLogger(__name__)


def _samples(run: Trained, cfg: Any) -> dict[str, Any]:
    x, means = (run.samples(cfg.export_n, cfg.export_seed, mean) for mean in (False, True))
    return {"x": x, "means": means, "seed": cfg.export_seed}


def _latents(run: Trained, cfg: Any) -> dict[str, Any]:
    return {"z": run.latents(), "means": run.latents(mean=True), "y": run.labels()}


def _reconstructions(run: Trained, cfg: Any) -> dict[str, Any]:
    return {"x": run.images(), "means": run.reconstructions(), "y": run.labels()}


def _elbos(run: Trained, cfg: Any) -> dict[str, Any]:
    samples = choose_samples(run.model, cfg.samples)
    return {**run.terms(samples=samples), "y": run.labels(), "samples": samples}


def _log_likelihoods(run: Trained, cfg: Any) -> dict[str, Any]:
    number = cfg.nll.samples or NLL_SAMPLES
    return {
        "log_px": run.log_likelihoods("test", number, cfg.nll.chunk),
        "y": run.labels(),
        "samples": number,
    }


# The arrays of each name, in a file with that name. `images` are the samples as PNG files.
ARRAYS: dict[str, Callable[[Trained, Any], Mapping[str, Any]]] = {
    "samples": _samples,
    "latents": _latents,
    "reconstructions": _reconstructions,
    "elbos": _elbos,
    "log_likelihoods": _log_likelihoods,
}
NAMES = (*ARRAYS, "images")


def chosen(cfg: Any) -> list[str]:
    """Return the names that the settings of evaluate.py give."""
    return [cfg.export] if isinstance(cfg.export, str) else list(cfg.export)


def check(names: Sequence[str], run: Trained) -> None:
    """Check that a model has what is to be exported.

    Raises:
        UserError: for the first name that is unknown, or that the model lacks.
    """
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"export=[{name}]: no such name{did_you_mean(name, NAMES)} (choose from {', '.join(NAMES)})"
            )
        run.having("samples" if name == "images" else name)


def write(cfg: Any, run: Trained, folder: Path) -> None:
    """Write the arrays and images that the settings of evaluate.py name into a folder."""
    for name in chosen(cfg):
        if name == "images":
            for kind, mean in {"samples": False, "sample_means": True}.items():
                write_images(run.samples(cfg.export_n, cfg.export_seed, mean), folder / kind)
        else:
            write_arrays(ARRAYS[name](run, cfg), folder / f"{name}.npz")
    log.info("export: %s", folder)


def write_arrays(arrays: Mapping[str, Any], path: Path) -> None:
    """Write arrays by name, which `numpy.load(path)` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_images(x: Array, folder: Path) -> None:
    """Write images (N, C, H, W) with values from 0 to 1 as 8-bit PNG files, in place of those of an earlier export."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("[0-9]*.png"):
        path.unlink()
    for index, image in enumerate((x.clip(0, 1) * 255).round().astype(np.uint8)):
        with replaced(folder / f"{index:04d}.png") as draft:
            Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(draft, "PNG")
