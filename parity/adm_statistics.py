"""FID of ADM's evaluation suite (openai/guided-diffusion), from the same features.

Computed by its NumPy part. Its Inception network, and precision and recall, are TensorFlow graphs,
the first of them with weights that it downloads; they are not run here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from claims import Claim, use_checkout
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from dyt_dit.fid import RunningMoments, frechet_distance, inception_score
from dyt_upstream.shims.flash_attn import add_module

BOUND = 1e-6
WIDTH, CLASSES = 96, 40


def claims(checkout: Path) -> Iterator[Claim]:
    # The suite imports TensorFlow at its top.
    for name in ("tensorflow.compat.v1", "requests"):
        add_module(name)
    use_checkout(checkout / "evaluations")
    import evaluator

    for count, shift in ((3000, 0.0), (3000, 0.5), (600, 2.0)):
        one, other = features(count, 0, 0.0), features(count, 1, shift)
        ours = [moments(values).statistics() for values in (one, other)]
        theirs = [evaluator.Evaluator.compute_statistics(None, v) for v in (one, other)]
        found, expected = frechet_distance(*ours), theirs[0].frechet_distance(theirs[1])
        note = f"{expected:.4f}"
        name = f"Fréchet distance of {count:,} features, shifted by {shift}, relative"
        yield relative(f"ADM's {name}", found, expected, note)
        statistics = [fid_features_to_statistics(torch.from_numpy(v)) for v in (one, other)]
        metric = fid_statistics_to_metric(*statistics, verbose=False)
        yield relative(f"torch-fidelity's {name}", found, *metric.values(), note)
    yield score(evaluator)


def features(count: int, seed: int, shift: float) -> np.ndarray:
    """Return correlated features that are not negative, as Inception's are, in float64."""
    source = np.random.default_rng(seed)
    mixed = source.normal(size=(count, WIDTH)) @ source.normal(size=(WIDTH, WIDTH))
    return np.maximum(mixed + shift, 0)


def moments(values: np.ndarray) -> RunningMoments:
    """Return the moments of features that arrive in chunks."""
    running = RunningMoments(torch.device("cpu"))
    for chunk in np.array_split(values, 7):
        running.add(chunk)
    return running


def score(evaluator: Any) -> Claim:
    """Return the claim about the Inception score, whose softmax is that of torch here."""
    logits = 2 * np.random.default_rng(0).normal(size=(12_000, CLASSES))
    suite = SimpleNamespace(
        softmax_batch_size=512,
        softmax=None,
        softmax_input="logits",
        sess=SimpleNamespace(
            run=lambda _, feed_dict: torch.from_numpy(feed_dict["logits"]).softmax(1).numpy()
        ),
    )
    expected = evaluator.Evaluator.compute_inception_score(suite, logits)
    found = inception_score(logits)
    text = "ADM's Inception score of 12,000 images, relative"
    return relative(text, found, expected, f"{expected:.4f}")


def relative(text: str, found: float, expected: float, note: str) -> Claim:
    measured = float(abs(found - expected) / abs(expected))
    return Claim(text=text, bound=BOUND, measured=measured, note=note)
