"""Hostile files config.yaml: a function for each spoils the copy of a good run."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from canary import CODE, OWNED, TOUCH, Spoil

CASES: dict[str, Spoil] = {}


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
    *("callbacks.progress.refresh_seconds", "callbacks.latents", "logger.x._target_", "trainer.max_epochs"),
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
        callbacks__drawn={
            "_target_": "latentlab.callbacks.Figures",
            "../../OWNED": {"_target_": SAMPLES, "_partial_": True},
        }
    ),
    "a figure called at once": config(
        callbacks__drawn={
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
        logger={"wandb": {"_target_": "latentlab.tracking.wandb.wandb_logger", "save_dir": OWNED}}
    ),
    "another logger": config(logger={"x": SYSTEM}),
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
