"""Residual branches and norm layers of a model that is built from timm's Blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm.models.vision_transformer import Attention, Block, Mlp
from torch import nn

from dyt import Norm, convert

# The expected type of each slot of a block, and the timm option that gives it. Scalars are put into
# ls1, ls2, attn.norm and mlp.norm; the methods' rules for weights assume the others.
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
class BlockModel:
    """A model, and the paths of its blocks and norm layers.

    Attributes:
        stacks: the paths of the blocks, grouped by the container that has them: the encoder and
            the decoder of an autoencoder are two stacks.
        norms: the paths of all norm layers.
    """

    model: nn.Module
    stacks: tuple[tuple[str, ...], ...]
    norms: tuple[str, ...]

    @classmethod
    def inspect(cls, model: nn.Module) -> BlockModel:
        """Find the blocks and norm layers of a model without changing it.

        Raises:
            ValueError: if the model has no timm Block, a block differs from timm's plain one, or
                there is no norm layer.
        """
        stacks: dict[str, list[str]] = {}
        for path, module in model.named_modules():
            if isinstance(module, Block):
                _check_block(path, module)
                stacks.setdefault(path.rpartition(".")[0], []).append(path)
        if not stacks:
            raise ValueError(
                f"{type(model).__name__} has no timm vision_transformer.Block, which Fixup, "
                "SkipInit and σReparam require; use a ViT, or a dyt.Norm"
            )
        paths = convert(model, Norm.own()).paths
        return cls(model, tuple(tuple(stack) for stack in stacks.values()), paths)

    def block_paths(self) -> tuple[str, ...]:
        """Return the paths of all blocks."""
        return tuple(path for stack in self.stacks for path in stack)

    def put(self, path: str, module: nn.Module) -> str:
        """Set a module at a path, with the blocks' device and dtype; return the path."""
        block: Any = self.model.get_submodule(self.stacks[0][0])
        like = block.mlp.fc1.weight
        parent_path, _, name = path.rpartition(".")
        parent = self.model.get_submodule(parent_path)
        setattr(parent, name, module.to(like).train(parent.training))
        return path


def _check_block(path: str, block: Block) -> None:
    for slot, (expected, option) in _EXPECTED.items():
        module: Any = block
        for name in slot.split("."):
            module = getattr(module, name, None)
        if not isinstance(module, expected):
            raise ValueError(
                f"{path}.{slot} is {type(module).__name__}, expected {expected.__name__}; "
                f"build the model with {option}, and convert it only once"
            )
