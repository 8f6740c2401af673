"""Every number that a config can set, at values that most of them cannot have."""

from typing import Any

import pytest
from ranges import VALUES, arguments, meaningful

from latentlab.cli.checks import check_call, check_number, check_underflow
from latentlab.errors import UserError


def accepts(node: dict[str, Any], name: str, value: Any, where: str) -> bool:
    try:
        check_number(value, f"{where}.{name}")
        check_call({**node, name: value}, where)
    except UserError as error:
        assert str(error).startswith(f"{where}.{name}=") and "\n" not in str(error)
        return False
    return True


def test_every_number_of_every_config_has_a_range():
    wrong = {}
    for (kind, name), (_, node, where) in arguments().items():
        accepted = [value for value in VALUES if accepts(node, name, value, where)]
        if accepted != list(meaningful(kind, name)):
            wrong[kind, name] = accepted
    assert wrong == {}
    assert len(arguments()) > 180


@pytest.mark.parametrize(
    "override", ["optimizer.lr=1e-400", "a=[1,1E-999]", "a={b:-2.5e-400}", "lr=interval(1e-400,1)"]
)
def test_a_number_that_would_be_zero_is_refused(override):
    with pytest.raises(UserError, match="too small and would be 0"):
        check_underflow(["seed=0", override])


def test_other_words_do_not_underflow():
    check_underflow(["a=1e-300", "a=0e-400", "hydra.run.dir=run/1e-400x", "name=x1e-400", "a=0.0e-999"])
