"""Every published row: its commands compose, and its training takes a step."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parts import built, digits, examples, options, smaller, step

from latentlab.errors import UserError
from latentlab.results.rows import protocols, read_rows

ROWS = read_rows()
# Experiments without further settings train a step in test_configs.py.
WHOLE = {f"experiment={name}" for name in options("experiment")}
COMMANDS = {row.command: row for row in ROWS if row.command not in WHOLE}
COUNT = 3  # examples


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_of_every_row_trains_a_step(command):
    config = protocols([COMMANDS[command]])[0].config
    if "classical" in config["module"]["_target_"].lower():
        return iterate(config)
    if "rungs" in config["model"]:
        config = {**config, "module": narrowed(config["module"], width=8)}
    module = built(smaller(OmegaConf.create(config)))
    gradients = step(module, examples(instantiate(config["protocol"]), COUNT))
    assert any(gradient is not None and gradient.any() for gradient in gradients.values())


def iterate(config):
    x = digits()[0][:200].double() / 255
    model = instantiate(config["module"]["model"], x_shape=list(x.shape[1:]))
    model.begin([x])
    assert torch.isfinite(model.iterate()["elbo"])


def narrowed(node, **values):
    if not isinstance(node, dict):
        return node
    return {key: values.get(key, narrowed(value, **values)) for key, value in node.items()}


def test_the_evaluation_of_every_row_composes():
    first = {row.evaluate: row for row in ROWS}
    for each in protocols(first.values()):
        assert (each.settings == {}) == (each.row.evaluate is None)


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
