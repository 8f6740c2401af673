"""Random command lines end in a composed config, or in one line."""

import sys

import pytest
from commands import QUICK, ROOT, call, refusal
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentlab.cli.command import MISTAKES
from latentlab.cli.explain import explain, of_hydra
from latentlab.cli.overrides import as_text, quoted
from latentlab.cli.words import read_words

KEYS = st.sampled_from(
    [
        "seed",
        "model",
        "prior",
        "data",
        "optimizer.lr",
        "model.latent_dim",
        "encoder.hidden",
        "hydra.run.dir",
        "sweep",
        "ckpt_path",
        "callbacks.best",
        "nope",
        "hydra.nope",
        "experiment",
        "trainer.max_epochs",
        "hydra/launcher",
        "",
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        ["1", "vae", "mog", "1,2", "[16]", "{a:1}", "null", "true", "${seed}", "${nope}", "${", "range(1,3)"]
    ),
    st.sampled_from(
        ["choice()", "glob(*)", "interval(0,1)", "'a b'", '"', "a=b", "a b", "~/x", "-1", "1e-400", "", "''"]
    ),
    st.text(max_size=8),
)
WORDS = st.one_of(
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "+", "++", "~"]),
        KEYS,
        st.sampled_from(["=", "==", "", " = "]),
        VALUES,
    ),
    st.sampled_from(
        ["-m", "--multirun", "--cfg", "job", "--nope", "—m", "--config-name=nope", "-sc", "--resolve", "\r"]
    ),
    st.text(max_size=12),
)
LINES = st.lists(WORDS, max_size=4)
FUZZ = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def line_of(words: list[str], composes: bool) -> str:
    """Return the line with which a command is refused, "" if it is accepted."""
    try:
        overrides = [word for word in read_words(words, "train") if not word.startswith("-")]
        if composes and not {"-m", "--multirun", "--cfg", "-sc"} & {*words}:
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                compose("train", overrides)
    except MISTAKES as error:
        return explain(error)
    except (ValueError, AssertionError) as error:
        found = of_hydra(error, words)
        assert found is not None, words
        return found
    finally:
        GlobalHydra.instance().clear()
    return ""


def check(words: list[str], composes: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(ROOT / "train.py"), *words])
        line = line_of(words, composes)
    assert len(line.splitlines()) <= 1
    assert "Traceback" not in line


@pytest.mark.parametrize(
    ("typed", "read"),
    {
        "trainer.max_time=None": "++trainer.max_time=null",
        "encoder.hidden=[None,16]": "encoder.hidden=[null,16]",
        "data.batch_size=None,32": "data.batch_size=null,32",
        "experiment=None": "experiment=null",
        "scheduler=None": "scheduler=none",  # the option
        "logger.wandb.notes='None'": "logger.wandb.notes='None'",
        "logger.wandb.notes=NoneOfThem": "logger.wandb.notes=NoneOfThem",
    }.items(),
)
def test_pythons_none_is_null(typed, read):
    assert read_words(["-m", typed], "train") == ["-m", read]


@settings(max_examples=150, **FUZZ)
@given(LINES)
def test_random_words_are_read_or_refused_in_one_line(words):
    check(words, composes=False)


@settings(max_examples=10, **FUZZ)
@given(LINES)
def test_random_command_lines_are_composed_or_refused_in_one_line(words):
    check(words, composes=True)


@pytest.mark.faults
@settings(max_examples=1000, **FUZZ)
@given(LINES)
def test_many_random_command_lines_are_composed_or_refused_in_one_line(words):
    check(words, composes=True)


@settings(max_examples=100, **FUZZ)
@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), min_size=1))
def test_any_text_can_be_quoted(text):
    words = read_words([quoted("logger.notes", text)], "train")
    assert len(words) == 1
    assert as_text("logger.notes", text)


@pytest.mark.parametrize(
    "words", [["-m", "seed=1"], ["seed=1", "-m"], ["seed=1", "--multirun", "compile=true"]]
)
def test_options_may_stand_anywhere(words):
    assert read_words(words, "train")[0].startswith("-m") or read_words(words, "train")[0] == "--multirun"


def test_a_home_directory_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read_words(["data.root=~/x", "+logger.notes=1"], "train")[0] == "data.root='/home/me/x'"


def test_an_unknown_key_beside_an_option_of_the_user(tmp_path):
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / "mine.yaml").write_text("_target_: latentlab.priors.StandardNormal\n")
    line = refusal(call("train.py", f"--config-dir={tmp_path}", *QUICK, "prior=mine", "optimizer.lrr=1"))
    assert "did you mean optimizer.lr?" in line
