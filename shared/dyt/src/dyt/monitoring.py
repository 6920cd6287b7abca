"""Values of the DyT layers of a network: α and s by path."""

from __future__ import annotations

from torch import Tensor, nn

from dyt.layers import _Dynamic


def alphas(model: nn.Module) -> dict[str, float]:
    """Return α of each DyT and Derf layer by the layer's path, and s of Derf by `path.shift`.

    Layers without α are omitted. Sharded parameters (FSDP2's DTensor) are gathered: with them, all
    processes have to call this function.
    """
    values = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, _Dynamic):
            continue
        for name, parameter in ((path, layer.alpha), (f"{path}.shift", layer.shift)):
            if parameter is not None:
                values[name] = _gathered(parameter).item()
    return values


def _gathered(parameter: Tensor) -> Tensor:
    """Return a parameter's full value; DTensor is not imported, which would take long."""
    full_tensor = getattr(parameter, "full_tensor", None)
    return parameter if full_tensor is None else full_tensor()
