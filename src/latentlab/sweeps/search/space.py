"""What a search varies, in Hydra's own sweep syntax, as the distributions of Optuna."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
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

# Where results go and what is shown of them: workers of one search may differ in these.
FREE = ("sweep", "logger", "callbacks", "debug", "data.root", "data.eval_batch_size")
EXAMPLES = "optimizer.lr='tag(log,interval(1e-4,1e-2))' model.latent_dim='range(2,65)' data.batch_size=50,100"


@dataclass(frozen=True)
class Space:
    """The hyperparameters that are searched, and what is the same in all trials.

    Attributes:
        distributions: by key, where the values of a trial come from; choices are kept as they are written.
        fixed: by key, the whole overrides of all trials.
    """

    distributions: Mapping[str, BaseDistribution]
    fixed: Mapping[str, str]

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The command line of the trial with the values `params`, the same as often as it is asked."""
        return [*self.fixed.values(), *(f"{key}={params[key]}" for key in self.distributions)]

    def corners(self) -> Iterator[dict[str, Any]]:
        """Few points that between them have the ends of all ranges and each of the choices once."""
        ends = {key: _ends(distribution) for key, distribution in self.distributions.items()}
        for index in range(max(map(len, ends.values()))):
            yield {key: values[min(index, len(values) - 1)] for key, values in ends.items()}

    @property
    def size(self) -> int | None:
        """The number of points; None where they are infinitely many."""
        counts = [_count(distribution) for distribution in self.distributions.values()]
        return None if None in counts else prod(count for count in counts if count is not None)

    def description(self) -> dict[str, str]:
        """What makes another search of this one, by key, as text that compares as it is."""
        kept = {key: text for key, text in self.fixed.items() if not key.startswith(FREE)}
        return kept | {
            key: json.dumps(json.loads(distribution_to_json(each)), sort_keys=True)
            for key, each in self.distributions.items()
        }


def read_space(
    params: Mapping[str, Any] | None, arguments: Sequence[str], config_loader: ConfigLoader | None = None
) -> Space:
    """The space of the config and of the command line, which has the last word on each key.

    Args:
        params: by key, dotted or nested, the text of a sweep such as `interval(0, 1)`, a list of choices, or one
            value; null leaves a key out.
        arguments: the overrides of the command line.
        config_loader: what lists the options of a group, for `glob(*)`.

    Raises:
        UserError: when nothing is searched, a seed is, or a range is empty.
    """
    parser = OverridesParser.create(config_loader=config_loader)
    lines = [f"{key}={_written(value)}" for key, value in leaves(params or {}) if value is not None]
    found: dict[str, Override] = {}
    for each in parser.parse_overrides([*lines, *arguments]):
        found.pop(each.key_or_group, None)  # in the order of the command line
        found[each.key_or_group] = each
    searched = {each.get_key_element(): each for each in found.values() if each.is_sweep_override()}
    if not searched:
        raise UserError(
            f"a search needs a space: give one on the command line ({EXAMPLES}), or in conf/sweep/"
        )
    if "seed" in searched:
        raise UserError(
            f"{searched['seed'].input_line}: a search would pick the luckiest seed; give it one, and train what it "
            "finds under several afterwards (python train.py -m ... seed=1,2,3)"
        )
    fixed = {key: str(each.input_line) for key, each in found.items() if not each.is_sweep_override()}
    return Space({key: distribution(each) for key, each in searched.items()}, fixed)


def distribution(override: Override) -> BaseDistribution:
    """The distribution of a sweep.

    `interval(a,b)` is continuous, `int(interval(a,b))` and `range(a,b,step)` are whole numbers from a to below b, as
    in Hydra; the tag `log` makes either uniform in the logarithm; anything else is a choice.

    Raises:
        UserError: when it is empty, or has another tag.
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
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high - 1, log=log)
    return FloatDistribution(low, high, log=log)


def _range(sweep: RangeSweep) -> BaseDistribution:
    values = list(sweep.range())
    if not values:
        raise ValueError("this range is empty")
    low, high, step, log = min(values), max(values), abs(sweep.step), _is_log(sweep.tags)
    if isinstance(low, int) and isinstance(step, int):
        return IntDistribution(low, int(high), log=log, step=step)
    return FloatDistribution(low, high, log=log, step=step)


def _is_log(tags: Iterable[str]) -> bool:
    if unknown := sorted(set(tags) - {"log"}):
        raise ValueError(f"the tag {unknown[0]} is unknown (log is the only one)")
    return bool(tags)


def _choices(override: Override) -> list[str]:
    value = override.value()
    if isinstance(value, ChoiceSweep):  # in the order written, also when it asks for another
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
