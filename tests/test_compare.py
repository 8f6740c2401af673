"""The figure that compares runs: what is read, what is grouped, how runs are named."""

import subprocess
import sys

import pytest
from commands import ROOT, environment
from matplotlib.image import imread
from omegaconf import OmegaConf

from latentlab.compare import bands, compare, main, read_run, run_directories
from latentlab.errors import UserError


def write(folder, model="vae", seed=0, values=(-120.0, -110.0, -105.0), metric="val/elbo", **keys):
    """A run directory with a metric by epoch, two training rows an epoch, and the summary at the end."""
    folder.mkdir(parents=True)
    names = {
        "model": model,
        "data": "digits",
        "prior": "standard_normal",
        "objective": keys.get("objective", "elbo"),
    }
    config = {
        "seed": seed,
        "names": names,
        "data": {"seed": seed, "batch_size": 32},
        "logger": {"name": str(folder)},
    }
    OmegaConf.save(
        OmegaConf.create(config | {"prior": {"num_components": keys.get("components", 1)}}),
        folder / "config.yaml",
    )
    rows = [f"epoch,step,train/elbo,{metric}"]
    for epoch, value in enumerate(values):
        rows += [
            f"{epoch},{10 * epoch},{value - 2},",
            f"{epoch},{10 * epoch + 5},{value},",
            f"{epoch},{10 * epoch + 5},,{value}",
        ]
    (folder / "metrics.csv").write_text("\n".join([*rows, f",99,,{values[-1]}"]) + "\n")
    return folder


def found(*folders, metric="val/elbo", first=1):
    return bands([read_run(path, metric) for folder in folders for path in run_directories(folder)], first)


def test_seeds_of_one_experiment_are_a_mean_with_a_band(tmp_path):
    for seed, shift in enumerate((0.0, 1.0, 2.0)):
        write(
            tmp_path / f"model=vae,seed={seed}",
            seed=seed,
            values=[v + shift for v in (-120.0, -110.0, -105.0)],
        )
    write(tmp_path / "stl", model="stl_vae", objective="stl")
    vae, stl = found(tmp_path)
    assert (vae.label, vae.runs, vae.epochs) == ("vae", 3, [1, 2, 3])
    assert vae.means == [-119.0, -109.0, -104.0] and vae.errors == [1.0, 1.0, 1.0]
    assert (stl.label, stl.runs, stl.errors) == ("stl_vae", 1, [0.0, 0.0, 0.0])


def test_epochs_are_those_that_all_seeds_reached(tmp_path):
    write(tmp_path / "a", seed=0)
    write(tmp_path / "b", seed=1, values=(-120.0, -110.0))
    assert found(tmp_path)[0].epochs == [1, 2]
    assert found(tmp_path, first=2)[0].epochs == [2]
    with pytest.raises(UserError, match="no epoch from first=3 on that all 2 runs reached"):
        found(tmp_path, first=3)


def test_a_label_says_what_differs_and_no_more(tmp_path):
    write(tmp_path / "a", objective="elbo")
    write(tmp_path / "b", objective="stl")
    assert [band.label for band in found(tmp_path)] == ["vae, elbo", "vae, stl"]
    write(tmp_path / "c", objective="stl", components=9)
    assert [band.label for band in found(tmp_path)] == [
        "vae, elbo",
        "vae, stl, prior.num_components=1",
        "vae, stl, prior.num_components=9",
    ]


def test_several_values_of_an_epoch_are_averaged(tmp_path):
    write(tmp_path / "a")
    assert found(tmp_path, metric="train/elbo")[0].means == [-121.0, -111.0, -106.0]


def test_the_figure_holds_a_line_and_a_band_for_each_experiment(tmp_path):
    for seed in (0, 1):
        write(tmp_path / f"a{seed}", seed=seed)
    write(tmp_path / "b", model="stl_vae")
    (axes,) = compare([tmp_path]).axes
    assert len(axes.lines) == len(axes.collections) == 2
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["vae: -105.00 ± 0.00 (2 seeds)", "stl_vae: -105.00"]


def test_mistakes_are_one_line(tmp_path):
    run = write(tmp_path / "run")
    for arguments, words in {
        (str(tmp_path / "none"), "out=a.png"): "no run here",
        (
            str(run),
            "out=a.png",
            "metric=val/elb",
        ): "val/elb was not logged; choose metric= one of train/elbo, val/elbo",
        (str(run),): "usage: ",
        ("out=a.png",): "usage: ",
        (str(run), "out=a.png", "first=x"): "usage: ",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            main(arguments)
        assert "\n" not in str(error.value)


def test_as_a_command(tmp_path):
    write(tmp_path / "runs" / "seed=1")
    write(tmp_path / "runs" / "seed=2", seed=1)
    command = [sys.executable, "-m", "latentlab.compare", "runs", "out=figures/elbo.png"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "figures/elbo.png\n")
    assert min(imread(tmp_path / "figures" / "elbo.png").shape[:2]) > 500
    command[-2] = str(ROOT / "conf")
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
