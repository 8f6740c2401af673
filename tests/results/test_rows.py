"""Every published row: its commands compose, and its training takes a step."""

from collections import defaultdict

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parts import built, digits, examples, options, smaller, step

from latentlab.errors import UserError
from latentlab.results.rows import evaluated, protocols, read_rows, trained

ROWS = read_rows()
# Experiments without further settings train a step in test_configs.py.
WHOLE = {f"experiment={name}" for name in options("experiment")}
COUNT = 3  # examples


def chosen(command):
    """The options of groups in a command, without single settings such as objective.samples=5."""
    return " ".join(word for word in command.split() if "." not in word.partition("=")[0])


CHOICES = defaultdict(set)
for row in ROWS:
    if row.command not in WHOLE:
        CHOICES[chosen(row.command)].add(row.command)


@pytest.mark.parametrize("choice", sorted(CHOICES))
def test_the_command_of_every_row_composes_and_trains_a_step(choice):
    """Commands that differ in single settings only are composed once, as the model is made small anyway."""
    commands = CHOICES[choice]
    settings = dict.fromkeys(word.partition("=")[0] for each in commands for word in each.split())
    config = trained(min(commands))
    assert all(OmegaConf.select(OmegaConf.create(config), key) is not None for key in settings if "." in key)
    if "classical" in config["module"]["_target_"].lower():
        return iterate(config)
    module = built(smaller(OmegaConf.create(config)))
    gradients = step(module, examples(instantiate(config["protocol"]), COUNT))
    assert any(gradient is not None and gradient.any() for gradient in gradients.values())


def iterate(config):
    x = digits()[0][:200, :, 8:20, 8:20].double() / 255
    model = instantiate(config["module"]["model"], x_shape=list(x.shape[1:]))
    model.begin([x])
    assert torch.isfinite(model.iterate()["elbo"])


def test_the_evaluation_of_every_row_composes():
    for words in {row.evaluate for row in ROWS} - {None}:
        assert evaluated(words)


def test_every_row_has_its_own_name():
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {table: A, model: B, command: seed=1, metric: test/elbo, publshed: 3}", "publshed"),
        ("- {table: A, model: B, command: seed=1}", "metric"),
        ("- {table: A, model: B, command: model=va, metric: test/elbo}", "command of A, B.*model=va"),
        ("- {table: A, model: B, command: seed=1, evaluate: nll.sample=3, metric: test/nll}", "nll.sample"),
        ("- [", "rows="),
        ("3", "list"),
    ],
)
def test_a_mistake_in_the_rows_is_one_line(tmp_path, text, words):
    path = tmp_path / "rows.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        protocols(read_rows(path))
    assert "\n" not in str(error.value)
