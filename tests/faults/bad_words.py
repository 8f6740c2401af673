"""Bad command lines, by kind. Each must be refused in one line that contains certain words."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("data=binarised_digits", "logger=none", "callbacks=none", "trainer.max_epochs=1")


class Bad(NamedTuple):
    """A bad command line.

    Attributes:
        kind: the kind of the mistake.
        script: the script.
        words: its words.
        names: words that the line on standard error must contain.
    """

    kind: str
    script: str
    words: tuple[str, ...]
    names: tuple[str, ...]


ELSEWHERE = {
    **{"epochs=10": "trainer.max_epochs", "n_epochs=10": "trainer.max_epochs", "lr=0.1": "optimizer.lr"},
    **{
        "learning_rate=0.1": "optimizer.lr",
        "wd=0.1": "wd",
        "batch_size=3": "data.batch_size",
    },
    **{"bs=3": "data.batch_size", "z_dim=2": "model.latent_dim", "latent_size=2": "model.latent_dim"},
    **{"dataset=mnist": "did you mean data?", "data_dir=x": "data", "outdir=x": "hydra.run.dir"},
    **{
        "checkpoint=x": "ckpt_path",
        "gpus=1": "trainer=gpu",
        "cuda=true": "trainer=gpu",
        "device=cuda": "trainer=gpu",
    },
    **{"grad_clip=1": "trainer.gradient_clip_val", "fp16=true": "trainer.precision", "opt=sgd": "optimizer"},
    **{"patience=3": "callbacks=early_stopping", "loss=elbo": "objective", "wandb=true": "logger=wandb"},
    **{"hidden=64": "encoder.hidden", "manual_seed=3": "seed", "n_jobs=2": "hydra.launcher.n_jobs"},
    **{
        "lr_scheduler=cosine": "scheduler",
        "arch=vae": "model",
        "exp=cnn": "experiment",
        "val_split=9": "data.val_size",
    },
}
DASHED = {
    **{
        "--epochs 10": "trainer.max_epochs=10",
        "--epochs=10": "trainer.max_epochs=10",
        "-lr 0.1": "optimizer.lr=0.1",
    },
    **{
        "--batch-size 3": "data.batch_size=3",
        "--seed 3": "seed=3",
        "-seed=3": "seed=3",
        "--model vae": "model=vae",
    },
    **{
        "-model=vae": "model=vae",
        "--gpus": "trainer=gpu",
        "--no-wandb": "logger=none",
        "--latent-dim 2": "model.latent_dim=2",
    },
    **{
        "--optimizer.lr=1": "optimizer.lr=1",
        "--multi": "--multirun",
        "--hlep": "--help",
        "-x": "-x",
        "-e 3": "-e",
    },
}
# Word, and the word to type instead.
QUOTES = {
    "ckpt_path=runs/epoch=9-step=390.ckpt": "'ckpt_path=\"runs/epoch=9-step=390.ckpt\"'",
    "ckpt_path=runs/a (1).ckpt": "'ckpt_path=\"runs/a (1).ckpt\"'",
    "data.root=/tmp/(1)": "'data.root=\"/tmp/(1)\"'",
    "hydra.run.dir=a(b": "'hydra.run.dir=\"a(b\"'",
    "hydra.run.dir=a#b": "'hydra.run.dir=\"a#b\"'",
    "hydra.run.dir=a&b": "'hydra.run.dir=\"a&b\"'",
    "hydra.run.dir=x~y": "'hydra.run.dir=\"x~y\"'",
    "hydra.run.dir=a=b": "'hydra.run.dir=\"a=b\"'",
    "hydra.run.dir=it's": "quote the value",
    "hydra.run.dir=${": "'hydra.run.dir=\"${\"'",
    "hydra.run.dir='a": "'hydra.run.dir=\"a\"'",
    "hydra.run.dir=a!": "'hydra.run.dir=\"a!\"'",
}
FORM = {
    **{
        "seed": "key=value",
        "model": "did you mean model=",
        "vae": "did you mean",
        "10": "key=value",
        "x.ckpt": "ckpt_path",
    },
    **{
        "seed:1": "seed=1",
        "seed 1": "seed=1",
        "seed = 1": "seed=1",
        "seed==1": "seed=1",
        "seed=1;compile=true": "seed=1",
    },
    **{
        "seed=1 compile=true": "seed=1 compile=true",
        "seed=1,compile=true": "seed=1 compile=true",
        "=1": "a key is missing",
    },
    **{
        "=": "a key is missing",
        "seed=": "seed= has no value",
        "model=": "model= has no value",
        "ckpt_path=": "no value",
    },
    **{
        "~": "a key is missing",
        "+": "key=value",
        "seed=[1": "brackets",
        "encoder.hidden=[16,": "brackets",
        "seed={a:": "brackets",
    },
    **{
        "seed=choice(": "choice(...) cannot be read",
        "seed=rnge(1,3)": "rnge(...) cannot be read",
        "a b=1": "a b=1",
    },
    **{
        "seed=" + "1" * 5000: "seed=1",
        "x" * 5000: "xxx",
        "model=" + "v" * 5000: "model",
        "seed=" + "[" * 300: "brackets",
    },
    **{"": "empty word", " ": "empty word", "seed=1\r": "Windows", "-m\r": "Windows", "\t": "empty word"},
}
APART = {
    "seed = 1": "type seed=1",
    "seed =1": "type seed=1",
    "seed= 1": "type seed=1",
    "model = vae": "type model=vae",
}
EDITOR = {
    **{
        "logger.wandb.notes=“a b”": "'logger.wandb.notes=\"a b\"'",
        "—m": "type -m",
        "–m": "type -m",
        "—multirun": "type --multirun",
    },
    **{"seed=‘1’": "type \"seed='1'\"", "seed＝1": "type seed=1", "hydra.run.dir=a–b": "hydra.run.dir=a-b"},
    **{
        "seed=1\u200b": "type seed=1",
        "\u00a0seed=1": "seed=1",
        "seed=1，2": "seed=1,2",
        "−m": "type -m",
        "seed=−1": "seed=-1",
    },
}
ALONE = (
    *(
        "sweep=optuna",
        "sweep=grid",
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=gp",
        "hydra.sweeper.n_trials=3",
    ),
    *("hydra.sweeper.nope=1", "+hydra.sweeper.x=3", "hydra/launcher=slurm_1gpu", "hydra/launcher=nope"),
    *("hydra.launcher.n_jobs=2", "hydra.sweep.dir=x", "hydra.sweep.subdir=x"),
    *(
        "seed=1,2",
        "model=vae,mog_vae",
        "seed=range(1,3)",
        "seed=choice(1,2)",
        "prior=glob(*)",
        "optimizer.lr=interval(0,1)",
    ),
    *("logger.wandb.notes=a,b", "encoder.hidden=[16],[32]"),
)
NOTHING = (
    *(
        "seed=range(1,1)",
        "seed=range(3,1)",
        "prior=glob(zz*)",
        "seed=glob(*)",
        "seed=choice()",
        "model=glob([])",
    ),
    *("seed=range(1,3,-1)",),
)
SWEPT = {
    **{
        "hydra.run.dir=x": "hydra.sweep.dir",
        "sweep=optuna,grid": "one value",
        "hydra.launcher.n_jobs=1,2": "one value",
    },
    **{
        "hydra.launcher.n_jobs=0": "hydra.launcher.n_jobs=0",
        "hydra.launcher.n_job=2": "hydra.launcher.n_jobs?",
    },
    **{
        "hydra/launcher=nope": "hydra/launcher=nope",
        "hydra.sweep.dir=": "hydra.sweep.dir",
        'hydra.sweep.dir=""': "empty",
    },
    **{
        "hydra.sweeper.n_trials=3": "sweep=optuna",
        "hydra/sweeper/sampler=gp": "sweep=optuna",
        "seed=1,1": "give each value once",
    },
    **{
        "model.latent_dim=2,0": "model.latent_dim=0",
        "optimizer.lr=1e-3,-1": "optimizer.lr=-1",
        "prior=mog,nope": "prior=nope",
    },
    **{
        "objective=iwae,nope": "objective=nope",
        "encoder.hidden=[16],[0]": "encoder.hidden",
        "seed=1,x": "seed=x",
    },
    **{"model=vae,ppca": "protocol", "sed=1,2": "did you mean seed?", "chain=noising,noised_data": "chain"},
    **{
        "hydra.launcher.metric=nope": "hydra.launcher.metric=nope",
        "data.val_size=5000,3": "data.val_size=5000",
    },
    **{"callbacks.best.monitor=val/elboo": "did you mean val/elbo?", "ckpt_path=nope.ckpt": "nope.ckpt"},
}
SEARCHED = {
    **{
        "seed=1": "needs a space",
        "seed=1,2": "luckiest seed",
        "optimizer.lr=interval(0,nan)": "finite",
        "optimizer.lr=interval(0,inf)": "finite",
    },
    **{
        "optimizer.lr=interval(1,0)": "optimizer.lr=interval(1,0)",
        "optimizer.lr=interval(1,1)": "empty",
        "optimizer.lr=interval(-1,1)": "optimizer.lr=-1",
    },
    **{
        "optimizer.lr=tag(log,interval(0,1))": "above 0",
        "optimizer.lr=tag(lg,interval(1,2))": "the only tag is log",
    },
    **{
        "model.latent_dim=range(0,3)": "model.latent_dim=0",
        "prior=mog,nope": "prior=nope",
        "model.latent_dim=choice(2,x)": "model.latent_dim=x",
    },
    **{
        "optimizer.lrr=interval(1e-4,1e-3)": "did you mean optimizer.lr?",
        "model.latent_dim=range(3,3)": "nothing",
    },
}
TRIALS = {
    **{
        "hydra.sweeper.n_trials=0": "n_trials=0",
        "hydra.sweeper.direction=up": "direction=up",
        "hydra.sweeper.nope=1": "hydra.sweeper.nope",
    },
    **{
        "hydra.sweeper.metric=test/elbo": "test/elbo",
        "hydra.sweeper.seed=-1": "seed=-1",
        "hydra/sweeper/sampler=nope": "sampler=nope",
    },
    **{
        "hydra/sweeper/pruner=nope": "pruner=nope",
        "hydra.sweeper.max_failures=0": "max_failures=0",
        "hydra.sweeper.sampler.nope=1": "nope",
    },
}
OPTIONS = {
    **{
        "--config-name=nope": "--config-name=nope",
        "--config-path=/nope": "/nope",
        "--config-dir=missing": "missing",
        "--cfg": "--cfg",
    },
    **{
        "--config-name=evaluate": "evaluate.py",
        "--cfg nope": "nope",
        "--package optimizer": "--cfg job",
        "--resolve": "--cfg job",
    },
    **{
        "--info nope": "nope",
        "--experimental-rerun x": "resume=RUN",
        "--experimental-rerun": "expected one argument",
    },
    **{
        "--shell-completion": "install=bash",
        "-sc install=fish2": "install=bash",
        "-m --cfg job": "do not go together",
    },
    **{
        "--multirun --info": "do not go together",
        "--run -m": "do not go together",
        "--config-dir": "expected one argument",
    },
}
HYDRA = {
    **{
        "hydra.nope=1": "hydra.nope",
        "hydra=1": "hydra=1",
        "hydra.mode=nope": "hydra.mode=nope",
        "hydra.job.chdir=maybe": "maybe",
    },
    **{
        "hydra.job_logging.root.level=NOPE": "NOPE",
        "hydra.searchpath=[nope]": "nope",
        "hydra.runtime.output_dir=x": "no effect",
    },
    **{
        "hydra.help.header=x": "no effect",
        "hydra.output_subdir=x": "no effect",
        "hydra.job.num=3": "no effect",
    },
    **{
        "hydra/job_logging=nope": "hydra/job_logging=nope",
        "hydra.run.nope=1": "hydra.run.nope",
        "hydra.job.name=": "no value",
    },
}
IDLE = {
    **{
        "+bogus=1": "bogus",
        "++bogus=1": "bogus",
        "+bogus.x=1": "bogus",
        "+callbacks.bogus=1": "callbacks.bogus",
        "+prior@x=mog": "x",
    },
    **{
        "+callbacks.bogus.x=1": "callbacks.bogus",
        "+logger.bogus=1": "logger",
        "logger.wandb.project=x": "logger.wandb.project",
    },
    **{
        "+trainer.bogus=1": "trainer.bogus",
        "+figures.bogus=1": "figures",
        "+model.bogus=1": "model.bogus",
        "+data.bogus=1": "data.bogus",
    },
    **{
        "+optimizer.bogus=1": "optimizer.bogus",
        "+names.bogus=1": "names",
        "+seed.x=1": "seed",
        "denoiser.width=4": "denoiser",
    },
    **{
        "noise_schedule=cosine": "noise_schedule",
        "noise_schedule.gamma_max=3": "noise_schedule",
        "step_size.scale=1": "step_size",
    },
    **{"chain=noised_data": "chain", "denoiser=mlp": "denoiser", "prior@x=mog": "prior"},
}
OTHER_MODELS = {
    **{
        "model=autoencoder prior=mog": "prior",
        "model=vdm prior=mog": "prior",
        "model=vdm encoder=cnn": "encoder",
    },
    **{
        "model=ppca prior=vamp": "prior",
        "model=ppca optimizer=sgd": "optimizer",
        "model=gamma_mle encoder=cnn": "encoder",
    },
    **{"model=vae model.steps=3": "model.steps", "model=vae prior.num_components=3": "prior.num_components"},
    **{
        "experiment=vdm_digits model=mog_vae": "experiment=vdm_digits",
        "experiment=vdm_digits model=vae": "experiment=vdm_digits",
    },
    **{
        "experiment=mog_prior model=vdm": "latent_dim",
        "experiment=ppca model=vae": "model.em",
        "experiment=cnn model=ppca": "ppca",
    },
    **{
        "data=earthquakes": "do not go together",
        "data=gamma_draws": "data=binarised_mnist",
        "model=vdm objective=iwae": "objective=vlb",
    },
}
DELETED = (
    *(
        "~data",
        "~data=binarised_digits",
        "~prior",
        "~model",
        "~logger",
        "~callbacks",
        "~trainer",
        "~seed",
        "~names",
    ),
    *("~bogus", "~compile", "~optimizer", "~hydra/launcher", "~bogus.x", "~callbacks.best"),
)
GROUP_VALUES = {
    **{
        "model=[vae,vdm]": "model takes one option",
        "model=[vae]": "model takes one option",
        "model={a:1}": "model takes one option",
    },
    **{
        "prior=[mog,vamp]": "prior takes one option",
        "data=[]": "data takes one option",
        "model=3": "model=3",
        "prior=null": "prior=null",
    },
    **{
        "model=true": "model=true",
        "encoder=1.5": "encoder=1.5",
        "model=VAE": "did you mean vae?",
        "prior=MOG": "did you mean mog?",
    },
    **{
        "prior=Mog": "did you mean mog?",
        "model=vea": "did you mean",
        "trainer=1": "trainer=1",
        "+model=vae": "leave out the +",
    },
    **{
        "+prior=mog": "leave out the +",
        "+seed=1": "leave out the +",
        "model/vae=1": "model/vae",
        "model.=1": "model.",
    },
}
PATHS = {
    **{
        'hydra.run.dir=""': "the path is empty",
        "hydra.run.dir=''": "the path is empty",
        "hydra.run.dir=": "hydra.run.dir",
    },
    **{
        'ckpt_path=""': "the path is empty",
        "ckpt_path=nope.ckpt": "nope.ckpt",
        "ckpt_path=.": "ckpt_path",
        "ckpt_path=~/nope.ckpt": "nope.ckpt",
    },
    **{
        "hydra.run.dir=/proc/x": "/proc/x",
        "hydra.run.dir=" + "a" * 300: "too long",
        "hydra.run.dir=/dev/null/x": "/dev/null",
    },
}
INTERPOLATED = {
    **{
        "model.latent_dim=${seed}": "model.latent_dim",
        "model.latent_dim=${nope}": "nope",
        "model.latent_dim=${oc.env:NOPE}": "NOPE",
    },
    **{
        "model.latent_dim=${nope:1}": "nope",
        "seed=${seed}": "Recursive",
        "model.latent_dim=${.x}": "x",
        "seed=${names.model}": "vae",
    },
}
EVALUATED = {
    **{
        "": "ckpt_path",
        "ckpt_path=": "ckpt_path",
        "ckpt_path=null": "ckpt_path",
        "ckpt_path=nope.ckpt": "nope.ckpt",
        "ckpt_path=.": "ckpt_path",
    },
    **{
        "ckpt_path=a=b.ckpt": 'ckpt_path="a=b.ckpt"',
        "x.ckpt": "ckpt_path",
        "run=nope": "nope",
    },
    **{
        "bach_size=3": "did you mean batch_size?",
        "model=vae": "model",
        "+bogus=1": "bogus",
        "batch_size=1,2": "-m",
        "run=": "run",
    },
    **{
        "ckpt_path=x batch_size=0": "batch_size=0",
        "ckpt_path=x nll.samples=many": "nll.samples",
        "ckpt_path=x accelerator=abacus": "abacus",
    },
    **{
        "ckpt_path=x samples=0": "samples=0",
        "--checkpoint x": "ckpt_path=x",
        "ckpt_path=x wandb=maybe": "wandb",
        "--config-name=train": "train.py",
    },
}


def rows() -> Iterator[Bad]:
    """Yield all bad command lines."""
    yield from _trained("name of another program", ELSEWHERE)
    yield from _trained("option with dashes", DASHED, split=True)
    yield from _trained("needs quotes", QUOTES)
    yield from _trained("not key=value", FORM)
    yield from _trained("not key=value", APART, split=True)
    yield from _trained("character of an editor", EDITOR)
    yield from _trained("needs -m", {word: "-m" for word in ALONE})
    yield from _trained(
        "sweep over nothing", {word: word.partition("=")[0] for word in NOTHING}, before=("-m",)
    )
    yield from _trained("sweep", SWEPT, before=("-m",))
    yield from _trained("search", SEARCHED, before=("-m", "sweep=blank"))
    yield from _trained("search", TRIALS, before=("-m", "sweep=optuna"))
    yield from _trained("option of Hydra", OPTIONS, split=True, common=())
    yield from _trained("setting of Hydra", HYDRA)
    yield from _trained("no effect", IDLE)
    yield from _trained("another model", OTHER_MODELS, split=True, common=("logger=none",))
    yield from _trained("left out", {word: word.strip("~").partition("=")[0] for word in DELETED})
    yield from _trained("value of a group", GROUP_VALUES, common=QUICK[1:])
    yield from _trained("path", PATHS)
    yield from _trained("interpolation", INTERPOLATED)
    yield from _trained("misspelt option", {f"{group}=nope": group for group in _groups()}, common=())
    yield from _trained("misspelt key", {f"{key}z=1": f"did you mean {key}?" for key in KEYS})
    for words, named in EVALUATED.items():
        yield Bad("evaluation", "evaluate.py", tuple(words.split()), (named,))


KEYS = (
    *("seed", "compile", "validate_args", "ckpt_path", "model.latent_dim", "optimizer.lr", "optimizer.betas"),
    *("data.batch_size", "data.val_size", "data.eval_batch_size", "data.draw_seed", "trainer.max_epochs"),
    *(
        "trainer.precision",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.gradient_clip_val",
        "encoder.hidden",
    ),
    *("decoder.hidden", "callbacks.best.monitor", "callbacks.last", "names.model", "trainer.accelerator"),
    *("trainer.log_every_n_steps", "trainer.accumulate_grad_batches", "trainer.check_val_every_n_epoch"),
)


def _groups() -> list[str]:
    return sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra")


def _trained(
    kind: str,
    lines: dict[str, str],
    split: bool = False,
    before: tuple[str, ...] = (),
    common: tuple[str, ...] = QUICK,
) -> Iterator[Bad]:
    for line, named in lines.items():
        words = tuple(line.split()) if split else (line,)
        keys = {word.partition("=")[0] for word in words}
        kept = [word for word in common if word.partition("=")[0] not in keys]
        yield Bad(kind, "train.py", (*before, *kept, *words), (named,))
