"""The profile of a run: times add up, and each action belongs to one part."""

import pytest
from pytorch_lightning.trainer.states import TrainerFn

from latentlab.lit import profiler
from latentlab.lit.profiler import Part, PartsProfiler, part, table
from latentlab.processes import phases


@pytest.fixture
def clock(monkeypatch):
    """A profiler whose clock is advanced by hand."""
    now = [0.0]
    monkeypatch.setattr(profiler, "perf_counter", lambda: now[0])
    made = PartsProfiler()
    made._stage = TrainerFn.FITTING.value

    def pass_seconds(seconds):
        now[0] += seconds

    return made, pass_seconds


def test_the_time_of_an_action_leaves_out_those_inside(clock):
    made, pass_seconds = clock
    for _ in range(2):
        with made.profile("[LightningModule]M.optimizer_step"):
            pass_seconds(1)
            with made.profile("[Strategy]S.training_step"):
                pass_seconds(3)
            with made.profile("[Strategy]S.backward"):
                pass_seconds(2)
    assert made.parts("fit") == {"forward": Part(6, 2), "backward": Part(4, 2), "optimiser": Part(2, 2)}
    assert made.parts("test") == {}


def test_the_calls_of_a_part_are_those_of_its_longest_action(clock):
    made, pass_seconds = clock
    for hook in ("on_train_batch_end",) * 5 + ("on_train_epoch_end",):
        with made.profile(f"[Callback]LastCheckpoint{{}}.{hook}"):
            pass_seconds(10 if hook == "on_train_epoch_end" else 0.5)
    assert made.parts("fit") == {"checkpoints": Part(12.5, 1)}


def test_the_rest_of_a_phase_is_what_no_part_took():
    rows = table(
        {"imports": 3.0, "training": 5.0}, {"training": {"forward": Part(4.0, 8), "Lightning": Part(0.5, 1)}}
    )
    assert [row[:4] for row in rows] == [
        ["imports", "3.00", "37.5%", ""],
        ["training", "5.00", "62.5%", ""],
        ["  forward", "4.00", "50.0%", "8"],
        ["  rest, Lightning", "1.00", "12.5%", ""],
        ["sum", "8.00", "100.0%", ""],
    ]


ACTIONS = {
    "[_TrainingEpochLoop].train_dataloader_next": "batches",
    "[Callback]Units.on_validation_end": "callback Units",
    "[LightningModule]GradientModule.on_validation_epoch_end": "validation",
    "save_checkpoint": "checkpoints",
    "run_training_batch": "Lightning",
}


@pytest.mark.parametrize(("action", "name"), ACTIONS.items())
def test_the_part_of_an_action(action, name):
    assert part(action) == name


def test_the_phases_of_a_first_command_begin_at_the_start_of_the_process(monkeypatch):
    monkeypatch.setattr(phases, "_ends", [])
    monkeypatch.setattr(phases, "_begun", None)
    phases.begin()
    phases.reached("one")
    phases.reached("two")
    phases.reached("one")
    found = phases.durations()
    assert [*found] == ["one", "two"] and found["one"] > 0.2 > found["two"]
    phases.begin()
    phases.reached("one")
    assert phases.durations()["one"] < 0.2
