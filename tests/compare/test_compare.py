"""Figures and tables of several runs."""

import json
import re
import runpy

import pytest
from matplotlib.image import imread
from omegaconf import OmegaConf

from latentlab.compare import curves, rate_distortion, table
from latentlab.compare.__main__ import main
from latentlab.compare.curves import band
from latentlab.compare.rate_distortion import point, read_rate, short
from latentlab.compare.runs import collect
from latentlab.errors import UserError
from latentlab.run.metrics import read_curve
from latentlab.run.results import read_results, write_evaluation

PROTOCOL = "latentlab.protocols.Threshold"


def write(
    folder,
    model="vae",
    seed=0,
    values=(-120.0, -110.0, -105.0),
    objective="elbo",
    components=1,
    protocol=PROTOCOL,
    **more,
):
    """Write a finished run with two training rows for each epoch and the test row at the end."""
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "names": {"model": model, "data": "digits", "prior": "standard_normal", "objective": objective},
        "data": {"seed": seed, "batch_size": 32},
        "logger": {"name": str(folder)},
        "prior": {"num_components": components},
        "protocol": {"_target_": protocol},
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
    results = {"test/elbo": values[-1], "model": model, **more}
    (folder / "summary.json").write_text(json.dumps(results))
    return folder


def collected(folder, metric="val/elbo"):
    return collect([folder], lambda run: read_curve(run.metrics, metric))[0]


def found(folder, metric="val/elbo", first=1):
    return [band(each, first) for each in collected(folder, metric)]


def test_seeds_of_one_experiment_are_a_mean_with_a_band(tmp_path):
    for seed, shift in enumerate((0.0, 1.0, 2.0)):
        values = [value + shift for value in (-120.0, -110.0, -105.0)]
        write(tmp_path / f"model=vae,seed={seed}", seed=seed, values=values)
    write(tmp_path / "stl", model="stl_vae", objective="stl")
    vae, stl = found(tmp_path)
    assert (vae.label, vae.runs, vae.epochs) == ("vae, elbo", 3, [1, 2, 3])
    assert vae.means == [-119.0, -109.0, -104.0] and vae.errors == [1.0, 1.0, 1.0]
    assert (stl.label, stl.runs, stl.errors) == ("stl_vae, stl", 1, [0.0, 0.0, 0.0])


def test_runs_on_different_files_are_no_seeds(tmp_path):
    for seed in (1, 2):
        path = write(tmp_path / str(seed), seed=seed) / "config.yaml"
        config = OmegaConf.load(path)
        OmegaConf.save(OmegaConf.merge(config, {"data": {"source": {"path": f"{seed}.csv"}}}), path)
    assert [len(each.runs) for each in collected(tmp_path)] == [1, 1]


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
        "vae, elbo, prior.num_components=1",
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
    figure = curves(collected(tmp_path), "val/elbo")
    (axes,) = figure.axes
    assert len(axes.lines) == len(axes.collections) == 2
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["vae: -105.00 ± 0.00 (2 seeds)", "stl_vae: -105.00"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("none out=a.png", "no run here"),
        ("unfinished out=a.png", "has not finished"),
        ("run out=a.png metric=val/elb", "choose metric= one of train/elbo, val/elbo"),
        ("run", "out=FILE"),
        ("run figure=rate_distortion", "out=FILE"),
        ("run figure=rate_distortion out=a.tex", ".svg"),
        ("run figure=rate_distortion out=a.png metric=test/elbo", "no metric"),
        ("run figure=rate_distortion out=a.png", "test/kl"),
        ("run table=html", "markdown"),
        ("run table=csv metric=test/nll", "choose of test/elbo"),
        ("out=a.png", "RUN"),
        ("run out=a.txt", ".pdf"),
        ("run out=a.png first=x", "--first"),
        ("run figure=samples out=a.png rows=0", "rows"),
        ("run figure=rate_distortion out=a.png rows=2", "rows=2"),
        ("run table=csv mean=true", "mean=True"),
        ("run figure=samples out=a.png trust=os", "os cannot be trusted"),
        ("run figure=samples out=a.png", "checkpoint"),
        ("damaged out=a.png", "damaged"),
        ("empty out=a.png", "it lacks names"),
        ("dry out=a.png", "dry run"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run")
    (write(tmp_path / "damaged") / "config.yaml").write_text("names: [")
    (write(tmp_path / "empty") / "config.yaml").write_text("{}")
    (write(tmp_path / "unfinished") / "summary.json").unlink()
    write(tmp_path / "dry", dry_run=2)
    with pytest.raises(UserError, match=words) as error:
        main(arguments.split())
    assert "\n" not in str(error.value)


def test_runs_that_cannot_be_compared_are_named_and_left_out(tmp_path, capsys):
    write(tmp_path / "whole")
    (write(tmp_path / "running") / "summary.json").unlink()
    (write(tmp_path / "cut") / "config.yaml").write_text("names: [")
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "job.json").write_text("{}")
    main([str(tmp_path), "table=csv"])
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2
    assert [
        name in line for name, line in zip(("cut", "failed", "running"), shown.err.splitlines(), strict=True)
    ]


def test_bounds_of_different_protocols_are_drawn_with_a_remark(tmp_path, capsys):
    write(tmp_path / "a")
    write(tmp_path / "b", protocol="latentlab.protocols.Dynamic")
    (axes,) = curves(collected(tmp_path), "val/elbo").axes
    assert "digits dynamic" in axes.get_title() and "digits threshold" in axes.get_title()
    assert [band.label for band in found(tmp_path)] == ["vae, threshold", "vae, dynamic"]
    main([str(tmp_path), "table=csv"])
    assert "cannot be compared" in capsys.readouterr().err


def test_tables_have_mean_deviation_error_and_number(tmp_path):
    for seed, value in enumerate((-105.0, -104.0, -103.0)):
        write(tmp_path / f"model=vae,seed={seed}", seed=seed, values=[value])
    write(tmp_path / "stl_50%", model="stl_vae", objective="stl")
    experiments = collect([tmp_path], lambda run: read_results(run.summary))[0]
    rows = table(experiments, (), "csv").splitlines()
    assert rows[1] == f'"vae, elbo",3,-104.0,1.0,{1 / 3**0.5}'
    assert rows[2] == '"stl_vae, stl",1,-105.0,,'
    assert "| vae, elbo | 3 | −104.00 ± 1.00 (0.58) |" in table(experiments, (), "markdown")
    assert re.search(r"│ vae, elbo +│ 3 │ −104.00 ± 1.00 \(0.58\) │", table(experiments, (), "text"))
    latex = table(experiments, ["test/elbo"], "latex")
    assert r"vae, elbo & 3 & $-$104.00 $\pm$ 1.00 (0.58) \\" in latex and r"stl\_vae" in latex


def test_a_table_names_unequal_settings_of_its_columns(tmp_path, capsys):
    names = ("test/fid_classifier_n8", "test/elbo")
    for name, reference in (("a", "10 test"), ("b", "20 test")):
        run = write(tmp_path / name, model=name)
        (run / "checkpoints").mkdir()
        chosen = {"checkpoint": "best.ckpt", "fid.reference": reference}
        write_evaluation(run / "evaluation.json", dict.fromkeys(names, 1.0), chosen)
    main([str(tmp_path), "table=text", "metric=test/fid_classifier_n8"])
    assert "fid.reference=10 test and 20 test" in capsys.readouterr().err
    main([str(tmp_path), "table=text", "metric=test/elbo"])
    assert "fid.reference" not in capsys.readouterr().err


def test_the_points_of_the_rate_distortion_plane_are_means_over_seeds(tmp_path, capsys):
    for seed, kl in enumerate((20.0, 22.0)):
        write(tmp_path / f"a{seed}", seed=seed, **{"test/kl": kl, "test/reconstruction": -100.0})
    write(tmp_path / "b", components=9, **{"test/kl": 1.0, "test/reconstruction": -150.0})
    experiments = collect([tmp_path], read_rate)[0]
    both = point(experiments[0])
    assert (both.rate.mean, both.rate.deviation) == (21.0, 2**0.5)
    assert (both.distortion.mean, both.distortion.deviation) == (100.0, 0.0)
    (axes,) = rate_distortion(experiments).axes
    assert axes.get_xscale() == "linear"
    (joined,) = [line for line in axes.lines if line.get_linewidth() == 0.8]
    assert joined.get_xydata().tolist() == [[1.0, 150.0], [21.0, 100.0]]  # by rate
    for line in axes.lines:
        if line.get_linestyle() == "--":  # rate and distortion add up to one ELBO
            elbos = line.get_xydata().sum(1)
            assert max(elbos) - min(elbos) < 1e-9
    write(tmp_path / "c", model="autoencoder")
    main([str(tmp_path), "figure=rate_distortion", f"out={tmp_path}/rd.png"])
    assert min(imread(tmp_path / "rd.png").shape[:2]) > 500
    assert f"left out {tmp_path}/c" in capsys.readouterr().err


def test_labels_of_points_are_what_differs():
    labels = ["vae, objective.beta=0.1, prior.k=2", "vae, objective.beta=1e-06, prior.k=2"]
    assert short(labels) == ["beta=0.1", "beta=1e-06"]
    assert short(labels[:1]) == ["vae, beta=0.1, k=2"]


@pytest.mark.parametrize("suffix", ["pdf", "svg", "tex", "md", "csv"])
def test_the_name_chooses_the_form(tmp_path, suffix):
    out = tmp_path / "new" / f"elbo.{suffix}"
    main([str(write(tmp_path / "run")), f"out={out}"])
    assert out.stat().st_size > 0


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


def test_the_command_ends_with_one_line_after_a_mistake(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare", "none", "out=a.png"])
    with pytest.warns(RuntimeWarning, match="sys.modules"), pytest.raises(SystemExit, match="1"):
        runpy.run_module("latentlab.compare", run_name="__main__")
    assert re.fullmatch("error: .*\n", capsys.readouterr().err)
