"""Weights that a model adopts from the checkpoint of another one."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from latentlab.errors import UserError


def adopt(model: nn.Module, parts: Sequence[str], state: Mapping[str, Tensor], source: str | None) -> None:
    """Load parts of a model from the `state_dict` of another one.

    Args:
        model: the model.
        parts: the names of the parts, the same in both.
        state: the `state_dict`.
        source: the checkpoint that it comes from.

    Raises:
        UserError: if the state lacks a part, or has one of another network.
    """
    for part in parts:
        own = {
            name.removeprefix(f"{part}."): value
            for name, value in state.items()
            if name.startswith(f"{part}.")
        }
        if not own:
            raise UserError(
                f"model.pretrained={source} is not a VAE's checkpoint, for it has no {part}: "
                "choose a checkpoint of model=vae or one of its variants"
            )
        _load(model.get_submodule(part), own, source)


def _load(part: nn.Module, state: Mapping[str, Tensor], source: str | None) -> None:
    try:
        part.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"model.pretrained={source} has other networks than this config: repeat the options of its "
            f"run, such as encoder, decoder, posterior, likelihood and model.latent_dim ({_reason(error)})"
        ) from error


def _reason(error: RuntimeError) -> str:
    return " ".join(str(error).splitlines()[1:2]).strip() or str(error)
