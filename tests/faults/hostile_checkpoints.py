"""Hostile checkpoints: a function for each spoils the copy of a good run."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from canary import CODE, GOOD, OWNED, Spoil


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def both(write: Callable[[Path], Any]) -> Spoil:
    """Replace both checkpoints."""

    def spoil(run: Path) -> None:
        for path in (run / "checkpoints").iterdir():
            path.unlink()
        for name in ("best.ckpt", "last.ckpt"):
            write(run / "checkpoints" / name)

    return spoil


def state(**parts: Any) -> Spoil:
    """Change some parts of the state. `...` removes one."""
    good = torch.load(GOOD / "checkpoints" / "last.ckpt", weights_only=True)
    kept = {key: value for key, value in {**good, **parts}.items() if value is not ...}
    return both(lambda path: torch.save(kept, path))


def weights(change: Callable[[Any], Any]) -> Spoil:
    """Change the weights."""
    good = torch.load(GOOD / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state(state_dict=change(dict(good)))


def raw(
    content: bytes | Callable[[], bytes], compression: int = zipfile.ZIP_STORED, **members: bytes
) -> Spoil:
    """Write a checkpoint with a pickle and more members."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
            archive.writestr("archive/data.pkl", content() if callable(content) else content)
            for name, value in {"version": b"3\n", "byteorder": b"little", **members}.items():
                archive.writestr(f"archive/{name}", value)

    return both(write)


def pickled(value: Any) -> Spoil:
    return raw(lambda: pickle.dumps(value, 2))


def tensor(
    length: int, shape: tuple[int, ...], stride: tuple[int, ...], numbers: bytes = b"\0" * 16
) -> Spoil:
    """Write a state_dict of one tensor that claims to have some shape."""

    class Storages(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", length) if value is Storages else None

    def content() -> bytes:
        file = io.BytesIO()
        made = Call(torch._utils._rebuild_tensor_v2, Storages, 0, shape, stride, False, None)
        Storages(file, 2).dump({"state_dict": {"w": made}, "global_step": 1, "epoch": 0})
        return file.getvalue()

    return raw(content, **{"data/0": numbers})


def nested(times: int, twice: bool = False) -> list[Any]:
    value: list[Any] = []
    for _ in range(times):
        value = [value, value] if twice else [value]
    return value


def deep_pickle(times: int) -> bytes:
    return b"\x80\x02}X\x0a\x00\x00\x00state_dict" + b"]" * times + b"a" * (times - 1) + b"s."


def itself() -> dict[str, Any]:
    value: dict[str, Any] = {"global_step": 1, "epoch": 0}
    value["state_dict"] = value
    return value


def first_nan(found: dict[str, Any]) -> dict[str, Any]:
    name = next(iter(found))
    return {**found, name: torch.full_like(found[name], float("nan"))}


def first(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda found: {**found, next(iter(found)): value}


def overlapping(path: Path) -> None:
    """Write a zip file whose directory names the same megabyte 5,000 times."""
    torch.save(torch.load(GOOD / "checkpoints" / "last.ckpt", weights_only=True), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("last/data/900", b"\0" * 1_000_000)
        entry = archive.infolist()[-1]
        for number in range(901, 5901):
            archive.filelist.append(_copied(entry, f"last/data/{number}"))
        archive._didModify = True  # type: ignore[attr-defined]


def _copied(entry: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    other = zipfile.ZipInfo(name)
    for field in ("header_offset", "file_size", "compress_size", "CRC", "compress_type"):
        setattr(other, field, getattr(entry, field))
    return other


STEPS = {"global_step": 1, "epoch": 0}
BOMB = b"\0" * 200_000_000
CASES: dict[str, Spoil] = {
    "os.system in a checkpoint": pickled({"state_dict": Call(os.system, f"touch {OWNED}"), **STEPS}),
    "exec in a checkpoint": pickled({"state_dict": Call(exec, CODE), **STEPS}),
    "eval in a checkpoint": pickled(Call(eval, CODE)),
    "torch.hub in a checkpoint": pickled({"state_dict": Call(torch.hub.load, ".", "evil", "local"), **STEPS}),
    "torch.load in a checkpoint": pickled({"state_dict": Call(torch.load, "evil.pkl"), **STEPS}),
    "getattr in a checkpoint": pickled(
        {"state_dict": Call(getattr, Call(__import__, "os"), "system"), **STEPS}
    ),
    "numpy in a checkpoint": pickled({"state_dict": np.zeros(2), **STEPS}),
    "a class of this project in a checkpoint": pickled({"state_dict": Path(OWNED), **STEPS}),
    "a bare pickle": both(lambda path: path.write_bytes(pickle.dumps(Call(os.system, f"touch {OWNED}")))),
    "a bare pickle of text": both(lambda path: path.write_bytes(b"cos\nsystem\n(S'touch OWNED'\ntR.")),
    "torch's old format": both(
        lambda path: torch.save({"state_dict": {}, **STEPS}, path, _use_new_zipfile_serialization=False)
    ),
    "a compiled function": raw(
        pickle.dumps({}, 2), **{"constants.pkl": pickle.dumps((), 2), "code/x.py": b"x"}
    ),
    "a zip bomb": raw(pickle.dumps({}, 2), zipfile.ZIP_DEFLATED, **{"data/0": BOMB}),
    "a zip bomb as the pickle": raw(lambda: b"\x80\x02" + b"N0" * 50_000_000 + b"N.", zipfile.ZIP_DEFLATED),
    "members that overlap": both(overlapping),
    "a tensor of 40 GB": tensor(10**10, (10**10,), (1,)),
    "a tensor larger than its numbers": tensor(4, (10**10,), (1,)),
    "a tensor that repeats its numbers": tensor(4, (10**6, 10**6), (0, 0)),
    "a tensor outside of its numbers": tensor(4, (2,), (100,)),
    "a tensor of a negative size": tensor(4, (-1,), (1,)),
    "numbers that are missing": tensor(400, (400,), (1,)),
    "a long number": pickled({"state_dict": {}, "global_step": 1 << 8_000_000, "epoch": 0}),
    "a bytearray": raw(b"\x80\x05\x96" + struct.pack("<Q", 10**11) + b"."),
    "bytes": raw(b"\x80\x04\x8e" + struct.pack("<Q", 10**11) + b"."),
    "text of 100 GB": raw(b"\x80\x04\x8d" + struct.pack("<Q", 10**11) + b"."),
    "a memo of 2 billion": raw(b"\x80\x02Nr\xff\xff\xff\x7f."),
    "a protocol of the future": raw(b"\x80\xff."),
    "10,000 lists in one another, pickled": raw(deep_pickle(10_000)),
    "a million lists in one another, pickled": raw(deep_pickle(1_000_000)),
    "lists that hold one another twice": pickled({"state_dict": nested(60, twice=True), **STEPS}),
    "a state in itself": pickled(itself()),
    "no global_step": state(global_step=...),
    "text as global_step": state(global_step="1"),
    "a truth as global_step": state(global_step=True),
    "a negative global_step": state(global_step=-1),
    "no state_dict": state(state_dict=...),
    "a list as state_dict": state(state_dict=[1]),
    "null as state_dict": state(state_dict=None),
    "a number as state_dict": state(state_dict=3),
    "a list as the state": both(lambda path: torch.save([1], path)),
    "numbers as weights": weights(first(1.0)),
    "text as weights": weights(first("abc")),
    "numbers as names of weights": weights(lambda found: {1: torch.zeros(1), **found}),
    "NaN as weights": weights(first_nan),
    "infinity as weights": weights(first(torch.tensor(float("inf")))),
    "weights of another shape": weights(first(torch.zeros(1, 1))),
    "weights of another kind": weights(first(torch.zeros(4, 784, dtype=torch.bool))),
    "no weights": weights(lambda found: {}),
    "more weights": weights(lambda found: {**found, "model.more": torch.zeros(1)}),
    "a list as callbacks": state(callbacks=[1]),
    "text as the state of a callback": state(
        callbacks={"ResumeState": "abc", "Timing": 3, "BestCheckpoint": [1]}
    ),
    "another state of a callback": state(
        callbacks={"ResumeState": {"ranks": 3}, "Timing": {"examples": "x"}}
    ),
    "text as loops": state(loops="abc"),
    "empty loops": state(loops={}),
    "loops of text": state(loops={"fit_loop": {"state_dict": "x", "epoch_progress": 3}}),
    "a mapping as optimizer_states": state(optimizer_states={}),
    "no optimizer_states": state(optimizer_states=[]),
    "text as optimizer_states": state(optimizer_states=["abc"]),
    "an empty optimiser": state(optimizer_states=[{}]),
    "text as lr_schedulers": state(lr_schedulers="abc"),
    "numbers as lr_schedulers": state(lr_schedulers=[3]),
    "another version of Lightning": state(**{"pytorch-lightning_version": "abc"}),
    "a number as the version": state(**{"pytorch-lightning_version": 3}),
    "hyperparameters": state(hyper_parameters={"_instantiator": "os.system"}, hparams_name="x"),
    "an average that is none": state(current_model_state="abc", averaging_state=3),
    "a checkpoint that is cut": both(
        lambda path: path.write_bytes((GOOD / "checkpoints" / "last.ckpt").read_bytes()[:5000])
    ),
    "an empty checkpoint": both(lambda path: path.write_bytes(b"")),
    "a device as the checkpoint": both(lambda path: path.symlink_to("/dev/zero")),
    "a pipe as the checkpoint": both(os.mkfifo),
    "a folder as the checkpoint": both(Path.mkdir),
}
