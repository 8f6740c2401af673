"""The time of an epoch against batch size, latents, layers, draws and devices: a figure with one panel for each.

    python benchmarks/scaling.py docs/figures/scaling.png [--images 10000] [--processor]

Each point is one run of `train.py`, whose second epoch is timed.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
from frame import HERE, Processes, training
from rows import CLOCK, IMAGES, QUIET, images, train

# The settings of each point, and the setting on the axis.
PANELS: Mapping[str, tuple[Sequence[int], Sequence[str]]] = {
    "batch size": ((32, 64, 128, 256, 512, 1024), ["data.batch_size={}"]),
    "number of latents": ((2, 8, 32, 128, 512), ["model.latent_dim={}"]),
    "layers of latents": ((1, 2, 3, 4, 5), ["model=hierarchical_vae", "model.latent_dims={}"]),
    "draws K of the IWAE": ((1, 2, 5, 10, 20), ["model=iwae", "objective.samples={}"]),
    "devices (processes on the CPU)": ((1, 2), ["trainer=ddp_cpu", "trainer.devices={}"]),
}


def value(setting: str, point: int) -> str:
    """The setting of a point. The latents of several layers are a list."""
    return setting.format([32] * point if "latent_dims" in setting else point).replace(" ", "")


def measure(processes: Processes, place: Path, settings: Sequence[str], point: int) -> float:
    """The seconds of an epoch."""
    words = (*IMAGES, *QUIET, CLOCK, "data.val_size=0", "data.batch_size=128", "trainer.max_epochs=2")
    names = {setting.partition("=")[0] for setting in settings}
    kept = [word for word in words if word.partition("=")[0] not in names]
    command = train("train.py", training, *kept, *(value(setting, point) for setting in settings))
    return training(processes(command, place))


def draw(path: Path, found: Mapping[str, Mapping[int, float]], number: int) -> None:
    """Draw the panels."""
    figure, axes = plt.subplots(1, len(found), figsize=(3 * len(found), 2.8), layout="constrained")
    for axis, (name, times) in zip(axes, found.items(), strict=True):
        axis.plot([*times], [*times.values()], "o-", color="tab:blue")
        if max(times) > 30:
            axis.set_xscale("log")
        axis.set_xticks([*times], [str(point) for point in times], minor=False)
        axis.minorticks_off()
        axis.set_ylim(0, 1.1 * max(times.values()))
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"seconds for {number:,} images")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument(
        "--processor", action="store_true", help="processor time, for a machine with other work"
    )
    given = parser.parse_args()
    processes, found = Processes(HERE.parent, by_processor=given.processor), {}
    with TemporaryDirectory() as folder:
        place = Path(folder)
        processes(images(given.images), place)
        for name, (points, settings) in PANELS.items():
            found[name] = {point: measure(processes, place, settings, point) for point in points}
            print(name, {point: round(seconds, 3) for point, seconds in found[name].items()}, flush=True)
    draw(given.figure, found, given.images)


if __name__ == "__main__":
    main()
