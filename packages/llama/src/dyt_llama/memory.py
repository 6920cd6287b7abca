"""Memory of a pretraining and of a scoring process, estimated from the sizes of the network.

Imports no torch.

C is the width, K the width of keys and values, F that of the feed-forward layers, V the number of
pieces; n is the tokens of a micro-batch, r the bytes of a number in the residual stream, and e
those of a number in a matrix product. A decoder layer keeps, per token,

    2 · norm + (2C + 2K + 4F) · e + 4 · heads

bytes: queries, keys, values and the attention's output, its log-sum-exp per head, and gate, its
SiLU, the up-projection and their product; ``norm`` is C · (4 + r + e) for RMSNorm, which computes
in float32, and C · (r + e) for DyT. A layer whose activations are recomputed keeps C · r. The
largest temporary is the larger of the loss of one chunk, 12 · V bytes per token (logits and two
gradients in float32), and the backward pass of one layer: 3 · F · e per token, and what the layer
keeps if it is recomputed. torch.compile fuses some of these, so that compiled layers keep less.

A scoring process holds the whole network in its precision, and keeps nothing for a backward pass.
Per token it has 4C · e bytes (the embedding, a layer's input, its residual and the norm's output)
and the larger of 3F · e in a feed-forward layer (SiLU, up-projection and their product) and 2V · e
for the logits and their log-softmax.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from dyt import Norm
from dyt_llama.network_config import Network
from matched import MemoryEstimate, Resources

LOSS_CHUNK = 4096
"""Tokens whose logits exist at a time: over 32,000 pieces they take 0.5 GB in float32."""
FP32 = 4
RESIDUAL_BYTES = {"bf16-params": 2, "bf16-reduce": 2}
"""Precision → bytes of a number in the residual stream, if not 4: autocast keeps it in float32."""
PRODUCT_BYTES = {"bf16": 2, "fp16": 2, "bf16-params": 2, "bf16-reduce": 2}
"""Precision → bytes of a number in matrix products, if not 4."""

Shape = tuple[int, int]
"""Rows, columns: weights are sharded over their rows."""


def estimate_memory(
    network: Network,
    norm: Norm,
    resources: Resources,
    *,
    embedding_scale: bool,
    tokens: int,
    precision: str,
    checkpointed: float,
) -> MemoryEstimate:
    """Return the memory of the process with the largest part of the weights.

    Args:
        tokens: of a micro-batch.
        precision, checkpointed: as in ``Pretraining``.
    """
    layer, rest = layer_shapes(network, norm), other_shapes(network, norm, embedding_scale)
    degree = (resources.shard_degree or resources.world_size) if resources.shard else 1
    own = FP32 * (network.depth * _own_numbers(layer, degree) + _own_numbers(rest, degree))
    return MemoryEstimate(
        weights=own,
        gradients=own,
        optimizer=2 * own,
        gathered=_gathered(network, layer, rest, resources, precision),
        activations=_activations(network, norm, tokens, precision, checkpointed),
    )


def estimate_scoring_memory(
    network: Network, norm: Norm, *, embedding_scale: bool, tokens: int, precision: str
) -> MemoryEstimate:
    """Return the memory of a process that scores requests.

    Args:
        tokens: of a forward pass.
        precision: as in ``ZeroShot``.
    """
    size = PRODUCT_BYTES.get(precision, FP32)
    layer, rest = layer_shapes(network, norm), other_shapes(network, norm, embedding_scale)
    numbers = network.depth * _own_numbers(layer) + _own_numbers(rest)
    of_token = 4 * network.width + max(3 * network.ffn, 2 * network.vocabulary)
    return MemoryEstimate(
        weights=size * numbers,
        gradients=0,
        optimizer=0,
        gathered=0,
        activations=size * tokens * of_token,
    )


def layer_shapes(network: Network, norm: Norm) -> list[Shape]:
    """Return the shapes of the parameters of a decoder layer; vectors are columns."""
    width, ffn = network.width, network.ffn
    kv = _kv_width(network)
    matrices = [(width, width), (kv, width), (kv, width), (width, width)]
    return [*matrices, (ffn, width), (ffn, width), (width, ffn), *2 * _norm_shapes(network, norm)]


def other_shapes(network: Network, norm: Norm, embedding_scale: bool) -> list[Shape]:
    """Return the shapes of embedding, output layer, last norm and embedding scale."""
    table = (network.vocabulary, network.width)
    return [table, table, *_norm_shapes(network, norm), *[(1, 1)] * embedding_scale]


def _norm_shapes(network: Network, norm: Norm) -> list[Shape]:
    """Return γ, and DyT's α or Derf's α and shift. LN and BN are counted like RMSNorm."""
    scalars = 0
    if norm.layer == "dyt":
        scalars = (norm.alpha == "learnable") + (norm.squash == "erf")
    return [(network.width, 1), *[(1, 1)] * scalars]


def _kv_width(network: Network) -> int:
    return network.width // network.heads * network.kv_heads


def _own_numbers(shapes: Iterable[Shape], degree: int = 1) -> int:
    """Return how many numbers the first of ``degree`` processes has: the rows are rounded up."""
    return sum(-(-rows // degree) * columns for rows, columns in shapes)


def _gathered(
    network: Network,
    layer: list[Shape],
    rest: list[Shape],
    resources: Resources,
    precision: str,
) -> int:
    """Return the bytes of copies of weights and gradients while a layer is computed backward."""
    of_layer, of_rest = _own_numbers(layer), _own_numbers(rest)
    size = PRODUCT_BYTES.get(precision, FP32)
    if not resources.shard or resources.world_size == 1:
        numbers = network.depth * of_layer + of_rest
        buckets = FP32 * numbers if resources.world_size > 1 else 0  # of DDP
        return buckets + (size * numbers if size < FP32 else 0)  # autocast keeps its copies
    size = RESIDUAL_BYTES.get(precision, FP32)
    reduced = 2 if precision == "bf16-reduce" else FP32
    # Embedding and output layer stay gathered until the end of the backward pass, and the next
    # layer is gathered in advance. The output layer's gradient is reduced at the end.
    weights = size * (of_rest + 2 * of_layer)
    return weights + size * (network.vocabulary * network.width) + (size + reduced) * of_layer


def _activations(
    network: Network, norm: Norm, tokens: int, precision: str, checkpointed: float
) -> int:
    kept = kept_activations(network, norm, precision, checkpointed)
    backward = 3 * network.ffn * PRODUCT_BYTES.get(precision, FP32)
    if checkpointed:
        backward += _kept_by_layer(network, norm, precision)
    loss = 12 * network.vocabulary * min(tokens, LOSS_CHUNK)
    return tokens * kept + max(loss, tokens * backward)


def kept_activations(network: Network, norm: Norm, precision: str, checkpointed: float) -> int:
    """Return the bytes per token that the network keeps for its backward pass, without the loss."""
    recomputed = math.floor(network.depth * checkpointed + 0.5)
    inputs = recomputed * network.width * RESIDUAL_BYTES.get(precision, FP32)
    layers = (network.depth - recomputed) * _kept_by_layer(network, norm, precision)
    return inputs + layers + _kept_by_norm(network, norm, precision)


def _kept_by_layer(network: Network, norm: Norm, precision: str) -> int:
    numbers = 2 * network.width + 2 * _kv_width(network) + 4 * network.ffn
    product = PRODUCT_BYTES.get(precision, FP32)
    norms = 2 * _kept_by_norm(network, norm, precision)
    return norms + numbers * product + FP32 * network.heads


def _kept_by_norm(network: Network, norm: Norm, precision: str) -> int:
    """Return the bytes per token that a norm keeps, its output for the next layer included."""
    number = RESIDUAL_BYTES.get(precision, FP32) + PRODUCT_BYTES.get(precision, FP32)
    return network.width * (number + (0 if norm.layer == "dyt" else FP32))
