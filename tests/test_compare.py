"""The figure that compares runs."""

import runpy

import pytest
from matplotlib.image import imread
from omegaconf import OmegaConf

from latentlab.compare import bands, compare, main, read_run
from latentlab.errors import UserError
from latentlab.run.directory import RunDirectory


def write(folder, model="vae", seed=0, values=(-120.0, -110.0, -105.0), objective="elbo", components=1):
    """Write a run with two training rows for each epoch and the test row at the end."""
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "names": {"model": model, "data": "digits", "prior": "standard_normal", "objective": objective},
        "data": {"seed": seed, "batch_size": 32},
        "logger": {"name": str(folder)},
        "prior": {"num_components": components},
    }
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    rows = ["epoch,step,train/elbo,val/elbo"]
    for epoch, value in enumerate(values):
        rows += [
            f"{epoch},{10 * epoch},{value - 2},",
            f"{epoch},{10 * epoch + 5},{value},",
            f"{epoch},{10 * epoch + 5},,{value}",
        ]
    (folder / "metrics.csv").write_text("\n".join([*rows, f",99,,{values[-1]}"]) + "\n")
    return folder


def found(folder, metric="val/elbo", first=1):
    return bands([read_run(run, metric) for run in RunDirectory.find(folder)], first)


def test_seeds_of_one_experiment_are_a_mean_with_a_band(tmp_path):
    for seed, shift in enumerate((0.0, 1.0, 2.0)):
        values = [value + shift for value in (-120.0, -110.0, -105.0)]
        write(tmp_path / f"model=vae,seed={seed}", seed=seed, values=values)
    write(tmp_path / "stl", model="stl_vae", objective="stl")
    vae, stl = found(tmp_path)
    assert (vae.label, vae.runs, vae.epochs) == ("vae", 3, [1, 2, 3])
    assert vae.means == [-119.0, -109.0, -104.0] and vae.errors == [1.0, 1.0, 1.0]
    assert (stl.label, stl.runs, stl.errors) == ("stl_vae", 1, [0.0, 0.0, 0.0])


def test_a_band_has_the_epochs_that_all_seeds_reached(tmp_path):
    write(tmp_path / "a", seed=0)
    write(tmp_path / "b", seed=1, values=(-120.0, -110.0))
    assert found(tmp_path)[0].epochs == [1, 2]
    assert found(tmp_path, first=2)[0].epochs == [2]
    with pytest.raises(UserError, match="first=3"):
        found(tmp_path, first=3)


def test_a_label_has_only_the_differences(tmp_path):
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


def test_the_figure_has_a_line_and_a_band_for_each_experiment(tmp_path):
    for seed in (0, 1):
        write(tmp_path / f"a{seed}", seed=seed)
    write(tmp_path / "b", model="stl_vae")
    (axes,) = compare([tmp_path]).axes
    assert len(axes.lines) == len(axes.collections) == 2
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["vae: -105.00 ± 0.00 (2 seeds)", "stl_vae: -105.00"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("none out=a.png", "no run here"),
        ("run out=a.png metric=val/elb", "choose metric= one of train/elbo, val/elbo"),
        ("run", "--out"),
        ("out=a.png", "RUN"),
        ("run out=a.pdf", "png"),
        ("run out=a.png first=x", "--first"),
        ("damaged out=a.png", "damaged"),
        ("empty out=a.png", "it lacks names"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run")
    (write(tmp_path / "damaged") / "config.yaml").write_text("names: [")
    (write(tmp_path / "empty") / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match=words) as error:
        main(arguments.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("out", [("out=figures/elbo.png",), ("--out", "figures/elbo.png", "--first", "2")])
def test_the_command(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        write(tmp_path / "runs" / f"seed={seed}", seed=seed)
    monkeypatch.setattr("sys.argv", ["compare", "runs", *out])
    with pytest.warns(RuntimeWarning, match="sys.modules"):  # this test has imported the module already
        runpy.run_module("latentlab.compare", run_name="__main__")
    assert capsys.readouterr().out == "figures/elbo.png\n"
    assert min(imread(tmp_path / "figures" / "elbo.png").shape[:2]) > 500


def test_the_command_ends_with_one_line_after_a_mistake(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare", "none", "out=a.png"])
    with pytest.warns(RuntimeWarning, match="sys.modules"), pytest.raises(SystemExit, match=r"\Aerror: .*\Z"):
        runpy.run_module("latentlab.compare", run_name="__main__")
