"""Finds the residual branches and the norm layers of a model built from timm's Blocks."""

from __future__ import annotations

from dataclasses import dataclass

from timm.models.vision_transformer import Attention, Block, Mlp
from torch import nn

from dyt import Norm, convert

# What a block must have where, and how timm builds it so. ls1, ls2, attn.norm and mlp.norm are
# where scalars are put in; the rest is what the methods' rules for weights are made for.
_EXPECTED: dict[str, tuple[type[nn.Module], str]] = {
    "attn": (Attention, "attn_layer='attn'"),
    "mlp": (Mlp, "mlp_layer=Mlp"),
    "attn.q_norm": (nn.Identity, "qk_norm=False"),
    "attn.k_norm": (nn.Identity, "qk_norm=False"),
    "attn.norm": (nn.Identity, "scale_attn_norm=False"),
    "mlp.norm": (nn.Identity, "scale_mlp_norm=False"),
    "ls1": (nn.Identity, "init_values=None"),
    "ls2": (nn.Identity, "init_values=None"),
}


@dataclass(frozen=True)
class Transformer:
    """A model and the places in it that matter here.

    Attributes:
        stacks: the paths of the blocks, grouped by the container that holds them: the encoder
            and the decoder of an autoencoder are two stacks.
        norms: the paths of all norm layers.
    """

    model: nn.Module
    stacks: tuple[tuple[str, ...], ...]
    norms: tuple[str, ...]

    @classmethod
    def read(cls, model: nn.Module) -> Transformer:
        """Survey a model and leave it as it is.

        Raises:
            ValueError: no timm Block is in it, a block has something else where an identity or
                timm's plain attention and MLP are expected, or there is no norm layer.
        """
        stacks: dict[str, list[str]] = {}
        for path, module in model.named_modules():
            if isinstance(module, Block):
                _check(path, module)
                stacks.setdefault(path.rpartition(".")[0], []).append(path)
        if not stacks:
            raise ValueError(
                f"{type(model).__name__} holds no timm vision_transformer.Block, for which"
                " Fixup, SkipInit and σReparam are made here. Choose a ViT, or a dyt.Norm."
            )
        paths = convert(model, Norm.own()).paths
        return cls(model, tuple(tuple(stack) for stack in stacks.values()), paths)

    def blocks(self) -> tuple[str, ...]:
        """The paths of all blocks."""
        return tuple(path for stack in self.stacks for path in stack)

    def put(self, path: str, module: nn.Module) -> str:
        """Set a module at a path, on the device and in the dtype of the blocks; the path."""
        like = self.model.get_submodule(self.stacks[0][0]).mlp.fc1.weight
        parent, _, name = path.rpartition(".")
        holder = self.model.get_submodule(parent)
        setattr(holder, name, module.to(like).train(holder.training))
        return path


def _check(path: str, block: Block) -> None:
    for slot, (kind, option) in _EXPECTED.items():
        found = block
        for name in slot.split("."):
            found = getattr(found, name, None)
        if not isinstance(found, kind):
            raise ValueError(
                f"{path}.{slot} is {type(found).__name__}, but {kind.__name__} is needed there."
                f" Build the model with {option}, and convert it once only."
            )
