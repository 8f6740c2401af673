"""The search space: Hydra's sweep syntax, translated to Optuna's distributions."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from latentlab.errors import UserError
from latentlab.run.config import leaves

# Workers of one search may differ in these: they do not change the score.
FREE_PER_WORKER = ("sweep", "logger", "callbacks", "figures", "debug", "data.root", "data.eval_batch_size")
EXAMPLES = "optimizer.lr='tag(log,interval(1e-4,1e-2))' model.latent_dim='range(2,65)' data.batch_size=50,100"


@dataclass(frozen=True)
class Space:
    """The searched hyperparameters, and the overrides that all trials share.

    Attributes:
        distributions: the distribution of each key. Choices stay as the user wrote them.
        fixed: the whole override of each fixed key.
    """

    distributions: Mapping[str, BaseDistribution]
    fixed: Mapping[str, str]

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """Return the overrides of the trial with the values `params`."""
        return [*self.fixed.values(), *(f"{key}={params[key]}" for key in self.distributions)]

    def corners(self) -> Iterator[dict[str, Any]]:
        """Yield a few points that together contain both ends of each range and every choice."""
        ends = {key: _ends(distribution) for key, distribution in self.distributions.items()}
        for index in range(max(map(len, ends.values()))):
            yield {key: values[min(index, len(values) - 1)] for key, values in ends.items()}

    @property
    def size(self) -> int | None:
        """Number of points, None if infinite."""
        counts = [_count(distribution) for distribution in self.distributions.values()]
        return None if None in counts else prod(count for count in counts if count is not None)

    def description(self) -> dict[str, str]:
        """Return the settings that identify a search, as text by key."""
        kept = {key: text for key, text in self.fixed.items() if not key.startswith(FREE_PER_WORKER)}
        return kept | {
            key: json.dumps(json.loads(distribution_to_json(each)), sort_keys=True)
            for key, each in self.distributions.items()
        }


def read_space(
    params: Mapping[str, Any] | None, arguments: Sequence[str], config_loader: ConfigLoader | None = None
) -> Space:
    """Read the space from the config and the command line. The command line wins.

    Args:
        params: values by dotted or nested key. A value is the text of a sweep such as `interval(0, 1)`, a list of
            choices, or a fixed value. None leaves the key out.
        arguments: the overrides of the command line.
        config_loader: lists the options of a group for `glob(*)`.

    Raises:
        UserError: if nothing is searched, the seed is searched, or a range is empty.
    """
    parser = OverridesParser.create(config_loader=config_loader)
    lines = [f"{key}={_written(value)}" for key, value in leaves(params or {}) if value is not None]
    found: dict[str, Override] = {}
    for each in parser.parse_overrides([*lines, *arguments]):
        found.pop(each.key_or_group, None)  # keep the order of the command line
        found[each.key_or_group] = each
    searched = {each.get_key_element(): each for each in found.values() if each.is_sweep_override()}
    if not searched:
        raise UserError(
            f"a search needs a space: give one on the command line ({EXAMPLES}), or in conf/sweep/"
        )
    if "seed" in searched:
        raise UserError(
            f"{searched['seed'].input_line}: a search would pick the luckiest seed: give one seed, and train the best "
            "trial with several seeds afterwards (-m ... seed=1,2,3)"
        )
    fixed = {key: str(each.input_line) for key, each in found.items() if not each.is_sweep_override()}
    return Space({key: distribution(each) for key, each in searched.items()}, fixed)


def distribution(override: Override) -> BaseDistribution:
    """Return the distribution of a sweep.

    `interval(a,b)` is continuous. `int(interval(a,b))` and `range(a,b,step)` are integers from a to below b, as in
    Hydra. The tag `log` makes them uniform in the logarithm. Everything else is a choice.

    Raises:
        UserError: if it is empty or has another tag.
    """
    value = override.value()
    try:
        if isinstance(value, IntervalSweep):
            return _interval(value)
        if isinstance(value, RangeSweep):
            return _range(value)
        return CategoricalDistribution(_choices(override))
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}") from error


def _interval(sweep: IntervalSweep) -> BaseDistribution:
    low, high = sweep.start, sweep.end
    assert low is not None and high is not None
    log = _is_log(sweep.tags)
    if not (isfinite(low) and isfinite(high)):
        raise ValueError("the ends of an interval are finite numbers")
    _check_range(low, high, log)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high - 1, log=log)
    return FloatDistribution(low, high, log=log)


def _range(sweep: RangeSweep) -> BaseDistribution:
    values = list(sweep.range())
    if not values:
        raise ValueError("the range is empty")
    low, high, step, log = min(values), max(values), abs(sweep.step), _is_log(sweep.tags)
    _check_range(low, high + step, log)
    if isinstance(low, int) and isinstance(step, int):
        return IntDistribution(low, int(high), log=log, step=step)
    return FloatDistribution(low, high, log=log, step=step)


def _check_range(low: float, high: float, log: bool) -> None:
    if not low < high:
        raise ValueError(f"the interval is empty: its start {low} is not below its end {high}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic scale starts above 0, not at {low}")


def _is_log(tags: Iterable[str]) -> bool:
    if unknown := sorted(set(tags) - {"log"}):
        raise ValueError(f"the tag {unknown[0]} is unknown (the only tag is log)")
    return bool(tags)


def _choices(override: Override) -> list[str]:
    value = override.value()
    if isinstance(value, ChoiceSweep):  # in the written order, even under sort() or shuffle()
        return [Transformer.str(each) for each in value.list]
    return list(override.sweep_string_iterator())


def _ends(distribution: Any) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


def _count(distribution: Any) -> int | None:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if distribution.single():
        return 1
    if distribution.step is None:
        return None
    return round((distribution.high - distribution.low) / distribution.step) + 1


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"choice({','.join(map(_written, value))})"
    return str(value)
