"""The processor time of a training step by its parts, in microseconds, for vae and ladder_vae.

    python benchmarks/steps.py [--steps 100] [--markdown docs/performance.md]

A plain loop over latentlab's loader, model and objective is timed part by part. The last part is what `train.py` adds
to it. The loops take turns, and each figure is a median over their rounds.
"""

import argparse
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any
from unittest.mock import patch

import report
import torch
from bare.images import write
from frame import Finished, training_processor
from torch import nn
from torch.distributions import Bernoulli, Normal

import latentlab
from latentlab import trace
from latentlab.cli.build import build
from latentlab.models.base import GenerativeModel

START, END = "<!-- steps: begin -->", "<!-- steps: end -->"
MODELS, BATCH, ROUNDS = ("vae", "ladder_vae"), 128, 3
REST, LIGHTNING = "distributions and objective", "Lightning, callbacks, logging"
Times = dict[str, float]


class Parts:
    """Times parts of a loop. The time of a part leaves out those inside it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.open: list[tuple[str, float]] = []

    def start(self, name: str) -> None:
        self._charge()
        self.open.append((name, process_time()))

    def stop(self) -> None:
        self._charge()
        self.open.pop()
        if self.open:
            self.open[-1] = (self.open[-1][0], process_time())

    def _charge(self) -> None:
        if self.open:
            name, since = self.open[-1]
            self.seconds[name] += process_time() - since

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.start(name)
        yield
        self.stop()

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return call(*arguments, **named)

        return inner


def networks(model: GenerativeModel) -> Iterator[tuple[str, nn.Module]]:
    """The outermost networks of a model, with the names of their parts."""
    found: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{each}.") for each in found)
        if type(module).__module__.startswith("latentlab.nn") and not inside:
            found.append(path)
            first = path.partition(".")[0]
            yield (
                {"posterior": "encoder", "likelihood": "decoder"}.get(first, "networks between layers"),
                module,
            )


@contextmanager
def watched(parts: Parts, model: GenerativeModel) -> Iterator[None]:
    """Time the networks, the draws, the likelihood and the KL of a model."""
    with ExitStack() as stack:
        for name, network in networks(model):
            hooks = (
                network.register_forward_pre_hook(lambda *_, name=name: parts.start(name)),
                network.register_forward_hook(lambda *_: parts.stop()),
            )
            for hook in hooks:
                stack.callback(hook.remove)
        for owner, call, name in (
            (Normal, "rsample", "draw"),
            (Normal, "log_prob", "log q and log p"),
            (Bernoulli, "log_prob", "likelihood"),
            (trace, "kl_divergence", "KL"),
        ):
            stack.enter_context(patch.object(owner, call, parts.timed(name, getattr(owner, call))))
        yield


def loop(config: Any, parts: Parts | None = None) -> float:
    """Train one epoch in a plain loop, and return its processor time. The first epoch of a process warms up."""
    torch.manual_seed(0)
    module, data = build(config.module), build(config.data)
    data.prepare_data()
    data.setup("fit")
    model, objective = module.model, module.objective.at(latentlab_clock())
    optimizer = module.make_optimizer(model.parameters())
    at = parts.part if parts else partial(_untimed)
    start = process_time()
    with watched(parts, model) if parts else _untimed(""):
        batches = iter(data.train_dataloader())
        while True:
            with at("loader"):
                batch = next(batches, None)
            if batch is None:
                return process_time() - start
            with at(REST):
                loss = -objective(model, batch.x).mean()
            with at("backward"):
                optimizer.zero_grad()
                loss.backward()
            with at("optimiser"):
                optimizer.step()


@contextmanager
def _untimed(name: str) -> Iterator[None]:
    yield


def latentlab_clock() -> Any:
    """The end of a warm-up, so that every step has the same terms."""
    from latentlab.objectives import Clock

    return Clock(10**6, 1)


def train(settings: list[str]) -> float:
    """Train as `train.py` does, and return the processor time of the second epoch's steps."""
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()) as out:
        more = (
            "+callbacks.clock._target_=clock.Clock",
            "trainer.max_epochs=2",
            "logger=none",
            "figures=none",
        )
        latentlab.train([*settings, *more], f"{folder}/run", device="cpu")
        return training_processor(Finished(out.getvalue(), Path(folder)))


def step(model: str, steps: int) -> Times:
    """The microseconds of each part of a step."""
    with TemporaryDirectory() as root:
        write(Path(root), steps * BATCH, 10)
        settings = [
            f"model={model}",
            "data=binarised_mnist",
            "data.dataset=FashionMNIST",
            f"data.root={root}",
        ]
        settings += ["data.val_size=0", f"data.batch_size={BATCH}"]
        config = latentlab.compose(settings)
        rounds = [_round(config, settings) for _ in range(ROUNDS)]
    return {name: 1e6 / steps * median(times[name] for times in rounds) for name in rounds[-1]}


def _round(config: Any, settings: list[str]) -> Times:
    loop(config)
    parts = Parts()
    loop(config, parts)
    plain = loop(config)
    scale = plain / sum(parts.seconds.values())  # the timers take time themselves
    return {
        **{name: scale * spent for name, spent in parts.seconds.items()},
        LIGHTNING: train(settings) - plain,
    }


def table(found: dict[str, Times]) -> str:
    """A table in Markdown, the parts as rows and the models as columns."""
    names = list(dict.fromkeys(name for times in found.values() for name in times))
    names.sort(key=lambda name: -max(times.get(name, 0.0) for times in found.values()))
    rows = [["part", *found], ["---"] + ["---:"] * len(found)]
    rows += [
        [name, *(f"{times[name]:,.0f}" if name in times else "" for times in found.values())]
        for name in names
    ]
    rows.append(["**step**", *(f"**{sum(times.values()):,.0f}**" for times in found.values())])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    text = table({model: step(model, given.steps) for model in MODELS})
    print(
        f"microseconds of processor time a step, batch {BATCH}, {torch.get_num_threads()} threads\n\n{text}"
    )
    if given.markdown:
        report.replace_between(given.markdown, text, START, END)


if __name__ == "__main__":
    main()
