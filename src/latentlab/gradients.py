"""The three tools that every gradient estimator here is made of."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def frozen(model: nn.Module) -> Callable[..., Any]:
    """The model called with detached parameters: no gradient reaches them, while every path through z stays.

    Detaching the parameters of each conditional is not the same in a hierarchy, where z_1 reaches q(z_2|z_1) through
    that network's input.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def call(*args: Any, **kwargs: Any) -> Any:
        return functional_call(model, parameters, args, kwargs)

    return call


def with_value(value: Tensor, surrogate: Tensor) -> Tensor:
    """A tensor with the value of `value` and the gradient of `surrogate`, of their common shape."""
    return value.detach() + surrogate - surrogate.detach()


def leave_one_out(values: Tensor) -> Tensor:
    r"""The mean of the other samples, $\frac{1}{K-1}\sum_{j \neq k} v_j$, for values (K, ...) with K >= 2.

    A control variate for the score function that leaves the gradient unbiased, for it does not depend on sample k
    (Mnih and Rezende 2016, eq. 7).

    Raises:
        ValueError: for fewer than two samples.
    """
    samples = values.shape[0]
    if samples < 2:
        raise ValueError(f"leave-one-out needs at least 2 samples, got {samples}")
    return (values.sum(0) - values) / (samples - 1)
