"""Checkpoints: the best epoch, the last epoch, and exact resumes."""

import errno
import os
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import QUICK, call
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping
from runs import summary
from toy import ToyData, ToyModule, trainer_in

from latentlab.callbacks import BestCheckpoint, Checkpoints, LastCheckpoint, ResumeState, Timing
from latentlab.errors import Diverged
from latentlab.run.metrics import read_rows


def run(folder, epochs, module=None, ckpt=None, data=None, **options):
    torch.manual_seed(0)
    callbacks = [Timing(), ResumeState(), BestCheckpoint(), LastCheckpoint()]
    module = module or ToyModule()
    trainer = trainer_in(folder, callbacks, epochs=epochs, **options)
    trainer.fit(module, data or ToyData(), ckpt_path=ckpt)
    return module, trainer, callbacks


def load(path):
    return torch.load(path, weights_only=True)


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_resumed_run_is_the_run_that_was_not_cut_off(tmp_path):
    whole, _, _ = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    torch.manual_seed(123)
    resumed, _, callbacks = run(tmp_path / "parts", 4, ckpt=tmp_path / "parts" / "checkpoints" / "last.ckpt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert callbacks[0].examples == 4 * 64
    assert names(tmp_path / "parts") == ["best.ckpt", "last.ckpt"]
    last, reference = (load(tmp_path / part / "checkpoints" / "last.ckpt") for part in ("parts", "whole"))
    assert last["epoch"] == reference["epoch"] == 3
    assert last["callbacks"]["ResumeState"]["ranks"][0]["python"]
    for part in ("parts", "whole"):
        assert not (tmp_path / part / "checkpoints" / "last.ckpt").is_symlink()


def test_checkpoints_are_staged_in_their_own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    run(tmp_path, 1, plugins=[Checkpoints()])
    assert names(tmp_path) == ["best.ckpt", "last.ckpt"]


def test_failed_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    run(tmp_path, 1, plugins=[Checkpoints()])
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()

    def full(state, file):
        file.write(bytes(100))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match=r"No space left.*best\.ckpt"):
        run(tmp_path, 1, plugins=[Checkpoints()])
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before
    assert names(tmp_path) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("failures", [{2}, {2, 3, 4, 5}])
def test_last_never_says_more_than_best_holds(tmp_path, monkeypatch, failures):
    """A write of best.ckpt fails, once or for good. A resume goes on from what is on disk, as if nothing had been."""
    writes, save = [], Checkpoints.save_checkpoint

    def full(self, state, path, storage_options=None):
        writes.extend([path] * (Path(path).name == "best.ckpt"))
        if Path(path).name == "best.ckpt" and len(writes) in failures:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(self, state, path)

    def train(ckpt=None):
        torch.manual_seed(0)
        best = BestCheckpoint()
        callbacks = [ResumeState(), best, LastCheckpoint(min_seconds=0)]
        trainer = trainer_in(tmp_path, callbacks, epochs=3, plugins=[Checkpoints()])
        trainer.fit(ToyModule(), ToyData(), ckpt_path=ckpt)
        return best

    monkeypatch.setattr(Checkpoints, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        train()
    best, last = (load(tmp_path / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    [said] = [state for name, state in last["callbacks"].items() if "BestCheckpoint" in name]
    assert best["global_step"] == last["global_step"] == said["best_step"] == (8 if failures == {2} else 4)
    monkeypatch.setattr(Checkpoints, "save_checkpoint", save)
    resumed = train(tmp_path / "checkpoints" / "last.ckpt")
    assert resumed.best_step == load(resumed.path)["global_step"] == 12


class Counting(Checkpoint):
    """Counts epochs, where a user's checkpoint callback stands."""

    epochs = 0

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs += 1

    def state_dict(self):
        return {"epochs": self.epochs}


def test_last_has_the_state_of_a_callback_behind_best(tmp_path):
    callbacks = [ResumeState(), BestCheckpoint(), Counting(), LastCheckpoint()]
    trainer_in(tmp_path, callbacks, epochs=2).fit(ToyModule(), ToyData())
    assert load(tmp_path / "checkpoints" / "last.ckpt")["callbacks"]["Counting"] == {"epochs": 2}


def test_a_write_that_is_cut_short_is_an_error(tmp_path):
    """The last byte is missing. Linux writes the bytes before it without an error."""
    state = {"weights": torch.ones(1000)}
    Checkpoints().save_checkpoint(state, tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "whole").stat().st_size - 1, hard))
    try:
        with pytest.raises(OSError, match="cut"):
            Checkpoints().save_checkpoint(state, tmp_path / "cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert torch.equal(load(tmp_path / "whole")["weights"], state["weights"])


class Look(Callback):
    """Reads the steps of both checkpoints on disk after each epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, pl_module):
        folder = Path(trainer.default_root_dir) / "checkpoints"
        self.seen.append([load(path)["global_step"] for path in sorted(folder.glob("*.ckpt"))])


@pytest.mark.parametrize(("seconds", "seen"), [(0, [[4, 4], [8, 8]]), (1e9, [[4, 4], [4, 4]])])
def test_checkpoints_wait_in_memory(tmp_path, seconds, seen):
    look = Look()
    torch.manual_seed(0)
    callbacks = [look, ResumeState(), BestCheckpoint(), LastCheckpoint(min_seconds=seconds)]
    trainer_in(tmp_path, callbacks, epochs=3).fit(ToyModule(), ToyData())
    assert look.seen[1:] == seen  # the first epoch is written at once
    best, last = (load(tmp_path / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    assert best["global_step"] == last["global_step"] == 12


def test_what_waits_is_a_copy_that_an_error_writes(tmp_path):
    """The state of the second epoch is on disk after an error in the third, with the weights of then."""
    torch.manual_seed(0)
    callbacks = [ResumeState(), BestCheckpoint(), LastCheckpoint(min_seconds=1e9)]
    with pytest.raises(RuntimeError):
        trainer_in(tmp_path / "failed", callbacks, epochs=3).fit(ToyModule(fail_at=10), ToyData())
    whole, _, _ = run(tmp_path / "whole", 2)
    for name in ("best", "last"):
        state = load(tmp_path / "failed" / "checkpoints" / f"{name}.ckpt")
        assert state["global_step"] == 8
        for key, weight in whole.state_dict().items():
            assert torch.equal(state["state_dict"][key], weight)


@pytest.mark.parametrize("order", [1, -1])
def test_best_and_last_in_any_order(tmp_path, order):
    module = ToyModule()
    module.validation_step = lambda *batch: module.log("val/elbo", -float(module.current_epoch))
    callbacks = [ResumeState(), *[BestCheckpoint(), LastCheckpoint(min_seconds=1e9)][::order]]
    trainer_in(tmp_path, callbacks, epochs=3).fit(module, ToyData())
    states = [load(tmp_path / "checkpoints" / f"{name}.ckpt") for name in ("best", "last")]
    assert [state["global_step"] for state in states] == [4, 12]


def test_best_is_the_largest_validation_bound(tmp_path):
    _, trainer, (_, _, best, _) = run(tmp_path, 3)
    assert best.best_epoch == 2  # the toy improves every epoch
    assert best.best_score == pytest.approx(trainer.callback_metrics["val/elbo"].item())
    assert best.best_model_path == str(tmp_path / "checkpoints" / "best.ckpt")
    assert load(best.path)["epoch"] == 2


def test_best_stays_when_the_bound_falls(tmp_path):
    _, _, (_, _, best, _) = run(tmp_path, 3, ToyModule(lr=3.0))
    assert load(best.path)["epoch"] == best.best_epoch
    assert load(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 2
    scores = load(best.path)["callbacks"]["BestCheckpoint"]
    assert scores["best_score"] == best.best_score


def test_nan_is_never_best_and_never_last(tmp_path):
    _, _, (_, _, best, _) = run(tmp_path, 4, ToyModule(diverge_at=2))
    assert best.best_epoch == 1
    assert load(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 1


def test_nan_from_the_start_leaves_no_checkpoint(tmp_path):
    _, _, (_, _, best, _) = run(tmp_path, 1, ToyModule(diverge_at=0))
    assert best.best_epoch is None and best.best_model_path == ""
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore:Total length of .list. across ranks is zero")
@pytest.mark.parametrize("options", [{"data": ToyData(val=False)}, {"limit_val_batches": 0}])
def test_without_validation_the_latest_is_best(tmp_path, options):
    _, _, (_, _, best, _) = run(tmp_path, 3, **options)
    assert (best.best_epoch, best.best_score) == (2, None)


def validations(folder, epochs=3, stop=None, **options):
    """The epoch and step of each validation of a run that is asked to stop after a step, and its best checkpoint."""
    module, seen = ToyModule(), []

    def ask(*batch):
        module.trainer.should_stop = module.global_step == stop

    module.on_train_batch_end = ask
    module.on_validation_end = lambda: seen.append((module.current_epoch, module.global_step))
    _, _, (_, _, best, _) = run(folder, epochs, module, **options)
    return seen, best


@pytest.mark.parametrize(
    ("options", "expected"),  # an epoch has four steps
    [
        ({}, [(0, 4), (1, 8), (2, 12)]),
        ({"check_val_every_n_epoch": 2}, [(1, 8), (2, 12)]),
        ({"check_val_every_n_epoch": 5}, [(2, 12)]),
        ({"max_steps": 2}, [(0, 2)]),
        ({"max_steps": 4}, [(0, 4)]),
        ({"max_steps": 6}, [(0, 4), (1, 6)]),
        ({"max_steps": 6, "epochs": -1, "check_val_every_n_epoch": 5}, [(1, 6)]),
        ({"max_steps": 3, "accumulate_grad_batches": 2}, [(0, 2), (1, 3)]),
        ({"stop": 3}, [(0, 3)]),
        ({"stop": 6, "check_val_every_n_epoch": 5}, [(1, 6)]),
        ({"val_check_interval": 0.5, "epochs": 1}, [(0, 2), (0, 4)]),
        ({"val_check_interval": 3, "epochs": 2}, [(0, 3), (1, 7), (1, 8)]),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [(0, 3), (1, 6), (2, 9), (2, 12)]),
    ],
)
def test_the_end_of_training_is_validated_once(tmp_path, options, expected):
    seen, best = validations(tmp_path, **options)
    assert seen == expected
    # The toy improves at every validation.
    assert (best.best_epoch, best.best_step) == seen[-1]
    assert load(best.path)["global_step"] == best.best_step


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.parametrize("cut", [{"epochs": 3}, {"epochs": -1, "max_steps": 6}])
def test_the_extra_validation_of_a_cut_counts_for_no_patience(tmp_path, cut):
    def fit(ckpt=None, **limits):
        stopping = EarlyStopping(None, patience=2, min_delta=1e3, mode="max", check_on_train_epoch_end=False)
        callbacks = [ResumeState(), BestCheckpoint(), LastCheckpoint(), stopping]
        torch.manual_seed(0)
        trainer = trainer_in(tmp_path, callbacks, check_val_every_n_epoch=2, **limits)
        trainer.fit(ToyModule(), ToyData(), ckpt_path=ckpt, weights_only=True)
        return trainer.global_step, stopping.wait_count

    uncut = fit(epochs=9)
    fit(**cut)
    assert fit(tmp_path / "checkpoints" / "last.ckpt", epochs=9) == uncut == (24, 2)


def test_the_trained_objective_chooses(tmp_path):
    words = ("objective=beta_elbo", "objective.beta=1e-6", "trainer.max_epochs=3", "callbacks=early_stopping")
    words = (*words, "figures=none", "callbacks.early_stopping.patience=5", "optimizer.lr=0.01")
    run = tmp_path / "run"
    done = call("train.py", *QUICK, *words, f"hydra.run.dir={run}")
    assert done.status == 0, done.err
    rows = [row for row in read_rows(run / "metrics.csv") if row.get("val/elbo") and row.get("epoch")]
    epochs = {
        name: max(range(3), key=lambda i: float(rows[i][name])) for name in ("val/elbo", "val/beta_elbo")
    }
    assert epochs["val/elbo"] != epochs["val/beta_elbo"]
    found, chosen = summary(run), rows[epochs["val/beta_elbo"]]
    assert found["best/metric"] == "val/beta_elbo" and found["best/epoch"] == epochs["val/beta_elbo"] + 1
    for name in ("val/beta_elbo", "val/elbo"):
        assert found[name] == pytest.approx(float(chosen[name]))
    assert (
        f"best epoch {found['best/epoch']} of 3, by val/beta_elbo {found['best/score']:.2f}, after "
        in done.out
    )
    assert f"after {found['best/step']} steps\n" in done.out
    assert "val beta_elbo" in done.out and "val elbo" in done.out
    stopping = next(
        v for k, v in load(run / "checkpoints" / "last.ckpt")["callbacks"].items() if "Stopping" in k
    )
    assert stopping["best_score"].item() == pytest.approx(found["best/score"], rel=1e-6)


def test_a_checkpoint_of_an_older_version_keeps_its_metric(tmp_path):
    module, trainer, (_, _, best, _) = run(tmp_path, 1)
    for given, state, kept in [
        (None, {}, "val/elbo"),
        (None, {"monitor": "val/iwae"}, "val/iwae"),
        ("val/kl", {}, "val/kl"),
    ]:
        best, stopping = BestCheckpoint(given), EarlyStopping(None, mode="max")
        trainer.callbacks = [best, stopping]
        best.setup(trainer, module, "fit")
        state = {"best_epoch": 0, "best_score": -1.0, **state}
        best.on_load_checkpoint(trainer, module, {"callbacks": {best.state_key: state}})
        best.load_state_dict(state)
        assert best.monitor == stopping.monitor == kept


@pytest.mark.parametrize(
    ("error", "saved"), [(RuntimeError, True), (KeyboardInterrupt, True), (Diverged, False)]
)
def test_an_exception_in_the_first_epoch(tmp_path, error, saved):
    module = ToyModule(fail_at=2)
    module.error = error
    with pytest.raises((error, SystemExit)):
        run(tmp_path, 1, module)
    assert (tmp_path / "checkpoints" / "last.ckpt").exists() == saved


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.parametrize("steps", [2, 4])  # an epoch has four steps
def test_a_validation_that_failed_after_the_last_step_is_repeated(tmp_path, steps):
    def fail(*batch):
        raise RuntimeError("on purpose")

    module, limits = ToyModule(), {"max_steps": steps, "epochs": -1}
    module.on_validation_batch_end = fail
    with pytest.raises(RuntimeError):
        run(tmp_path, module=module, **limits)
    module, seen = ToyModule(), []
    module.on_validation_end = lambda: seen.append(module.global_step)
    _, trainer, (_, _, best, _) = run(
        tmp_path, module=module, ckpt=tmp_path / "checkpoints" / "last.ckpt", **limits
    )
    assert (seen, trainer.global_step, best.best_step) == ([steps], steps, steps)
    run(tmp_path, module=module, ckpt=tmp_path / "checkpoints" / "last.ckpt", **limits)
    assert seen == [steps]


def test_an_exception_later_keeps_the_last_whole_epoch(tmp_path):
    with pytest.raises(RuntimeError):
        run(tmp_path, 3, ToyModule(fail_at=6))  # in the second epoch of four steps
    assert load(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    module = ToyModule(fail_at=2)
    with torch.no_grad():
        module.model.decoder[0].bias[0] = torch.inf
    with pytest.raises(RuntimeError):
        run(tmp_path, 1, module)
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_resumed_elsewhere_has_a_separate_best_epoch(tmp_path):
    run(tmp_path / "old", 2)
    checkpoint = tmp_path / "old" / "checkpoints" / "last.ckpt"
    _, _, (_, _, best, _) = run(tmp_path / "new", 3, ToyModule(lr=3.0), ckpt=checkpoint)
    assert best.best_epoch == 2 and best.path == tmp_path / "new" / "checkpoints" / "best.ckpt"
    assert load(best.path)["epoch"] == 2


def test_each_process_draws_different_latents():
    draws = []
    for rank in (0, 1, 2, 1):
        torch.manual_seed(5)  # as every process does, for the same weights
        ResumeState().on_train_start(SimpleNamespace(global_rank=rank, world_size=3, should_stop=False), None)
        draws.append(torch.randn(()).item())
    torch.manual_seed(5)
    assert draws[0] == torch.randn(()).item()  # the first process, or the only one, does not change its seed
    assert len(set(draws)) == 3 and draws[1] == draws[3]


def test_testing_a_checkpoint_keeps_the_timing(tmp_path):
    module, trainer, (timing, *_, last) = run(tmp_path, 2)
    seconds = timing.train_seconds
    trainer.test(module, ToyData(), ckpt_path=last.path, verbose=False, weights_only=True)
    assert timing.train_seconds == seconds > 0
    assert timing.examples == 2 * 64
    assert timing.examples_per_second == pytest.approx(128 / seconds)
