"""The rehearsal before a run: unknown metrics, wrong shapes, extreme numbers, and memory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from commands import QUICK, call, refusal
from parts import composed

from latentlab.cli import memory
from latentlab.cli.build import build
from latentlab.data import ImageData, Images, Splits
from latentlab.errors import UserError
from latentlab.lit import GradientModule
from latentlab.lit.rehearsal import Cost, measure
from latentlab.processes import machine

GIB = 2**30
REFUSED = {
    "metric": (
        "callbacks.best.monitor=val/elboo",
        ["callbacks.best.monitor=val/elboo", "did you mean val/elbo?"],
    ),
    "metric of early stopping": (
        "callbacks=early_stopping callbacks.early_stopping.monitor=val/loss",
        ["callbacks.early_stopping.monitor=val/loss", "val/elbo"],
    ),
    "metric of another model": (
        "callbacks.best.monitor=val/kl_2",
        ["callbacks.best.monitor=val/kl_2", "val/kl_1"],
    ),
    "draws": (
        "objective=iwae objective.samples=10000000",
        ["objective.samples=10000000", "fits"],
    ),
    "draws of an evaluation": ("module.eval_samples=10000000", ["module.eval_samples=10000000", "fits"]),
    "latents": (
        "model.latent_dim=1000000000000",
        ["model.latent_dim=1000000000000", "choose a smaller number"],
    ),
    "width": ("encoder.hidden=[1000000000]", ["encoder.hidden=[1000000000]", "choose a smaller number"]),
    "components": ("prior=mog prior.num_components=1000000000000", ["prior.num_components=1000000000000"]),
    "validation after the epoch": (
        "+trainer.val_check_interval=1000",
        ["val_check_interval=1000", "40 or less"],
    ),
    "extreme variance": (
        "data=continuous_digits likelihood=gaussian_fixed likelihood.variance=1e-300",
        ["likelihood.variance=1e-300", "less extreme"],
    ),
    "images of another size": (
        "+model.x_shape=[1,14,14]",
        ["model.x_shape=[1, 14, 14]", "[1, 28, 28]"],
    ),
    "scheduler that needs a metric": (
        "~scheduler.factor ~scheduler.total_iters scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
        ["optimizer or scheduler", "metrics", "scheduler=plateau"],
    ),
    "plateau of an unknown metric": (
        "scheduler=plateau scheduler.monitor=val/elboo",
        ["scheduler.monitor=val/elboo", "did you mean val/elbo?"],
    ),
    "plateau without validation": ("scheduler=plateau data.val_size=0", ["scheduler", "data.val_size"]),
    "more clusters than earthquakes": (
        "model=cavi_earthquakes model.num_components=9 data.source.size=5",
        ["num_components=9", "5 earthquakes"],
    ),
}


@pytest.mark.parametrize(("arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_a_run_is_refused_before_it_writes(tmp_path: Path, arguments: str, words: Sequence[str]) -> None:
    given = arguments.split()
    chosen = {word.partition("=")[0] for word in given}
    skipped = {"encoder.hidden", "data"} if "model" in chosen else chosen
    quick = [word for word in QUICK if word.partition("=")[0] not in skipped]
    line = refusal(call("train.py", *quick, f"hydra.run.dir={tmp_path}/run", *given))
    assert [word for word in words if word not in line] == [], line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def module() -> GradientModule:
    """A module with its trainer and data, as train.py joins them."""
    config = composed("data=binarised_digits", "objective=iwae", "encoder.hidden=[16]", "decoder.hidden=[32]")
    data, found = build(config.data), build(config.module)
    trainer = build(config.trainer, logger=False, callbacks=[], enable_progress_bar=False)
    trainer.datamodule, data.trainer, found.trainer = data, trainer, trainer
    return GradientModule.of(found)


def test_a_rehearsal_changes_nothing(module: GradientModule) -> None:
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    module.rehearse()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_cost_of_a_larger_step_is_estimated(module: GradientModule) -> None:
    cost = module.rehearse().cost
    assert cost is not None
    batch = module.data.training_sample(40).x

    def score(examples: int, draws: int) -> torch.Tensor:
        return replace(module.objective, samples=draws)(module.model, batch[:examples]).mean()

    large = measure(lambda n, draws: score(20 * n, 7), module.state_dict().values(), draws=1)
    assert cost(20, 7) == pytest.approx(large(1, 1), rel=0.25)


def test_a_value_that_fits_is_proposed() -> None:
    cost = Cost(fixed=0, example=0, draw=2**20)
    needs = [
        memory.Need("a", 100_000, lambda n: cost(10, n)),
        memory.Need("b", 10, lambda n: cost(n, 100_000)),
    ]
    with pytest.raises(
        UserError, match=r"^a=100000: a step needs about 977 GiB, .* the 8 GiB .* a=570 fits$"
    ):
        memory.check_fits("a step", needs, 8 * GIB, {})
    memory.check_fits("a step", needs[:1], 1000 * GIB, {})
    with pytest.raises(UserError, match=r"^model\.width=700: .* choose a smaller model$"):
        memory.check_fits(
            "a step", [memory.Need("a", 1, lambda n: 9 * GIB)], 8 * GIB, {"model": {"width": 700}}
        )


def test_the_limit_of_a_cgroup_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 2**28 < (machine.machine() or 0) < 2**50
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.limit_in_bytes").write_text("123456789\n")
    monkeypatch.setattr(machine, "cgroups", lambda controller: [tmp_path, tmp_path / "missing"])
    assert machine.machine() == 123456789


def test_a_model_built_within_memory_is_the_same() -> None:
    config = composed("model=vdm").module.model
    models = []
    for context in (memory.within_memory({}), torch.enable_grad()):
        torch.manual_seed(0)
        with context:
            models.append(build(config).state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


class Wrong(ImageData):
    """A data set whose splits are set from outside."""

    name = "Wrong"
    splits: Splits

    def read(self) -> Splits:
        return self.splits


X, Y = torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.arange(4)
WRONG = {
    "no images": Images(X[:0], Y[:0]),
    "3 labels for 4 images": Images(X, Y[:3]),
    "pixels of type torch.float32": Images(X.float(), Y),
    "labels of type torch.float32": Images(X, Y.float()),
    "images without a label": Images(X, Y - 1),
}


@pytest.mark.parametrize(("words", "test"), WRONG.items(), ids=WRONG)
def test_a_data_set_with_a_mistake_is_named(words: str, test: Images) -> None:
    data = Wrong(SimpleNamespace(binary_source=False, name="x"), val_size=1)  # type: ignore[arg-type]
    data.splits = Splits(Images(X, Y), test)
    with pytest.raises(UserError, match=f"the test split of Wrong has .*{words}"):
        data.setup()


def test_the_trainer_of_a_cpu_has_the_memory_of_the_machine() -> None:
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    assert memory.of_trainer(trainer) == memory.machine()
