"""The measures that evaluate.py takes on request: distances of samples, samples per second, geodesics, gaps."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from latentlab import ais, classifier, gaps
from latentlab.batch import Batch, blocks
from latentlab.cli.evaluating import change_sampling
from latentlab.data.images import ImageData
from latentlab.data.module import Split
from latentlab.errors import UserError
from latentlab.evaluation import choose_nll_samples, log_likelihoods
from latentlab.figures import geometry as figures
from latentlab.figures.drawing import device_of, save
from latentlab.geometry import decoder_means, geodesics
from latentlab.models.vdm import DiffusionModel
from latentlab.quality import check_sizes, compare
from latentlab.run.directory import RunDirectory
from latentlab.run.files import write_text
from latentlab.trained import Trained

log = logging.getLogger(__name__)

# The seed of the images of the floor. The samples have seed 0.
FLOOR_SEED = 1
# The split of the images of the floor, by the split of the reference.
OTHER: dict[Split, Split] = {"test": "train", "train": "test"}
PAIRS_SEED = 0
# The seed of the order of the test examples. The gaps and annealed importance sampling take the first.
EXAMPLES_SEED = 0
# A mean change of the amortisation gap in the last quarter of its steps that is worth a warning, in nats.
UNFINISHED = 0.1
WARM_UP = 10


class Measure(ABC):
    """A measure of a trained model that the settings ask for. It is checked when it is made.

    Args:
        cfg: the settings of evaluate.py.
        run: the run.

    Raises:
        UserError: if this run cannot have it.
    """

    @abstractmethod
    def __init__(self, cfg: Any, run: Trained) -> None: ...

    @staticmethod
    @abstractmethod
    def asked(cfg: Any) -> bool:
        """True if the settings ask for it."""

    @abstractmethod
    def results(self) -> dict[str, float]:
        """The numbers for evaluation.json."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The settings that the numbers depend on."""


class SampleDistances(Measure):
    """FID, KID, precision and recall of samples, with the floor: images of the other split instead of samples."""

    @staticmethod
    def asked(cfg: Any) -> bool:
        return bool(cfg.fid.samples)

    def __init__(self, cfg: Any, run: Trained) -> None:
        run.having("samples")
        if not isinstance(run.data, ImageData) or len(run.data.shape) != 3:
            raise UserError(f"fid.samples={cfg.fid.samples}: {run.data.name} are no images: leave it out")
        self.run, self.n, self.split, self.means = run, cfg.fid.samples, cfg.fid.reference, cfg.fid.means
        self.net = classifier.find(cfg.fid.classifier, run.data)
        self.sizes = run.data.num_examples
        for split in OTHER:
            check_sizes(self.n, self.sizes[split])

    def results(self) -> dict[str, float]:
        images = self._features(self.run.images(self.split))
        samples = self._features(self.run.samples(self.n, mean=self.means))
        found: dict[str, float] = {}
        kind = "_means" if self.means else ""
        for suffix, features in {kind: samples, "_floor": self._floor()}.items():
            for name, estimate in compare(features, images).items():
                key = f"{self.split}/{name}_classifier_n{self.n}{suffix}"
                found |= {key: estimate.value, f"{key}_stderr": estimate.error}
        return found

    def settings(self) -> dict[str, Any]:
        return {
            "fid.samples": self.n,
            "fid.reference": f"{self.sizes[self.split]} {self.split}",
            "fid.means": self.means,
            "fid.classifier": f"{self.net.path.name} sha256 {self.net.sha256}",
            "fid.accuracy": self.net.accuracy,
            **sampling(self.run),
        }

    def _floor(self) -> Tensor:
        images = torch.from_numpy(self.run.images(OTHER[self.split]))
        generator = torch.Generator().manual_seed(FLOOR_SEED)
        return self._features(images[torch.randperm(len(images), generator=generator)[: self.n]])

    def _features(self, x: Any) -> Tensor:
        # Samples of a density may leave [0, 1], where images are.
        return self.net.features(torch.as_tensor(x).float().clamp(0, 1))


class SamplesPerSecond(Measure):
    """The samples per second of wall time, after a first batch that is not counted."""

    @staticmethod
    def asked(cfg: Any) -> bool:
        return bool(cfg.speed.samples)

    def __init__(self, cfg: Any, run: Trained) -> None:
        self.model = run.having("samples")
        self.run, self.n, self.batch = run, cfg.speed.samples, cfg.speed.batch_size

    @torch.inference_mode()
    def results(self) -> dict[str, float]:
        self.model.generate(min(WARM_UP, self.n))
        start = self._now()
        for first in range(0, self.n, self.batch):
            self.model.generate(min(self.batch, self.n - first))
        return {"test/samples_per_second": self.n / (self._now() - start)}

    def settings(self) -> dict[str, Any]:
        return {
            "speed.samples": self.n,
            "speed.batch_size": self.batch,
            "speed.device": str(device_of(self.model)),
            "speed.threads": torch.get_num_threads(),
            **sampling(self.run),
        }

    def _now(self) -> float:
        if device_of(self.model).type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class AnnealedLikelihoods(Measure):
    """The NLL by annealed importance sampling on some test examples, and its bounds on simulated examples.

    `nll_ais_mc_stderr` is the Monte Carlo part of `nll_ais_stderr`. `nll_ais_gain` is the mean of the AIS estimate of
    log p(x) minus the importance-weighted one, on the same examples.
    """

    @staticmethod
    def asked(cfg: Any) -> bool:
        # The gaps of some examples need no AIS of the whole test set.
        alone = cfg.nll.method == "ais" and (cfg.nll.examples or not cfg.gaps.examples)
        return bool(alone or cfg.nll.bdmc)

    def __init__(self, cfg: Any, run: Trained) -> None:
        key = "nll.method=ais" if cfg.nll.method == "ais" else f"nll.bdmc={cfg.nll.bdmc}"
        self.model = run.having(key)
        ais.check(self.model, key)
        self.run, self.cfg = run, cfg.nll
        size = run.data.num_examples["test"]
        whole = 0 if cfg.gaps.examples else size
        self.n = (cfg.nll.examples or whole) if cfg.nll.method == "ais" else 0
        for key, n in {"nll.examples": self.n, "nll.bdmc": cfg.nll.bdmc}.items():
            if n > size:
                raise UserError(f"{key}={n}: there are {size} test examples: give {size} or less")
        self.sampler = _sampler(cfg.nll)
        compared = cfg.nll.samples if cfg.nll.compare is None else cfg.nll.compare
        self.weights = choose_nll_samples(self.model, compared)

    def results(self) -> dict[str, float]:
        found = self._likelihoods([first_examples(self.run, self.n)]) if self.n else {}
        return found | (self._bounds([first_examples(self.run, self.cfg.bdmc)]) if self.cfg.bdmc else {})

    def _likelihoods(self, batches: Sequence[Batch]) -> dict[str, float]:
        start = time.perf_counter()
        each = ais.joined(ais.estimates(self.model, batches, self.sampler))
        found = {
            **_mean("test/nll_ais", -each.log_px),
            "test/nll_ais_acceptance": each.acceptance.mean().item(),
            "time/nll_ais_seconds": time.perf_counter() - start,
        }
        if self.sampler.chains > 1:
            found["test/nll_ais_mc_stderr"] = each.variance.sum().sqrt().item() / self.n
        if self.weights:
            weighted = torch.cat(list(log_likelihoods(self.model, batches, self.weights, self.cfg.chunk)))
            found |= _mean("test/nll_ais_gain", each.log_px - weighted.cpu())
        return found

    def _bounds(self, batches: Sequence[Batch]) -> dict[str, float]:
        pairs = list(ais.simulated(self.model, batches, self.sampler))
        lower, upper = (ais.joined(side).log_px for side in zip(*pairs, strict=True))
        parts = {"lower": lower, "upper": upper, "gap": upper - lower}
        return {
            key: value
            for name, part in parts.items()
            for key, value in _mean(f"test/bdmc_{name}", part).items()
        }

    def settings(self) -> dict[str, Any]:
        names = ("chains", "steps", "leapfrog", "start", "ladder", "bdmc")
        return {
            "nll.method": self.cfg.method,
            "nll.examples": self.n,
            "nll.compare": self.weights,
            **{f"nll.{name}": self.cfg[name] for name in names},
        }


def _sampler(nll: Any) -> ais.AIS:
    return ais.AIS(nll.chains, nll.steps, nll.leapfrog, ais.STARTS[nll.start], ais.LADDERS[nll.ladder])


def _mean(name: str, values: Tensor) -> dict[str, float]:
    # A single example has no standard error.
    error = {f"{name}_stderr": values.std().item() / sqrt(len(values))} if len(values) > 1 else {}
    return {name: values.mean().item(), **error}


class GeodesicDistances(Measure):
    """Distances between pairs of test images along geodesics, with geodesics.csv and geodesics.png."""

    @staticmethod
    def asked(cfg: Any) -> bool:
        return bool(cfg.geometry.pairs)

    def __init__(self, cfg: Any, run: Trained) -> None:
        self.run, self.n, self.points = run, cfg.geometry.pairs, cfg.geometry.points
        self.place, self.draws = RunDirectory(Path(cfg.output_dir or run.path)), cfg.figures.draw
        self.decoders = decoder_means(run.having("geometry.pairs"))
        if 2 * self.n > (size := run.data.num_examples["test"]):
            raise UserError(
                f"geometry.pairs={self.n} needs {2 * self.n} test images, and there are {size}: "
                f"give {size // 2} or less"
            )

    def results(self) -> dict[str, float]:
        first, second = pairs(self.run.data.num_examples["test"], self.n)
        z = torch.from_numpy(self.run.latents(mean=True)).to(device_of(self.run.model))
        found = geodesics(self.decoders, z[first], z[second], self.points)
        columns = {
            "pair": range(self.n),
            "first": first.tolist(),
            "second": second.tolist(),
            "geodesic": found.lengths.tolist(),
            "straight": found.straight.tolist(),
            "euclidean": (z[first] - z[second]).norm(dim=1).tolist(),
            "change": found.changes.tolist(),
        }
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        write_text(self.place.geodesics, "\n".join(lines) + "\n")
        if self.draws and z.shape[1] == 2:
            drawn = figures.geodesics(self.run.model, self.run.data.whole_test_set(), found)
            save(drawn, self.place.figures / "geodesics.png")
        means = {name: fmean(columns[name]) for name in ("geodesic", "straight", "euclidean")}
        return {
            **{f"test/{name}_distance": mean for name, mean in means.items()},
            "test/geodesic_max_change": max(columns["change"]),
            "test/geodesics_converged": int(found.converged.sum()),
        }

    def settings(self) -> dict[str, Any]:
        return {"geometry.pairs": self.n, "geometry.points": self.points}


def pairs(size: int, n: int) -> tuple[Tensor, Tensor]:
    """Return the indices of n pairs of different test images, each (n,): the first n of a fixed list."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(PAIRS_SEED))
    return order[: 2 * n : 2], order[1 : 2 * n : 2]


class InferenceGaps(Measure):
    """The approximation gap and the amortisation gap of some test examples, the same for all runs.

    With nll.method=ais, log p(x) is estimated by annealed importance sampling, whose chains start at the optimised
    posterior by default. Else it is estimated by importance weights.
    """

    @staticmethod
    def asked(cfg: Any) -> bool:
        return bool(cfg.gaps.examples)

    def __init__(self, cfg: Any, run: Trained) -> None:
        gaps.check(run.model)
        self.run, self.given, self.nll = run, cfg.gaps, cfg.nll
        if self.nll.method == "ais":
            ais.check(run.model)
            self.log_px: gaps.LogLikelihood = partial(ais.log_likelihood, ais=_sampler(self.nll))
        else:
            self.log_px = gaps.importance_weighted(self.given.nll_samples)
        if self.given.examples > (size := run.data.num_examples["test"]):
            raise UserError(
                f"gaps.examples={self.given.examples}: the test set has {size}: give {size} or less"
            )

    def results(self) -> dict[str, float]:
        model = self.run.model
        xs = (
            model.observe(block.to(device_of(model)))
            for block in blocks(first_examples(self.run, self.given.examples))
        )
        search = gaps.Search(self.given.steps, self.given.samples, self.given.learning_rate)
        found = gaps.estimate(model, xs, self.log_px, search)
        if (change := found["amortisation_gap_change"]) > UNFINISHED:
            log.warning(
                "the amortisation gap still grew by %.2g nats in the last quarter of gaps.steps=%s: give more",
                change,
                self.given.steps,
            )
        return {f"test/{name}": value for name, value in found.items()}

    def settings(self) -> dict[str, Any]:
        unused = {"nll_samples"} if self.nll.method == "ais" else set()
        used = {f"gaps.{name}": value for name, value in self.given.items() if name not in unused}
        return used | {"nll.method": self.nll.method}


def first_examples(run: Trained, n: int) -> Batch:
    """Return the first n test examples of a fixed order, in which classes are mixed."""
    parts = list(run.data.whole_test_set())
    x, y = (torch.cat(column) for column in zip(*parts, strict=True))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(EXAMPLES_SEED))[:n]
    return Batch(x[order], y[order])


MEASURES: tuple[type[Measure], ...] = (
    SampleDistances,
    SamplesPerSecond,
    AnnealedLikelihoods,
    GeodesicDistances,
    InferenceGaps,
)


def asked(cfg: Any) -> bool:
    """Return True if the settings ask for a measure."""
    if cfg.nll.examples and cfg.nll.method != "ais":
        raise UserError(
            f"nll.examples={cfg.nll.examples}: importance weights take all examples: leave it out, or set "
            "nll.method=ais"
        )
    return any(measure.asked(cfg) for measure in MEASURES)


def chosen(cfg: Any, run: Trained) -> list[Measure]:
    """Return the measures that the settings ask for.

    Raises:
        UserError: if this run cannot have one of them.
    """
    wanted = [measure.__name__ for measure in MEASURES if measure.asked(cfg)]
    if wanted and cfg.split != "test":
        raise UserError(f"split={cfg.split}: {', '.join(wanted)} need the test set: leave split out")
    change_sampling(cfg.sampling, run.model)
    return [measure(cfg, run) for measure in MEASURES if measure.asked(cfg)]


def sampling(run: Trained) -> Mapping[str, Any]:
    """Return the settings of a diffusion's sampler, {} for other models."""
    model = run.model
    if not isinstance(model, DiffusionModel):
        return {}
    return {"sampling.steps": model.sample_steps, "sampling.sampler": str(model.sampler)}
