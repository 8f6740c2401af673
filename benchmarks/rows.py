"""The rows of the table. Each compares a command of latentlab with a bare loop or another command."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from frame import (
    Command,
    Failed,
    Finished,
    Row,
    peak,
    seconds,
    training,
    training_processor,
    training_wall,
    whole,
    whole_processor,
)

ROOT = "{place}/data"
RUN = "{place}/run"
CLOCK = "+callbacks.clock._target_=clock.Clock"
IMAGES = ("data=binarised_mnist", "data.dataset=FashionMNIST", f"data.root={ROOT}")
COURSE = ("model.latent_dim=10", "data.batch_size=128", "data.val_size=0")
DIGITS = "data=binarised_digits"
QUIET = ("logger=none", "callbacks=none")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# The training set of the digits.
NUMBER_OF_DIGITS = 1257


@dataclass(frozen=True)
class Size:
    """The amount of work of the rows.

    Attributes:
        images: training images of a data set like MNIST.
        epochs: epochs of a whole process on them.
        digits: epochs of a run on the digits.
        convolutions: training images of a convolutional model.
        jobs: jobs of a sweep.
        test: test images of an evaluation.
        nll: test images of an NLL.
        samples: draws of an NLL.
        repeats: alternations of most rows.
        heavy: alternations of the rows that take longest.
    """

    images: int
    epochs: int
    digits: int
    convolutions: int
    jobs: int
    test: int
    nll: int
    samples: int
    repeats: int
    heavy: int


FULL = Size(60_000, 5, 11, 320, 20, 2000, 50, 5000, repeats=3, heavy=1)
QUICK = Size(6_000, 2, 4, 160, 4, 500, 10, 5000, repeats=1, heavy=1)
# For the tests: everything runs, and no figure means anything.
TINY = Size(40, 1, 1, 40, 2, 20, 10, 5, repeats=1, heavy=1)


def train(name: str, read: Callable[[Finished], float], *settings: str, **variables: str) -> Command:
    """`train.py` with these settings in a new run directory."""
    return Command(name, ["train.py", *settings, "hydra.run.dir={folder}/run"], read, variables)


def images(number: int, test: int = 100) -> Command:
    """The command that makes a data set like MNIST for a row."""
    return Command("images", ["bare/images.py", ROOT, f"{number}", f"{test}"], seconds)


def bare(
    script: str, epochs: int, batch: int, read: Callable[[Finished], float], *more: str, **variables: str
) -> Command:
    """A bare loop on the images of the row."""
    words = [f"bare/{script}.py", ROOT, "--epochs", f"{epochs}", "--batch", f"{batch}", *more]
    return Command(f"bare {script}", words, read, variables)


def neighbour(size: Size) -> Row:
    epochs = f"trainer.max_epochs={(size.digits + 1) // 2}"
    alone = replace(train("alone", training_wall, DIGITS, CLOCK, *QUIET, epochs), cores=2)
    return Row(
        "neighbour",
        "training on the digits beside one busy process / alone, on 2 cores",
        replace(alone, name="beside", beside=True),
        alone,
        goal=1.3,
        repeats=size.repeats,
    )


def epoch(size: Size) -> Row:
    settings = (*IMAGES, *COURSE, CLOCK, "figures=none", "trainer.max_epochs=2")
    return Row(
        "epoch",
        f"an epoch of {size.images:,} images, batch 128: train.py / bare loop",
        train("train.py", whole, *settings),
        bare("vae", 2, 128, whole, "--latent", "10"),
        goal=1.05,
        prepare=[images(size.images)],
        repeats=size.repeats,
    )


def digits(size: Size) -> Row:
    return _digits("digits", "with figures and W&B", 1.2, size, "logger=wandb")


def digits_quiet(size: Size) -> Row:
    return _digits("digits_quiet", "without figures and W&B", 1.2, size, "logger=none", "figures=none")


def _digits(name: str, manner: str, goal: float, size: Size, *settings: str) -> Row:
    epochs = f"trainer.max_epochs={size.digits}"
    return Row(
        name,
        f"processor time of an epoch on the digits, batch 32: train.py {manner} / bare loop",
        train("train.py", whole_processor, DIGITS, CLOCK, epochs, *settings, **ONE_THREAD),
        bare("vae", size.digits, 32, whole_processor, "--latent", "32", **ONE_THREAD),
        goal,
        prepare=[images(NUMBER_OF_DIGITS)],
        repeats=size.repeats,
    )


def process(size: Size) -> Row:
    epochs = f"trainer.max_epochs={size.epochs}"
    return Row(
        "process",
        f"{size.epochs} epochs of {size.images:,} images with scoring and figures, whole process / course script",
        train("train.py", seconds, *IMAGES, *COURSE, epochs),
        bare("course", size.epochs, 128, seconds),
        goal=0.35,
        prepare=[images(size.images, size.images // 6)],
        repeats=size.heavy,
    )


def start(size: Size) -> Row:
    torch = Command("import torch", ["-c", "import torch"], seconds)
    first = ("+callbacks.clock._target_=clock.FirstStep", "trainer.max_epochs=1", "+trainer.max_steps=1")
    return Row(
        "start",
        "start of the process to the end of the first step / import torch",
        train("train.py", _first_step, DIGITS, *first, "logger=none", "figures=none"),
        torch,
        goal=1.6,
        prepare=[torch],
        repeats=size.repeats,
    )


def _first_step(done: Finished) -> float:
    lines = [line for line in done.out.splitlines() if line.startswith("first step: ")]
    if not lines:
        raise Failed("no step was taken")
    moment, processor = map(float, lines[0].removeprefix("first step: ").split())
    return processor if done.by_processor else moment - done.started


def show_help(size: Size) -> Row:
    return Row(
        "help",
        "train.py --help / import hydra",
        Command("train.py", ["train.py", "--help"], seconds),
        Command("import hydra", ["-c", "import hydra"], seconds),
        goal=4,
        repeats=size.repeats,
    )


def sweep(size: Size) -> Row:
    seeds = ",".join(map(str, range(size.jobs)))
    words = (DIGITS, "logger=none", "figures=none", "trainer.max_epochs=8")
    command = [
        "train.py",
        "-m",
        *words,
        f"seed={seeds}",
        "hydra.launcher.n_jobs=2",
        "hydra.sweep.dir={folder}/sweep",
    ]
    return Row(
        "sweep",
        f"a sweep of {size.jobs} jobs on the digits, 2 at a time / half the sum of their training seconds",
        Command("sweep", command, _sweep_share),
        None,
        goal=1.2,
        repeats=size.heavy,
        unit="",
    )


def _sweep_share(done: Finished) -> float:
    found = list((done.folder / "sweep").rglob("summary.json"))
    spent = sum(json.loads(path.read_text())["time/train_seconds"] for path in found)
    return done.seconds / (spent / 2)


def evaluation(size: Size) -> Row:
    def scored(batch: int) -> Command:
        words = ["scoring.py", RUN, f"batch_size={batch}", f"nll.samples={min(50, size.samples)}"]
        return Command(f"batch_size={batch}", words, training)

    return Row(
        "evaluation",
        f"evaluate.py on {size.test:,} images, with 50 draws of the NLL: batch_size=1000 / 50",
        scored(1000),
        scored(50),
        goal=None,
        prepare=[images(200, size.test), _trained("vae")],
        repeats=size.repeats,
    )


def nll(size: Size) -> Row:
    return _nll("nll", size, "vae", 1.25, "32,512,512,784")


def nll_hierarchy(size: Size) -> Row:
    networks = ("32,512,512,784", "32,256,32", "16,256,64")
    return _nll("nll_hierarchy", size, "hierarchical_vae", 1.5, *networks)


def _nll(name: str, size: Size, model: str, goal: float, *widths: str) -> Row:
    words = ["scoring.py", RUN, f"nll.samples={size.samples}", "--less", "nll.samples=0"]
    rows = f"{size.nll * size.samples}"
    return Row(
        name,
        f"processor time of evaluate.py nll.samples={size.samples}, {model} / the products of its networks of z",
        Command("evaluate.py", words, training_processor),
        Command("products", ["bare/products.py", "--rows", rows, *widths], training_processor),
        goal,
        prepare=[images(200, size.nll), _trained(model)],
        repeats=size.repeats,
    )


def _trained(model: str) -> Command:
    words = ("train.py", f"model={model}", *IMAGES, *QUIET, "data.val_size=0", "trainer.max_epochs=1")
    return Command("trained", [*words, f"hydra.run.dir={RUN}"], seconds)


def vdm_step(size: Size) -> Row:
    return _step("vdm_step", "vdm", "vdm", size)


def conv_ladder_step(size: Size) -> Row:
    return _step("conv_ladder_step", "conv_ladder_vae", "conv_ladder", size)


def _step(name: str, model: str, script: str, size: Size) -> Row:
    settings = (*IMAGES, CLOCK, *QUIET, "data.val_size=0", "data.batch_size=32", "trainer.max_epochs=2")
    return Row(
        name,
        f"training steps of {model}, batch 32: train.py / bare loop",
        train("train.py", training, f"model={model}", *settings),
        bare(script, 2, 32, training),
        goal=1.05,
        prepare=[images(size.convolutions, test=10)],
        repeats=size.repeats,
    )


def memory(size: Size) -> Row:
    return Row(
        "memory",
        "peak memory of train.py with scoring and figures, less that of the course script",
        train("train.py", peak, *IMAGES, *COURSE, "trainer.max_epochs=1"),
        bare("course", 1, 128, peak),
        goal=50,
        prepare=[images(size.images // 10, size.images // 10)],
        difference=True,
        unit="MB",
        repeats=size.heavy,
    )


# Rows that a quick benchmark leaves out, as each has a row that is much the same.
LONG = ("digits_quiet", "nll_hierarchy")
ROWS: dict[str, Callable[[Size], Row]] = {
    "neighbour": neighbour,
    "epoch": epoch,
    "digits": digits,
    "digits_quiet": digits_quiet,
    "process": process,
    "start": start,
    "help": show_help,
    "sweep": sweep,
    "evaluation": evaluation,
    "nll": nll,
    "nll_hierarchy": nll_hierarchy,
    "vdm_step": vdm_step,
    "conv_ladder_step": conv_ladder_step,
    "memory": memory,
}
