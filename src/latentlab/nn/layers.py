"""What layers are made of: nonlinearities and normalisations of one example at a time."""

from collections.abc import Callable

from pydantic import PositiveInt
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from latentlab.errors import UserError

Activation = Callable[[], nn.Module]
Normalisation = Callable[[int], nn.Module] | None


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018, eq. 1) of maps with `width` channels.

    Args:
        width: the number of channels.
        groups: the number of groups, each normalised together.

    Raises:
        UserError: when the channels do not divide into the groups.
    """

    def __init__(self, width: int, groups: PositiveInt = 8) -> None:
        if width % groups:
            raise UserError(f"normalisation.groups={groups} does not divide the {width} channels of a layer")
        super().__init__(groups, width)


def normalised(
    layer: nn.Module, width: int, normalisation: Normalisation, activation: Activation
) -> nn.Sequential:
    """A layer of `width` outputs, followed by its normalisation, if any, and its nonlinearity."""
    norm = [] if normalisation is None else [per_example(normalisation(width))]
    return nn.Sequential(layer, *norm, per_example(activation()))


def per_example(module: nn.Module) -> nn.Module:
    """The module itself, if it maps each example alone and twice to the same.

    Batch normalisation lets the examples of a batch see each other and changes with every pass, dropout draws
    anew: the second, frozen pass of an estimator would score another model than the one that drew.

    Raises:
        UserError: for batch normalisation, dropout and randomised nonlinearities.
    """
    if isinstance(module, (_BatchNorm, _DropoutNd, nn.RReLU)):
        raise UserError(
            f"{type(module).__name__} is not the same function in each pass, or not of each example alone, and would "
            "make bounds and their gradients wrong: choose torch.nn.LayerNorm (mlp), latentlab.nn.layers.GroupNorm "
            "(cnn, resnet), or normalisation=null"
        )
    return module
