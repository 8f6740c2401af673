"""Runs from an attacker: `python tests/faults/hostile.py` tries all of them.

`CASES` holds a function for each hostile file, which spoils a copy of a good run. Code that is executed leaves a file
whose name begins with OWNED.
"""

import io
import os
import pickle
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from forks import ROOT, Ended, forked

GOOD = ROOT / "tests" / "fixtures" / "vae" / "run"
OWNED = "OWNED"
TOUCH = ["touch", OWNED]
CODE = f"open('{OWNED}', 'w')"
Spoil = Callable[[Path], None]
CASES: dict[str, Spoil] = {}


# -- Configs


def config(**keys: Any) -> Spoil:
    """Set dotted keys, whose dots are written as two underscores."""
    return lambda run: rewrite(run, {key.replace("__", "."): value for key, value in keys.items()})


def rewrite(run: Path, keys: Mapping[str, Any]) -> None:
    path = run / "config.yaml"
    content = yaml.safe_load(path.read_text())
    for key, value in keys.items():
        *parents, last = key.split(".")
        node = content
        for parent in parents:
            node = node[parent]
        node[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=10**6))


def text(content: str | bytes) -> Spoil:
    """Replace the config."""
    raw = content if isinstance(content, bytes) else content.encode()
    return instead(lambda path: path.write_bytes(raw))


def instead(make: Callable[[Path], Any]) -> Spoil:
    """Put something else in the place of the config."""

    def spoil(run: Path) -> None:
        path = run / "config.yaml"
        path.unlink()
        make(path)

    return spoil


def prefixed(content: str) -> Spoil:
    """Write YAML before the good config."""
    return lambda run: text(content + (run / "config.yaml").read_text())(run)


RUN_RANKS = {"_target_": "latentlab.processes.ranks.run", "command": TOUCH, "number": 1}
OLD_RANKS = {"_target_": "latentlab.ranks.run", "command": TOUCH, "world": 1}
FLOW = "{_target_: latentlab.ranks.run, command: [touch, OWNED], world: 1}"
NEW_FLOW = "{_target_: latentlab.processes.ranks.run, command: [touch, OWNED], number: 1}"

# An interpolation is resolved after the trust check has seen the file.
for place in (
    *("data.seed", "data.protocol", "module.model.latent_dim", "module.model.prior", "module.eval_samples"),
    *("callbacks.progress.refresh_seconds", "callbacks.latents", "logger._target_", "trainer.max_epochs"),
    *("seed", "names.model", "model.latent_dim"),
):
    CASES[f"oc.create in {place}"] = lambda run, place=place: rewrite(
        run, {place: f"${{oc.create:{NEW_FLOW}}}"}
    )
CASES["oc.create of an old name"] = config(data__seed=f"${{oc.create:{FLOW}}}")
for name, value in {
    "oc.env": "${oc.env:HOME}",
    "oc.decode": "${oc.decode:'{_target_: os.system, command: touch OWNED}'}",
    "a nested interpolation": "${oc.env:${oc.env:HOME}}",
    "an escaped interpolation": "\\${oc.env:HOME}",
    "hydra's directory": "${hydra:runtime.cwd}",
    "a reference": "${module}",
    "the resolver of the sweep": "${sweep_name:}",
}.items():
    CASES[f"{name} in names.model"] = config(names__model=value)
CASES["an interpolation in a key"] = config(data__more={"${oc.env:HOME}": 1})
CASES["an interpolation as a target"] = config(module__model___target_="${oc.env:HOME}")

# What a hostile config would like to call, with its arguments.
CALLS: dict[str, dict[str, Any]] = {
    "os.system": {"command": f"touch {OWNED}"},
    "posix.system": {"command": f"touch {OWNED}"},
    "os.mkdir": {"path": OWNED},
    "subprocess.run": {"args": TOUCH},
    "subprocess.Popen": {"args": TOUCH},
    "subprocess.check_output": {"_args_": [TOUCH]},
    "builtins.eval": {"_args_": [CODE]},
    "builtins.exec": {"_args_": [CODE]},
    "builtins.open": {"file": OWNED, "mode": "w"},
    "builtins.__import__": {"name": "evil"},
    "runpy.run_path": {"path_name": "RUN/evil.py"},
    "importlib.import_module": {"name": "evil"},
    "pathlib.Path.touch": {"self": OWNED},
    "timeit.timeit": {"stmt": CODE, "number": 1},
    "functools.partial": {"_args_": [{"_target_": "os.system", "_partial_": True}, f"touch {OWNED}"]},
    "pickle.load": {"file": {"_target_": "builtins.open", "file": "RUN/evil.pkl", "mode": "rb"}},
    "torch.load": {"f": "RUN/evil.pkl", "weights_only": False},
    "torch.jit.load": {"f": "RUN/evil.pkl"},
    "torch.serialization.load": {"f": "RUN/evil.pkl", "weights_only": False},
    "torch.hub.load": {"repo_or_dir": "RUN", "model": "evil", "source": "local", "trust_repo": True},
    "torch.nn.modules.module.torch.load": {"f": "RUN/evil.pkl", "weights_only": False},
    "torch.utils.cpp_extension.load_inline": {"name": "x", "cpp_sources": ""},
    "numpy.load": {"file": "RUN/evil.npy", "allow_pickle": True},
    "numpy.savetxt": {"fname": OWNED, "X": [1]},
    "hydra.utils.get_method": {"path": "os.system"},
    "hydra.utils.instantiate": {"config": RUN_RANKS},
    "hydra.utils.call": {"config": OLD_RANKS},
    "omegaconf.OmegaConf.load": {"file_": "/etc/hostname"},
    "latentlab.processes.ranks.run": {"command": TOUCH, "number": 1},
    "latentlab.ranks.run": {"command": TOUCH, "world": 1},
    "latentlab.run.files.write_text": {"path": OWNED, "text": ""},
    "latentlab.run.results.write_results": {"path": OWNED, "results": {}},
    "latentlab.cli.build.instantiate": {"config": RUN_RANKS},
    "latentlab.cli.report.json.dump": {
        "obj": 1,
        "fp": {"_target_": "builtins.open", "file": OWNED, "mode": "w"},
    },
    "latentlab.sweeps.search.study.sqlite": {"path": OWNED},
    "latentlab.sweeps.search.study.journal": {"path": OWNED},
    "latentlab.tracking.tensorboard.tensorboard_logger": {"save_dir": OWNED},
    "latentlab.data.static.save_packed": {"cache": OWNED, "key": [1], "packed": [1]},
    "pytorch_lightning.Trainer": {"default_root_dir": OWNED, "profiler": "simple"},
    "pytorch_lightning.loggers.CSVLogger": {"save_dir": OWNED},
    "pytorch_lightning.callbacks.ModelCheckpoint": {"dirpath": OWNED},
    "pytorch_lightning.callbacks.LambdaCallback": {
        "setup": {
            "_target_": "functools.partial",
            "_args_": [{"_target_": "os.system", "_partial_": True}, "touch OWNED"],
        }
    },
    "pytorch_lightning.callbacks.DeviceStatsMonitor": {},
    "latentlab.callbacks.Latents.__init__": {},
    "evil.Evil": {},
}
PLACES = (
    "module.model.prior",
    "data.protocol",
    "callbacks.extra",
    "module.model.encoder.activation",
    "module.objective",
)
for number, (target, arguments) in enumerate(CALLS.items()):
    place = PLACES[number % len(PLACES)]
    CASES[f"{target} in {place}"] = lambda run, place=place, target=target, arguments=arguments: rewrite(
        run, {place: {"_target_": target, **spelled(arguments, run)}}
    )


def spelled(value: Any, run: Path) -> Any:
    """Replace RUN by the path of the run."""
    if isinstance(value, dict):
        return {key: spelled(each, run) for key, each in value.items()}
    if isinstance(value, list):
        return [spelled(each, run) for each in value]
    return value.replace("RUN", str(run)) if isinstance(value, str) else value


THRESHOLD = {"_target_": "latentlab.protocols.Threshold"}


def images(**keys: Any) -> Spoil:
    """Read a data set of torchvision from a folder."""
    return config(
        data={"_target_": "latentlab.data.TorchvisionData", "root": OWNED, "protocol": THRESHOLD, **keys}
    )


def source(name: str, **keys: Any) -> Spoil:
    """Read observations of a classical model."""
    target = f"latentlab.classical.sources.{name}"
    return config(
        data={"_target_": "latentlab.data.observations.Observations", "source": {"_target_": target, **keys}}
    )


SYSTEM = {"_target_": "os.system", "command": f"touch {OWNED}"}
SAMPLES = "latentlab.figures.samples"
CASES |= {
    "a target in a list": config(module__model__encoder__hidden=[4, [SYSTEM]]),
    "a target in a partial": config(
        module__model__prior={"_target_": "functools.partial", "_partial_": True, "func": SYSTEM}
    ),
    "a target in a mapping without a target": config(module__model__prior__x={"y": {"z": SYSTEM}}),
    "a partial of os.system as an optimiser": config(module__optimizer={**SYSTEM, "_partial_": True}),
    "an old callback with a target inside": config(
        callbacks__latents={"_target_": "latentlab.callbacks.Latents", "max_points": SYSTEM}
    ),
    "an old callback with a path as a name": config(
        **{"callbacks__latents": {"_target_": "latentlab.callbacks.Latents", "../../OWNED": 1}}
    ),
    "an old step size with a target": config(
        **{"steps": {"_target_": "os.system", "command": "touch OWNED"}, "module__model__steps": SYSTEM}
    ),
    "a figure whose name is a path": config(
        callbacks__figures={
            "_target_": "latentlab.callbacks.Figures",
            "../../OWNED": {"_target_": SAMPLES, "_partial_": True},
        }
    ),
    "a figure called at once": config(
        callbacks__figures={
            "_target_": "latentlab.callbacks.Figures",
            "samples": {"_target_": SAMPLES, "model": 1, "data": 2},
        }
    ),
    "a function with arguments by position": config(module__model__prior___args_=[1]),
    "a target that is a list": config(module__model__prior___target_=["os.system"]),
    "a target that is a mapping": config(module__model__prior___target_={"_target_": "os.system"}),
    "a target that is empty": config(module__model__prior___target_=""),
    "a target with lines": config(module__model__prior___target_="os.system\n\x1b[31m"),
    "instructions to Hydra": config(module__model__prior___recursive_=False),
    "another kind of module": config(module={"_target_": "torch.nn.ReLU"}),
    "another kind of data": config(data={"_target_": "torch.nn.ReLU"}),
    "another kind of part": config(module__model__prior={"_target_": "torch.nn.ReLU", "_partial_": True}),
    "no model": config(module__model=None),
    "a class of data as the model": config(module__model={"_target_": "latentlab.data.Digits"}),
    "a huge latent": config(module__model__latent_dim=10**12),
    "a large latent": config(module__model__latent_dim=10**9),
    "a latent of gigabytes": config(module__model__latent_dim=3 * 10**8),
    "a wide layer": config(module__model__encoder__hidden=[3 * 10**8]),
    "many layers": config(module__model__encoder__hidden=[4] * 40_000),
    "a number beyond 64 bits": config(module__model__latent_dim=10**40),
    "a negative size": config(module__model__latent_dim=-1),
    "text for a number": config(module__model__latent_dim="abc"),
    "infinity for a number": config(module__model__latent_dim=float("inf")),
    "many levels": config(model__levels=10**9),
    "another data set from a folder": images(),
    "options of a data set": images(root=".", options={"download": True, "root": OWNED}),
    "a transform of a data set": images(root=".", options={"transform": SYSTEM}),
    "a data set by the name of a module": images(root=".", dataset="utils"),
    "observations without an end": source("EarthquakeFile", path="/dev/zero"),
    "observations of a terminal": source("EarthquakeFile", path="/dev/tty"),
    "observations of a secret file": source("EarthquakeFile", path="/etc/passwd"),
    "many observations": source("NormalDraws", size=10**11, mean=0.0, precision=1.0, seed=0),
    "gigabytes of observations": source("NormalDraws", size=10**9, mean=0.0, precision=1.0, seed=0),
    "a Trainer with a profiler": config(trainer__profiler="simple", trainer__default_root_dir=OWNED),
    "a Trainer with plugins": config(trainer__plugins=[SYSTEM]),
    "another Trainer": config(trainer=SYSTEM),
    "a logger elsewhere": config(
        logger={"_target_": "latentlab.tracking.wandb.wandb_logger", "save_dir": OWNED}
    ),
    "another logger": config(logger=SYSTEM),
    "a checkpoint to resume from": config(ckpt_path="/dev/zero"),
    "a pretrained model": config(module__model__pretrained="/dev/zero"),
    "trust in the config": config(trust=["os"], module__model__prior=SYSTEM),
}

# -- YAML

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
CASES |= {
    "billion laughs": prefixed(LAUGHS),
    "laughs by merges": prefixed(
        "b0: &b0 {x: 1}\n"
        + "".join(f"b{i}: &b{i} {{<<: [*b{i - 1}, *b{i - 1}], y{i}: *b{i - 1}}}\n" for i in range(1, 60))
    ),
    "a list in itself": prefixed("loop: &loop [*loop]\n"),
    "a mapping in itself": prefixed("loop: &loop {again: *loop}\n"),
    "an anchor": prefixed("anchor: &anchor 1\n"),
    "10,000 lists in one another": prefixed("deep: " + "[" * 10_000 + "]" * 10_000 + "\n"),
    "10,000 mappings in one another": prefixed("deep: " + "{a: " * 10_000 + "1" + "}" * 10_000 + "\n"),
    "an unfinished list": prefixed("deep: " + "[" * 400_000 + "\n"),
    "400,000 values": prefixed("many: [" + "1," * 400_000 + "]\n"),
    "a file of 30 MB": prefixed("# " + "x" * 30_000_000 + "\n"),
    "a key of 900,000 letters": prefixed("x" * 900_000 + ": 1\n"),
    "a number of 900,000 digits": prefixed("n: " + "9" * 900_000 + "\n"),
    "a number of 900,000 hexadecimal digits": prefixed("n: 0x" + "f" * 900_000 + "\n"),
    "a number in base 60": prefixed("n: 1" + ":59" * 300_000 + "\n"),
    "a tag that calls": prefixed(f"call: !!python/object/apply:os.system ['touch {OWNED}']\n"),
    "a tag that evaluates": prefixed(f'call: !!python/object/new:eval ["{CODE}"]\n'),
    "a tag of a module": prefixed("call: !!python/module:evil\n"),
    "a binary": prefixed("x: !!binary aGVsbG8=\n"),
    "a set": prefixed("x: !!set {a, b}\n"),
    "a date": prefixed("x: !!timestamp 2001-01-01\n"),
    "a number as a key": prefixed("1: 2\n"),
    "a list as a key": prefixed("[1, 2]: 2\n"),
    "null as a key": prefixed("~: 2\n"),
    "a double key": prefixed("seed: 1\n"),
    "two documents": prefixed("a: 1\n---\n"),
    "no mapping": text("- 1\n- 2\n"),
    "an empty file": text(""),
    "zeros": text(b"\0" * 1000),
    "another encoding": text("seed: 0\n".encode("utf-16")),
    "text that is cut": lambda run: text((run / "config.yaml").read_text()[:1000])(run),
    "control characters": prefixed('"\\e[31m": "\\e[2J"\n'),
    "a line in a name": config(names__model="vae\nerror: owned"),
    "a folder": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
}
for part in ("module", "data", "callbacks", "names", "trainer", "logger", "model"):
    for value in (None, 3, [1]):
        CASES[f"{part}={value}"] = config(**{part: value})

# -- Checkpoints


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
        with zipfile.ZipFile(path, "w", compression) as archive:
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
CASES |= {
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

# -- The attack


def evil(run: Path) -> None:
    """Add files that execute something when they are read carelessly."""
    (run / "evil.py").write_text(f"{CODE}\nclass Evil: pass\n")
    (run / "hubconf.py").write_text(f"def evil(): {CODE}\n")
    (run / "evil.pkl").write_bytes(pickle.dumps(Call(os.system, f"touch {OWNED}")))
    np.save(run / "evil.npy", np.array([Call(os.system, f"touch {OWNED}")]), allow_pickle=True)


@dataclass(frozen=True)
class Attack:
    """The result of a command on a hostile run.

    Attributes:
        ended: the command's end.
        executed: the files that it should not have written.
    """

    ended: Ended
    executed: list[str]

    @property
    def refused(self) -> bool:
        """True if one line on standard error refused the run."""
        return self.ended.status == 1 and self.one_line

    @property
    def one_line(self) -> bool:
        lines = [line for line in self.ended.err.splitlines() if line.startswith("error: ")]
        return len(lines) <= 1 and "Traceback" not in self.ended.err + self.ended.out

    @property
    def survived(self) -> bool:
        """True if nothing was executed, and the command ended as a user expects."""
        return not self.executed and (self.refused or (self.ended.status == 0 and self.one_line))


COMMANDS: dict[str, tuple[str, ...]] = {
    "evaluate": ("evaluate.py", "run={run}", "nll.samples=2"),
    "resume": ("train.py", "resume={run}", "trainer.max_epochs=3"),
    "pretrained": (
        *("train.py", "model=latent_vdm", "data=binarised_digits", "logger=none", "callbacks=none"),
        *("encoder.hidden=[4]", "decoder.hidden=[4]", "model.latent_dim=2", "denoiser.embedding=8"),
        *("trainer.max_epochs=1", "model.eval_steps=[]", "hydra.run.dir={home}/new"),
        "model.pretrained={run}/checkpoints/best.ckpt",
    ),
}


def attack(spoil: Spoil, command: Iterable[str], home: Path) -> Attack:
    """Spoil a copy of the good run in the empty folder `home`, and run a command on it."""
    run = home / "run"
    shutil.copytree(GOOD, run)
    evil(run)
    spoil(run)
    known = {"run", "new", ".cache", ".config", ".netrc"}
    words = [word.format(run=run, home=home) for word in command]
    ended = forked(*words, home=home, timeout=60, memory=4000)
    found = [str(path) for path in home.rglob("*") if path.name.startswith(OWNED)]
    return Attack(ended, found + [path.name for path in home.iterdir() if path.name not in known])


def main(words: list[str]) -> None:
    """Try all cases, or those whose name contains a word, and print the result."""
    results: dict[str, Attack] = {}
    chosen = [name for name in CASES if not words or any(word in name for word in words)]
    for kind, command in COMMANDS.items():
        for name in chosen:
            print(name, file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                results[f"{kind}: {name}"] = found = attack(CASES[name], command, Path(folder))
            if not found.survived or words:
                print(f"{kind}: {name}: status {found.ended.status}, {found.ended.seconds:.1f} s, ", end="")
                print(
                    f"{found.ended.peak_mb:.0f} MB, executed {found.executed}\n    {found.ended.err[-400:]}"
                )
    print(summary(results))


def summary(results: Mapping[str, Attack]) -> str:
    longest = max(results, key=lambda name: results[name].ended.seconds)
    largest = max(results, key=lambda name: results[name].ended.peak_mb)
    return (
        f"{len({name.partition(': ')[2] for name in results})} files, {len(results)} commands: "
        f"executed {sum(bool(each.executed) for each in results.values())}, "
        f"tracebacks {sum(not each.one_line for each in results.values())}, "
        f"refused {sum(each.refused for each in results.values())}, "
        f"survived {sum(each.survived for each in results.values())}, "
        f"most memory {results[largest].ended.peak_mb:.0f} MB ({largest}), "
        f"longest time {results[longest].ended.seconds:.1f} s ({longest})"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
