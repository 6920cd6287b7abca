"""fairseq's wav2vec 2.0 with the norm that a config asks for, in place of the intended norms.

These are the Transformer's, and the norm of the features before their projection. The convolutional
feature extractor keeps its own, as in the authors' release.
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


def settings(network: Network) -> dict[str, Any]:
    """Fields of fairseq's Wav2Vec2Config; all that are not in it keep fairseq's defaults."""
    values = dataclasses.asdict(network)
    values["conv_feature_layers"] = repr(list(network.conv_feature_layers))
    return {**values, "quantize_targets": True}


def build(network: Network, norm: Norm, seed: int) -> tuple[nn.Module, tuple[str, ...]]:
    """The network as it is before a run's first update, and the paths of its norm layers.

    Both arms of a pair have the same weights outside of these.

    Args:
        network: its sizes and shares.
        norm: what stands in the place of its LayerNorms.
        seed: of the run.

    Returns:
        A fairseq Wav2Vec2Model, whose input is a batch of waveforms (B, samples), and the paths.

    Raises:
        ValueError: fairseq is missing or is another version.
    """
    wav2vec = fairseq_compat.load().models.wav2vec
    reseed(seed)
    with warnings.catch_warnings():
        # Its weight norm is torch's older one, whose names its checkpoints have.
        warnings.filterwarnings("ignore", ".*weight_norm", FutureWarning)
        model = wav2vec.Wav2Vec2Model(wav2vec.Wav2Vec2Config(**settings(network)))
    return model, replace_norms(model, norm)


def reseed(seed: int) -> None:
    """Seed the global generators as fairseq's command does before it builds a network."""
    np.random.seed(seed)
    fairseq_compat.load().utils.set_torch_seed(seed)


def replace_norms(model: nn.Module, norm: Norm) -> tuple[str, ...]:
    """Put in the norm layer that a config asks for, in place; the paths of the norm layers."""
    return convert(model, norm, skip=WAV2VEC2_SKIP).paths
