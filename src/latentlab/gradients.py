"""The tools that the estimators in `objectives` make their gradients with."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def frozen(model: nn.Module) -> Callable[..., Any]:
    """Return the model with detached parameters: gradients flow through z, but not to the parameters.

    In a hierarchy this differs from detaching the parameters of each conditional, for z_1 reaches q(z_2|z_1) through
    the input of its network.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def call(*args: Any, **kwargs: Any) -> Any:
        return functional_call(model, parameters, args, kwargs)

    return call


def with_value(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return a tensor with the value of `value` and the gradient of `surrogate`, which have the same shape."""
    return value.detach() + surrogate - surrogate.detach()


def with_gradient_of_square(loss: Tensor, sources: Iterable[Tensor], scale: float) -> Tensor:
    r"""Give `sources` the gradient of the square, $\frac{1}{\mathrm{scale}} \nabla L^2$, instead of $\nabla L$.

    If the mean of an estimate L does not depend on the sources, this trains them for a small variance of L (Kingma et
    al. 2021, appendix I.2). The gradient flows on to everything that the sources were computed from. All other
    gradients of L stay as they are.

    Args:
        loss: L, (N,).
        sources: tensors (N,) that L was computed from.
        scale: a positive number, such as the number of dimensions.

    Returns:
        L itself.
    """
    weight = 2 * loss.detach() / scale
    for source in sources:
        if source.requires_grad:
            source.register_hook(lambda gradient: gradient * weight)
    return loss


def leave_one_out(values: Tensor) -> Tensor:
    r"""Return the mean of the other samples, $\frac{1}{K-1}\sum_{j \neq k} v_j$, for values (K, ...) with K >= 2.

    It does not depend on sample k. As a control variate of the score function it leaves the gradient unbiased
    (Mnih and Rezende 2016, eq. 7).

    Raises:
        ValueError: for fewer than two samples.
    """
    samples = values.shape[0]
    if samples < 2:
        raise ValueError(f"leave-one-out needs at least 2 samples, got {samples}")
    return (values.sum(0) - values) / (samples - 1)
