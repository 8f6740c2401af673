"""Bad values of settings: rows of (kind, script, words, words that the line on standard error contains).

`written` are chosen by hand. `generated` gives each number of each config values that it cannot have.
"""

from collections.abc import Iterator
from pathlib import Path

from commands import QUICK
from ranges import VALUES, arguments, meaningful, spelled

Row = tuple[str, str, tuple[str, ...], tuple[str, ...]]
PLAIN = ("logger=none",)
# The models of the groups that a VAE lacks.
MODELS = {
    "denoiser": ["model=vdm"],
    "sampler": ["model=vdm"],
    "weighting": ["model=vdm"],
    "noise_schedule": ["model=vdm"],
    "step_size": ["model=bbvi_normal_gamma"],
}

# The words after QUICK, and the words that the line contains.
SETTINGS: dict[str, tuple[str, ...]] = {
    "optimizer.lr=1e-400": ("optimizer.lr=1e-400", "would be 0"),
    "optimizer.lr=1e400": ("optimizer.lr=inf", "finite"),
    "model=ddpm model.guidance=1": ("guidance=1", "model.num_classes=10"),
    "model=ddpm model.num_classes=3": ("model.num_classes=3", "model.num_classes=10"),
    "model=ddpm model.sample_steps=0": ("model.sample_steps=0", "greater than 0"),
    "model=ddpm noise_schedule=learned": ("weighting=simple", "noise_schedule=linear"),
    "model=ddpm sampler=ddim sampler.eta=2": ("sampler.eta=2", "less than or equal to 1"),
    "optimizer.lr=0": ("optimizer.lr=0", "give a number from"),
    "optimizer.lr=1e-300": ("optimizer.lr=1e-300", "give a number from"),
    "optimizer.lr=true": ("optimizer.lr=True", "true or false"),
    "optimizer.lr=[1]": ("optimizer.lr=[1]", "number"),
    "optimizer.betas=[0.9,1]": ("optimizer.betas", "less than 1"),
    "optimizer.betas=[0.9]": ("optimizer.betas",),
    "optimizer.betas=0.9": ("optimizer.betas",),
    "optimizer.eps=-1e-8": ("optimizer.eps", "greater than or equal to 0"),
    "optimizer.fused=maybe": ("optimizer.fused", "boolean"),
    "optimizer=adamw optimizer.weight_decay=-1": ("optimizer.weight_decay=-1",),
    "optimizer=sgd optimizer.momentum=1": ("optimizer.momentum=1", "less than 1"),
    "scheduler=cosine scheduler.T_max=0": ("scheduler.T_max=0", "greater than 0"),
    "scheduler=cosine scheduler.T_max=1.5": ("scheduler.T_max=1.5", "integer"),
    "scheduler=cosine trainer.max_epochs=-1": ("trainer.max_epochs", "trainer.max_steps", "scheduler.T_max"),
    "scheduler=one_cycle +scheduler.interval=epoch": ("scheduler.interval=epoch", "step"),
    "scheduler=warmup_cosine scheduler.warmup=1.5": ("scheduler.warmup=1.5",),
    "scheduler=cosine scheduler.eta_min=-1": ("scheduler.eta_min=-1",),
    "scheduler=iwae_stages scheduler.stages=1000": ("scheduler.stages=1000", "30"),
    "trainer.max_epochs=0": ("trainer.max_epochs=0", "greater than 0"),
    "trainer.max_epochs=2.5": ("trainer.max_epochs=2.5", "integer"),
    "+trainer.max_steps=0": ("trainer.max_steps=0",),
    "+trainer.limit_train_batches=0": ("trainer.limit_train_batches=0",),
    "+trainer.limit_train_batches=1.5": ("trainer.limit_train_batches=1.5",),
    "+trainer.limit_val_batches=-1": ("trainer.limit_val_batches=-1",),
    "+trainer.overfit_batches=1.5": ("trainer.overfit_batches=1.5",),
    "+trainer.strategy=ddp_fork": ("trainer.strategy=ddp_fork", "'ddp'"),
    "+trainer.limit_test_batches=2": ("trainer.limit_test_batches=2", "leave it out"),
    "+trainer.fast_dev_run=-1": ("trainer.fast_dev_run=-1",),
    "+trainer.barebones=true": ("trainer.barebones", "leave it out"),
    "+trainer.enable_checkpointing=false": ("trainer.enable_checkpointing", "leave it out"),
    "+trainer.val_check_interval=1000": ("trainer.val_check_interval=1000", "40 or less"),
    "+trainer.val_check_interval=0": ("trainer.val_check_interval=0",),
    "+trainer.gradient_clip_algorithm=max": ("trainer.gradient_clip_algorithm=max", "'norm'"),
    "trainer.precision=8": ("trainer.precision=8", "'32-true'"),
    "trainer.accelerator=abacus": ("trainer.accelerator=abacus", "'cpu'"),
    "trainer.use_distributed_sampler=true": ("trainer.use_distributed_sampler", "leave it out"),
    "trainer=ddp_cpu trainer.devices=1000": ("trainer.devices=1000", "LATENTLAB_PROCESSES"),
    "seed=1e30": ("seed=1e+30", "integer"),
    "seed=4294967296": ("seed=4294967296", "less than"),
    "seed=1.0": ("seed=1.0", "whole number"),
    "data.val_size=1527": ("data.val_size=1527", "nothing to train on"),
    "data.val_size=-1": ("data.val_size=-1",),
    "data.batch_size=99999999999999999999": ("data.batch_size", "2^63"),
    "objective.samples=10000000": ("objective.samples=10000000", "fits"),
    "objective=iwae objective.samples=100000000": ("objective.samples=100000000", "fits"),
    "module.eval_samples=100000000": ("module.eval_samples=100000000", "fits"),
    "model.latent_dim=1000000000000": ("model.latent_dim=1000000000000", "choose a smaller"),
    "decoder.hidden=[1000000000]": ("decoder.hidden=[1000000000]", "choose a smaller"),
    "decoder.hidden=[16,0]": ("decoder.hidden=[16, 0]", "greater than 0"),
    "decoder.hidden=16": ("decoder.hidden=16",),
    "encoder=cnn decoder=cnn decoder.channels=[]": ("decoder.channels=[]", "at least 1"),
    "prior=mog prior.num_components=100000000000": ("prior.num_components=100000000000", "choose a smaller"),
    "prior=vamp prior.bounds=[1,0]": ("prior.bounds=[1, 0]", "upper bound"),
    "prior=vamp prior.spread=1": ("prior.spread=1", "upper bound"),
    "prior=flow prior.flow.transforms=-1": ("prior.flow.transforms=-1",),
    "callbacks.best.monitor=val/elboo": ("callbacks.best.monitor=val/elboo", "did you mean val/elbo?"),
    "callbacks.best.monitor=elbo": ("callbacks.best.monitor=elbo", "did you mean"),
    "+model.x_shape=[1,32,32]": ("model.x_shape=[1, 32, 32]", "[1, 28, 28]"),
    "+model.x_shape=[784]": ("model.x_shape=[784]",),
    "likelihood=gaussian_fixed data=continuous_digits protocol=dequantised likelihood.variance=1e-300": (
        "likelihood.variance",
        "extreme",
    ),
    "objective=beta_elbo objective.beta=-1": ("objective.beta=-1",),
    "objective=vimco objective.samples=1": ("objective.samples=1", "greater than or equal to 2"),
}


def written() -> Iterator[Row]:
    """The rows chosen by hand."""
    for words, found in SETTINGS.items():
        given = words.split()
        names = {word.partition("=")[0] for word in given}
        quick = [word for word in QUICK if not {word.partition(end)[0] for end in ".="} & names]
        yield "value", "train.py", (*quick, *given), found


def generated() -> Iterator[Row]:
    """Each number of each config with each value that has no meaning for it."""
    for (kind, name), (chosen, _, where) in arguments().items():
        known = [spelled(value) for value in meaningful(kind, name)]
        for value in (word for word in map(spelled, VALUES) if word not in known):
            words = (*PLAIN, *relevant(chosen, where), f"{where}.{name}={value}")
            yield "number", "train.py", words, (name,)


def relevant(chosen: tuple[str, ...], where: str) -> list[str]:
    """The options that a key needs: that of its group, and a model that has the group."""
    group = where.partition(".")[0]
    models = [word for word in chosen if word.startswith("model=")] or MODELS.get(group, [])
    others = [word for word in chosen if word.partition("=")[0] in (group, "chain") and word not in models]
    return [word for word in (*models, *others) if not word.startswith("logger=")]


def files(folder: Path) -> Iterator[Row]:
    """Catalogues of earthquakes that cannot be read, written into a folder."""
    bad: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "no column"),
        "header": (b"x,y,strength\n", "holds no earthquakes"),
        "semicolons": (b"x;y;strength\n1;2;3\n", "no column"),
        "words": (b"x,y,strength\na,b,c\n", "line 2: x=a"),
        "short": (b"x,y,strength\n1,2\n", "line 2: strength="),
        "nan": (b"x,y,strength\n1,nan,3\n", "line 2: y=nan"),
        "huge": (b"x,y,strength\n1e300,1,3\n", "line 2: x=1e300"),
        "half": (b"x,y,strength\n1,1,2.5\n", "strength=2.5"),
        "minus": (b"x,y,strength\n1,1,-2\n", "strength=-2"),
        "utf-16": ("x,y,strength\n1,2,3\n".encode("utf-16"), "UTF-8"),
        "binary": (bytes(range(256)), "UTF-8"),
        "few": (b"x,y,strength\n1,2,3\n", "num_components=4"),
    }
    for name, (content, found) in bad.items():
        path = folder / f"{name}.csv"
        path.write_bytes(content)
        words = ("model=cavi_earthquakes", "data=earthquakes_csv", "logger=none", f"data.source.path={path}")
        yield "file", "train.py", words, (found,)
    for place in (folder, folder / "missing.csv"):
        words = ("model=cavi_earthquakes", "data=earthquakes_csv", "logger=none", f"data.source.path={place}")
        yield "file", "train.py", words, ("data.source.path", "no such file")
