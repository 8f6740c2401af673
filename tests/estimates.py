"""Many independent draws of the value and gradient of an objective."""

from collections.abc import Iterable

import torch
from linear_gaussian import Chain
from torch import Tensor, nn

from latentlab.objectives import Objective


def flat(gradients: Iterable[Tensor]) -> Tensor:
    """Concatenate gradients (N, ...) of all parameters to (N, P)."""
    return torch.cat([gradient.flatten(1) for gradient in gradients], 1)


def estimates(objective: Objective, model: Chain, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n draws of the bound at a single x (D,), (n,), and of its gradient in all P parameters, (n, P)."""
    copies = model.repeated(n)
    bound = objective(copies, x.expand(n, -1))
    return bound.detach(), flat(torch.autograd.grad(bound.sum(), list(copies.parameters())))


def exact_gradient(value: Tensor, model: nn.Module) -> Tensor:
    """The gradient of a value in all parameters, (P,). It is zero for unused parameters."""
    gradients = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
    return flat(gradient[None] for gradient in gradients)[0]


def is_inference(model: Chain) -> Tensor:
    """A mask of the gradient's coordinates that belong to q, (P,)."""
    inference = {id(parameter) for parameter in model.inference_parameters()}
    return torch.cat([torch.full((p.numel(),), id(p) in inference) for p in model.parameters()])
