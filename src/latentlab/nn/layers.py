"""Nonlinearities and normalisations that treat each example separately."""

from collections.abc import Callable

from pydantic import PositiveInt
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from latentlab.errors import UserError

Activation = Callable[[], nn.Module]
Normalisation = Callable[[int], nn.Module] | None


class GroupNorm(nn.GroupNorm):
    """Group normalisation of `width` channels (Wu and He 2018, eq. 1).

    Args:
        width: the number of channels.
        groups: the number of groups of channels.

    Raises:
        UserError: if `groups` does not divide `width`.
    """

    def __init__(self, width: int, groups: PositiveInt = 8) -> None:
        if width % groups:
            raise UserError(f"normalisation.groups={groups} does not divide the {width} channels of a layer")
        super().__init__(groups, width)


def normalised(
    layer: nn.Module, width: int, normalisation: Normalisation, activation: Activation
) -> nn.Sequential:
    """A layer with `width` outputs, then its normalisation if any, then its nonlinearity."""
    norm = [] if normalisation is None else [per_example(normalisation(width))]
    return nn.Sequential(layer, *norm, per_example(activation()))


def per_example(module: nn.Module) -> nn.Module:
    """Return the module if it is a deterministic function of each example.

    Batch normalisation and dropout are not. Estimators that call a model twice on the same draws would score another
    function in the second call.

    Raises:
        UserError: for batch normalisation, dropout and randomised nonlinearities.
    """
    if isinstance(module, (_BatchNorm, _DropoutNd, nn.RReLU)):
        raise UserError(
            f"{type(module).__name__} is not a deterministic function of each example, so that bounds and gradients "
            "would be wrong: choose torch.nn.LayerNorm (mlp), latentlab.nn.layers.GroupNorm (cnn, resnet), or "
            "normalisation=null"
        )
    return module
