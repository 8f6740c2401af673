"""The arrays and images of an evaluation: RUN/export/NAME.npz and RUN/export/NAME/0000.png."""

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentlab.errors import UserError, did_you_mean
from latentlab.evaluation import NLL_SAMPLES, choose_nll_samples, choose_samples
from latentlab.run.files import replaced
from latentlab.trained import Array, Trained

log = logging.getLogger(__name__)


def _samples(run: Trained, cfg: Any) -> dict[str, Any]:
    x, means = (run.samples(cfg.export_n, cfg.export_seed, mean) for mean in (False, True))
    return {"x": x, "means": means, "seed": cfg.export_seed}


def _latents(run: Trained, cfg: Any) -> dict[str, Any]:
    return {
        "z": run.latents(cfg.split),
        "means": run.latents(cfg.split, mean=True),
        "y": run.labels(cfg.split),
    }


def _reconstructions(run: Trained, cfg: Any) -> dict[str, Any]:
    return {
        "x": run.images(cfg.split),
        "means": run.reconstructions(cfg.split),
        "y": run.labels(cfg.split),
    }


def _elbos(run: Trained, cfg: Any) -> dict[str, Any]:
    samples = choose_samples(run.model, cfg.samples)
    terms = run.terms(cfg.split, samples, test=True)
    return {**terms, "y": run.labels(cfg.split), "samples": samples}


def _log_likelihoods(run: Trained, cfg: Any) -> dict[str, Any]:
    number = cfg.nll.samples or NLL_SAMPLES
    return {
        "log_px": run.log_likelihoods(cfg.split, number, cfg.nll.chunk),
        "y": run.labels(cfg.split),
        "samples": number,
    }


def _columns(run: Trained, cfg: Any) -> dict[str, Any]:
    """The columns of examples.csv: index, label, the terms, and log_px if the NLL is asked for."""
    terms = run.terms(cfg.split, choose_samples(run.model, cfg.samples), test=True)
    labels = run.labels(cfg.split)
    number = choose_nll_samples(run.model, cfg.nll.samples)
    likelihoods = {"log_px": run.log_likelihoods(cfg.split, number, cfg.nll.chunk)} if number else {}
    return {"index": range(len(labels)), "label": labels, **terms, **likelihoods}


# The arrays of each name, in a file with that name. `images` are the samples as PNG files.
ARRAYS: dict[str, Callable[[Trained, Any], Mapping[str, Any]]] = {
    "samples": _samples,
    "latents": _latents,
    "reconstructions": _reconstructions,
    "elbos": _elbos,
    "log_likelihoods": _log_likelihoods,
}
NAMES = (*ARRAYS, "images", "examples")


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
    """Write the arrays, tables and images that the settings of evaluate.py name into a folder."""
    folder = folder if cfg.split == "test" else folder / cfg.split
    for name in chosen(cfg):
        if name == "images":
            for kind, mean in {"samples": False, "sample_means": True}.items():
                write_images(run.samples(cfg.export_n, cfg.export_seed, mean), folder / kind)
        elif name == "examples":
            write_table(_columns(run, cfg), folder / "examples.csv")
        else:
            write_arrays(ARRAYS[name](run, cfg), folder / f"{name}.npz")
    log.info("export: %s", folder)


def write_arrays(arrays: Mapping[str, Any], path: Path) -> None:
    """Write arrays by name, which `numpy.load(path)` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_table(columns: Mapping[str, Any], path: Path) -> None:
    """Write columns of equal length as a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as draft, draft.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *zip(*columns.values(), strict=True)])


def write_images(x: Array, folder: Path) -> None:
    """Write images (N, C, H, W) with values from 0 to 1 as 8-bit PNG files, in place of those of an earlier export."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("[0-9]*.png"):
        path.unlink()
    for index, image in enumerate((x.clip(0, 1) * 255).round().astype(np.uint8)):
        with replaced(folder / f"{index:04d}.png") as draft:
            Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(draft, "PNG")
