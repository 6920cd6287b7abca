"""fairseq's wav2vec 2.0 with a configurable norm layer.

The norms of the Transformer and the norm of the features before their projection are converted. The
convolutional feature extractor keeps its own, as in the authors' release.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from torch import nn

from dyt import Norm, convert
from dyt.architecture_rules import WAV2VEC2_SKIP
from dyt_wav2vec import fairseq_compat
from dyt_wav2vec.config import Network


def model_overrides(network: Network) -> dict[str, Any]:
    """Return fields of fairseq's Wav2Vec2Config; the others keep fairseq's defaults."""
    values = dataclasses.asdict(network)
    values["conv_feature_layers"] = repr(list(network.conv_feature_layers))
    return {**values, "quantize_targets": True}


def build(network: Network, norm: Norm, seed: int) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the initial network of a run.

    Both arms of a pair have the same weights outside the norm layers.

    Args:
        network: architecture.
        norm: replacement of the LayerNorms.
        seed: seed of the run.

    Returns:
        A fairseq Wav2Vec2Model, whose input is a batch of waveforms ``(B, samples)``, and the paths
        of its norm layers.

    Raises:
        ValueError: if fairseq is missing or is another version.
    """
    wav2vec = fairseq_compat.load().models.wav2vec
    reseed(seed)
    with warnings.catch_warnings():
        # fairseq uses torch's deprecated weight norm; its checkpoints have that one's names.
        warnings.filterwarnings("ignore", ".*weight_norm", FutureWarning)
        model = wav2vec.Wav2Vec2Model(wav2vec.Wav2Vec2Config(**model_overrides(network)))
    return model, replace_norms(model, norm)


def reseed(seed: int) -> None:
    """Seed the global generators as fairseq's command does before building a network."""
    np.random.seed(seed)
    fairseq_compat.load().utils.set_torch_seed(seed)


def replace_norms(model: nn.Module, norm: Norm) -> tuple[str, ...]:
    """Replace the norm layers in place, and return their paths."""
    return convert(model, norm, skip=WAV2VEC2_SKIP).paths
