"""The user's own images, in every format, and the mistakes in them."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import QUICK, call, refusal
from PIL import Image
from torch.nn.functional import interpolate

from latentlab.cli.checks import check_config
from latentlab.data import ImageFiles
from latentlab.data.arrays import LUMA, Conversion, scale_of
from latentlab.errors import UserError
from latentlab.protocols import Continuous
from latentlab.run.config import read_config
from latentlab.run.results import read_results

GREY = np.random.RandomState(0).randint(0, 256, (40, 6, 8)).astype(np.uint8)
COLOUR = np.random.RandomState(1).randint(0, 256, (40, 6, 8, 3)).astype(np.uint8)
Y = np.arange(40) % 4


def own(path: Path, **settings: Any) -> ImageFiles:
    data = ImageFiles(Continuous(), path, **settings)
    data.setup()
    return data


def picture(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def folder(root: Path, **files: np.ndarray | bytes) -> Path:
    """A folder of PNG files, named with `__` for `/`."""
    for name, content in files.items():
        path = root / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else picture(content))
    root.mkdir(exist_ok=True)
    return root


def every(data: ImageFiles) -> dict[bytes, int]:
    """All images with their labels."""
    splits = (data.train, data.val, data.test)
    return {bytes(x.numpy()): int(y) for images in splits for x, y in zip(*images, strict=True)}


def expected(pixels: np.ndarray, labels: np.ndarray) -> dict[bytes, int]:
    return {bytes(np.ascontiguousarray(x)): int(y) for x, y in zip(pixels, labels, strict=True)}


def save(root: Path, kind: str) -> Path:
    """Save the same grey images with labels in one format."""
    path = root / f"own.{kind}"
    if kind == "npz":
        np.savez(path, images=GREY / 255, labels=Y[:, None])
    elif kind == "pt":
        torch.save((torch.from_numpy(GREY)[:, None], torch.from_numpy(Y)), path)
    elif kind == "dict.pt":
        torch.save(
            {"data": torch.from_numpy(GREY).float(), "targets": torch.from_numpy(Y), "note": "x"}, path
        )
    else:
        return folder(
            root / "own", **{f"class{y}__{i:02d}": x for i, (x, y) in enumerate(zip(GREY, Y, strict=True))}
        )
    return path


@pytest.mark.parametrize("kind", ["npz", "pt", "dict.pt", "folder"])
def test_every_format_gives_the_same_images_and_labels(tmp_path: Path, kind: str) -> None:
    data = own(save(tmp_path, kind))
    assert data.shape == (1, 6, 8) and data.labelled and data.num_classes == 4
    assert data.num_examples == {"train": 28, "val": 6, "test": 6}
    assert every(data) == expected(GREY, Y)


@pytest.mark.parametrize("axis", [1, 3])
def test_colour_may_come_first_or_last(tmp_path: Path, axis: int) -> None:
    np.save(tmp_path / "own.npy", np.moveaxis(COLOUR, 3, axis))
    data = own(tmp_path / "own.npy")
    assert data.shape == (3, 6, 8) and not data.labelled
    assert every(data).keys() == expected(np.moveaxis(COLOUR, 3, 1), Y).keys()


def test_stored_splits_are_kept_and_a_given_size_makes_another_validation_set(tmp_path: Path) -> None:
    names = {"train": slice(0, 20), "valid": slice(20, 30), "test": slice(30, 40)}
    np.savez(
        tmp_path / "own.npz",
        **{f"{a}_{b}": v[s] for a, s in names.items() for b, v in (("x", GREY), ("y", Y))},
    )
    files = {f"{a}__c{Y[i]}__{i:02d}": GREY[i] for a, s in names.items() for i in range(40)[s]}
    for place in (tmp_path / "own.npz", folder(tmp_path / "own", **files)):
        data = own(place)
        assert data.num_examples == {"train": 20, "val": 10, "test": 10}
        assert sorted(data.test.y.tolist()) == sorted(Y[30:].tolist())
        assert own(place, val_size=4).num_examples == {"train": 26, "val": 4, "test": 10}


def test_a_missing_label_is_minus_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=GREY, y=Y - 1)
    data = own(tmp_path / "own.npz")
    assert not data.labelled and every(data) == expected(GREY, Y - 1)


def test_the_shuffle_depends_on_its_seed_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", GREY)
    one, same, other = (own(tmp_path / "own.npy", split_seed=n) for n in (0, 0, 1))
    assert torch.equal(one.test.x, same.test.x) and not torch.equal(one.test.x, other.test.x)


def test_conversions() -> None:
    x = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert Conversion(channels=1)(x).unique().tolist() == [76]
    assert Conversion(channels=3)(x[:, :1]).shape == (1, 3, 4, 4)
    assert Conversion(invert=True)(x)[0, :, 0, 0].tolist() == [0, 255, 255]
    ramp = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4) * 17
    small = Conversion(resize=[2, 2])(ramp).float()
    assert small.shape == (1, 1, 2, 2) and abs(small.mean() - ramp.float().mean()) < 1


@pytest.mark.parametrize(
    ("values", "scale"),
    [([0, 1], 255), ([False, True], 255), ([0.0, 0.5, 1.0], 255), ([0, 2], 1), ([0.0, 254.6], 1)],
)
def test_the_scale_of_pixels(values: list[Any], scale: int) -> None:
    assert scale_of([np.array(values)], "x") == scale


def test_transparent_pixels_are_white_and_16_bits_are_scaled(tmp_path: Path) -> None:
    clear = np.zeros((2, 2, 4), np.uint8)
    deep = np.full((2, 2), 65535, np.uint16)
    for name, pixels in (("clear", clear), ("deep", deep)):
        data = own(folder(tmp_path / name, a=pixels, b=pixels, c=pixels))
        assert (data.train.x == 255).all()


def test_parquet_files_hold_pictures(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    (tmp_path / "own" / "data").mkdir(parents=True)
    for split, chosen in (("train", slice(0, 30)), ("test", slice(30, 40))):
        rows = [{"bytes": picture(x), "path": None} for x in GREY[chosen]]
        parquet.write_table(
            table({"image": rows, "label": Y[chosen]}), tmp_path / f"own/data/{split}-0-of-1.parquet"
        )
    assert every(own(tmp_path / "own")) == expected(GREY, Y)


SMALL, OTHER, RGB = GREY[0], GREY[0, :5], COLOUR[0]
WRONG_FOLDERS: dict[str, dict[str, Any]] = {
    r".*b\.png is no picture": {"a": SMALL, "b": b"no picture"},
    r".*a\.png has 6x8 pixels and .*b\.png has 5x8: .*data\.resize=": {"a": SMALL, "b": OTHER},
    r".*a\.png is grey and .*b\.png is in colour: give data\.channels=": {"a": SMALL, "b": RGB},
    r".*own holds no picture": {},
    r".*a\.png has no label": {"a": SMALL, "k__b": SMALL},
    r".*own has no training images, only test": {"test__a": SMALL},
    r".*own holds splits \(test\) beside other folders": {"test__a": SMALL, "k__b": SMALL},
    r"data\.test_size=1 and data\.val_size=1 leave nothing to train on": {"a": SMALL, "b": SMALL},
}


@pytest.mark.parametrize(("line", "files"), WRONG_FOLDERS.items(), ids=WRONG_FOLDERS)
def test_a_wrong_folder_is_refused(tmp_path: Path, line: str, files: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        own(folder(tmp_path / "own", **files))


WRONG_ARRAYS: dict[str, dict[str, Any]] = {
    r".* holds 39 labels for 40 images": {"x": GREY, "y": Y[:39]},
    r".* pixels from -1 to 1 follow no rule": {"x": GREY / 127.5 - 1},
    r".* some pixels are NaN": {"x": np.full((3, 2, 2), np.nan)},
    r".* pixels of type complex128": {"x": GREY * 1j},
    r".* fractions from 0 to 1\.0001 are neither": {"x": GREY / 255 * 1.0001},
    r".* the pixels of one split end at 255 and those of another at 1": {
        "x_train": GREY,
        "x_test": GREY / 255,
    },
    r".* shape \(40, 48\)": {"x": GREY.reshape(40, 48)},
    r".* holds no images": {"x": GREY[:0]},
    r".* labels of shape \(40, 4\)": {"x": GREY, "y": np.eye(4)[Y]},
    r".* labels of shape \(40,\)": {"x": GREY, "y": Y - 2},
    r".* has the keys a, b, and no training images": {"a": GREY, "b": Y},
    r".* name the same thing": {"x": GREY, "images": GREY},
    r".* splits have images of": {"x_train": GREY, "x_test": GREY[:, 1:]},
}


@pytest.mark.parametrize(("line", "arrays"), WRONG_ARRAYS.items(), ids=WRONG_ARRAYS)
def test_wrong_arrays_are_refused(tmp_path: Path, line: str, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(UserError, match=f"^{line}"):
        own(tmp_path / "own.npz")


def test_pickles_and_other_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1], dtype=object))
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps([1]))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    for name in ("empty.npy", "empty.npz", "empty.pt", "archive.zip"):
        (tmp_path / name).write_bytes(b"")
    for path in (*tmp_path.iterdir(), tmp_path / "missing"):
        with pytest.raises(UserError, match=rf"^[^\n]*{path.name}[^\n]*$"):
            own(path)


def test_images_that_outgrow_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentlab.data.arrays.machine", lambda: 10**6)
    monkeypatch.setattr(Conversion, "__call__", None)  # refused before any work
    np.save(tmp_path / "own.npy", GREY)
    for path in (tmp_path / "own.npy", folder(tmp_path / "own", a=SMALL)):
        with pytest.raises(UserError, match=r"GiB .* give a smaller data\.resize"):
            own(path, resize=[4096, 4096])


def test_a_small_file_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros((400, 64, 64), np.uint8))
    monkeypatch.setattr("latentlab.data.formats.SMALL", 10**6)
    with pytest.raises(UserError, match="bytes of arrays are packed into"):
        own(tmp_path / "zeros.npz")
    monkeypatch.setattr("latentlab.data.pictures.MOST_PIXELS", 47)
    with pytest.raises(UserError, match=r"8x6 pixels are more than 47"):
        own(folder(tmp_path / "own", a=SMALL))


def test_a_header_that_asks_for_all_memory_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**17, 8, 8)}
    )
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(UserError, match=r"own\.npz is no archive of arrays"):
        own(tmp_path / "own.npz")


@pytest.mark.parametrize("wrong", [{"split_seed": 2**32}, {"resize": [4097, 8]}], ids=str)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    node = {"_target_": "latentlab.data.ImageFiles", "path": "x", **wrong}
    with pytest.raises(UserError, match=rf"data\.{next(iter(wrong))}"):
        check_config(node, node, "data")


def test_large_pictures_are_converted_in_parts() -> None:
    x = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (2, 3, 600, 9)).astype(np.uint8))
    whole = interpolate(x.float(), (50, 4), mode="bilinear", antialias=True).round().clamp(0, 255)
    assert torch.equal(Conversion(resize=[50, 4])(x), whole.to(torch.uint8))
    grey = (x * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True).round()
    assert torch.equal(Conversion(channels=1)(x), grey.to(torch.uint8))


def test_hidden_folders_and_stray_tables_are_left_out(tmp_path: Path) -> None:
    place = folder(tmp_path / "own", **{f"{name}__{i}": GREY[i] for name in "ab" for i in range(4)})
    folder(place / ".ipynb_checkpoints", a=SMALL)
    (place / "a" / "x.parquet").write_bytes(b"")
    assert own(place).num_examples == {"train": 6, "val": 1, "test": 1}
    assert own(place).num_classes == 2


def test_a_format_that_starts_a_program_is_not_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(SMALL).save(file, "eps")
    with pytest.raises(UserError, match=r"a\.png is no picture"):
        own(folder(tmp_path / "own", a=file.getvalue()))


def test_a_run_is_resumed_and_evaluated_with_the_same_images_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    big = np.random.RandomState(0).randint(0, 256, (40, 28, 28)).astype(np.uint8)
    np.save("faces.npy", big)
    new = (*QUICK[1:], "trainer.log_every_n_steps=1", "data=images", "hydra.run.dir=run")
    assert "data.path=nowhere.npy" in refusal(call("train.py", *new, "data.path=nowhere.npy"))
    assert [path.name for path in tmp_path.iterdir()] == ["faces.npy"]
    assert call("train.py", *new, "data.path=faces.npy").status == 0
    config = read_config(Path("run/config.yaml"))
    monkeypatch.setenv("LATENTLAB_DATA", str(tmp_path))
    name = f"binarised_images_faces_{config['data']['sha256'][:8]}"
    assert config["names"]["data"] == name == read_results(Path("run/summary.json"))["data"]
    Path("faces.npy").rename("moved.npy")
    evaluate = ("run=run", "nll.samples=1", "figures.draw=false")
    assert "give data.path=PATH" in refusal(call("evaluate.py", *evaluate))
    exported = call("evaluate.py", *evaluate, "data.path=moved.npy", "export=latents")
    assert exported.status == 0 and Path("run/export/latents.npz").exists()
    resumed = ("resume=run", "trainer.max_epochs=2")
    assert call("train.py", *resumed, "data=images", "data.path=moved.npy").status == 0
    assert read_config(Path("run/config.yaml"))["names"]["data"] == name
    np.save("moved.npy", big[::-1])
    again = ("data.path=moved.npy", "ckpt_path=run/checkpoints/last.ckpt", "trainer.max_epochs=3")
    assert "data.sha256=" in refusal(call("train.py", *new[:2], *new[3:], *again))
    assert "add data=images" in refusal(call("train.py", "data.path=moved.npy", "logger=none"))
    assert "data.sha256=" in refusal(call("evaluate.py", *evaluate))
