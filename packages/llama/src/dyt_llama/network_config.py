"""Sizes of the networks as plain values, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass

from matched.checks import check_counts, check_divides


@dataclass(frozen=True, kw_only=True)
class Network:
    """Sizes of a LLaMA (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288).

    Attributes:
        width: channels of the residual stream.
        depth: number of decoder layers.
        heads: attention heads of the queries.
        kv_heads: attention heads of keys and values; fewer than ``heads`` is grouped-query
            attention.
        ffn: channels of the gated feed-forward layers.
        vocabulary: rows of the embedding and of the output layer, which are not tied.
        positions: length of the longest sequence.
        rope_theta: base of the rotary position embedding.
        norm_eps: ε of RMSNorm.
        std: of all initial weights of linear layers and of the embedding, whatever the depth, as in
            ibm-fms (trunc_normal with bounds of ±100 standard deviations) and transformers.
    """

    width: int
    depth: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int = 32_000
    positions: int = 4096
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    std: float = 0.02

    def __post_init__(self) -> None:
        check_counts(self, "width", "depth", "heads", "kv_heads", "ffn", "vocabulary", "positions")
        check_divides("heads", self.heads, "width", self.width)
        check_divides("kv_heads", self.kv_heads, "heads", self.heads)
        for name in ("rope_theta", "norm_eps", "std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")
        if self.width // self.heads % 2:
            raise ValueError(
                f"each of {self.heads} heads has {self.width // self.heads} channels; "
                "rotary positions need an even number"
            )


LLAMA_7B = Network(width=4096, depth=32, heads=32, kv_heads=32, ffn=11_008)
LLAMA_13B = Network(width=5120, depth=40, heads=40, kv_heads=40, ffn=13_824)
LLAMA_34B = Network(width=8192, depth=48, heads=64, kv_heads=8, ffn=22_016)
LLAMA_70B = Network(width=8192, depth=80, heads=64, kv_heads=8, ffn=28_672)
LLAMA_1B4 = Network(width=2048, depth=24, heads=16, kv_heads=4, ffn=6144)
"""fms-fsdp's llama2_1.4b since September 2024, the model of ICLR's 1.4B."""


def llama_of(width: int, depth: int, **changes: int) -> Network:
    """Return a LLaMA of any width and depth, for the searches of α0 by size.

    CVPR 2025, Table 12, and ICLR 2025 submission, Tables 7 and 10 and Fig. 5, print width and depth
    only. Heads of 128 channels without grouping, and LLaMA's rule for the feed-forward width, the
    next multiple of 256 of 8/3 · width, give the 7B and 13B models at their widths and depths.

    Args:
        changes: other fields of the network.
    """
    ffn = -(-8 * width // 3 // 256) * 256
    heads = max(1, width // 128)
    sizes = {"heads": heads, "kv_heads": heads, "ffn": ffn} | changes
    return Network(width=width, depth=depth, **sizes)
