"""Ten different experiments, cut off at random and resumed by one word, equal the uncut runs."""

import random
from pathlib import Path

import pytest
from equality import COLUMNS, differences
from forks import forked

KILL = "tests.faults.killing"
SIGNALS = {"SIGKILL": -9, "SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}
DIGITS = (
    "data=binarised_digits",
    "data.batch_size=64",
    "trainer.log_every_n_steps=7",
    "trainer.max_epochs=3",
)
OFTEN = ("callbacks.last.every_minutes=1e-3", "callbacks.last.min_seconds=0")
MLP = ("encoder.hidden=[16]", "decoder.hidden=[16]")
# The options of each run, and the number of its training batches.
RUNS: dict[str, tuple[tuple[str, ...], int]] = {
    "vae with clipping, accumulation and a cosine": (
        (
            *DIGITS,
            *MLP,
            "trainer.gradient_clip_val=5.0",
            "trainer.accumulate_grad_batches=2",
            "scheduler=cosine",
        ),
        60,
    ),
    "iwae": ((*DIGITS, *MLP, "model=iwae", "objective.samples=3"), 60),
    "mixture prior, figures": ((*DIGITS, *MLP, "model=mog_vae", "figures.every_n_epochs=1"), 60),
    "categorical vae with VIMCO": ((*DIGITS, *MLP, "model=categorical_vae", "objective=vimco"), 60),
    "ladder vae, W&B": ((*DIGITS, "model=ladder_vae", "figures=none", "logger=wandb"), 60),
    "hierarchy with early stopping": (
        (*DIGITS, "model=hierarchical_vae", "callbacks=early_stopping", "figures=none"),
        60,
    ),
    "conditional vae, 16 iwae stages": (
        (*DIGITS, *MLP, "model=conditional_vae", "scheduler=iwae_stages", "figures=none"),
        60,
    ),
    "diffusion with EMA": (
        (*DIGITS, "model=vdm", "denoiser=mlp", "figures=none", "+trainer.limit_train_batches=5"),
        15,
    ),
    "pPCA": (("experiment=ppca", "data=continuous_digits", "figures=none"), 10),
    "normal-gamma by black-box inference": (
        ("experiment=bbvi_normal_gamma", "trainer.max_epochs=3", "figures=none"),
        30,
    ),
}


def run(home: Path, *words: str):
    env = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "LATENTLAB_TRUST": KILL}
    return forked("train.py", *words, home=home, env=env, timeout=300)


def cut_and_resume(home: Path, words: tuple[str, ...], batches: int, seed: int) -> dict[str, list[str]]:
    """Train, cut off the same run at a random batch by a random signal, resume it, and return what differs."""
    draws = random.Random(seed)
    number = draws.choice(list(SIGNALS))
    # SIGKILL leaves nothing to resume from before the first checkpoint, at the end of the first of three epochs.
    batch = draws.randint(batches // 3 + 1 if number == "SIGKILL" else 2, batches - 1)
    logger = () if any(word.startswith("logger=") for word in words) else ("logger=none",)
    words = (*words, *logger, *OFTEN)
    assert (done := run(home, *words, "hydra.run.dir=uncut")).status == 0, done
    kill = f"{{_target_: {KILL}.Kill, number: {number}, event: batch, n: {batch}, once: '{home}/sent'}}"
    ended = run(home, *words, "hydra.run.dir=cut", f"+callbacks.kill={kill}")
    assert ended.status == SIGNALS[number], ended
    command = f"resume: LATENTLAB_TRUST={KILL} python train.py resume={home}/cut"
    assert number == "SIGKILL" or ended.err.splitlines()[-1] == command, ended
    assert (done := run(home, "resume=cut")).status == 0, done
    print(f"{number} at batch {batch} of {batches}; python train.py resume=RUN")
    return differences(home / "uncut", home / "cut")


@pytest.mark.faults
@pytest.mark.parametrize("name", RUNS)
def test_one_word_resumes_any_experiment(tmp_path, name):
    options, batches = RUNS[name]
    compared = cut_and_resume(tmp_path, options, batches, seed=list(RUNS).index(name))
    words = {column: "differs" if found else "equal" for column, found in compared.items()}
    print(f"{name}:", "  ".join(f"{column} {words.get(column, '-')}" for column in COLUMNS))
    assert not any(compared.values()), compared
