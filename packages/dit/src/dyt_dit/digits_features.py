"""Small digits classifier as feature extractor: the task ``dyt_dit.digits_features:train``.

Its hidden layer replaces Inception's features at smoke scale. The resulting distance is no FID and
must not be compared with one.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from einops import rearrange

from dyt_dit.config import DigitsClassifier
from dyt_dit.images import Digits
from matched.task import Context, Outcome
from matched.training.distributed import on_rank0, process_group
from matched.training.file_tasks import digest

WEIGHTS = "classifier.npz"
SIDE = 8
"""Height and width of its input images."""
MAX_EPOCHS = 500
"""Upper limit; scikit-learn stops when the loss no longer decreases, after about 200 epochs."""


def train(context: Context, config: DigitsClassifier) -> Outcome:
    """Train on the training digits; the metric is ``top1`` on the held-out ones, in percent.

    The held-out digits are by other writers; a network of this size reaches about 91 %.
    """
    with process_group(context):
        return on_rank0(lambda: _train(context, config))


def _train(context: Context, config: DigitsClassifier) -> Outcome:
    from sklearn.neural_network import MLPClassifier

    digits, held_out = Digits("train", SIDE), Digits("held_out", SIDE)
    network = MLPClassifier(config.hidden, max_iter=MAX_EPOCHS, random_state=config.random_state)
    network.fit(_inputs(digits), digits.targets)
    with context.atomic_write(WEIGHTS) as temporary, temporary.open("wb") as target:
        weights = {f"w{i}": weight for i, weight in enumerate(network.coefs_)}
        biases = {f"b{i}": bias for i, bias in enumerate(network.intercepts_)}
        np.savez(target, **weights, **biases)
    classifier = Classifier.read(context.directory)
    _, logits = classifier(_inputs(held_out))
    correct = logits.argmax(1) == np.array(held_out.targets)
    context.write_fingerprint(weights=classifier.checksum, batches=[digits.digest()])
    return Outcome(
        metrics={"top1": 100 * float(correct.mean())},
        steps=network.n_iter_ * -(-len(digits) // min(200, len(digits))),
        details={"epochs": network.n_iter_},
    )


def _inputs(digits: Digits) -> np.ndarray:
    return rearrange(digits.pixels, "b h w -> b (h w)") / 255


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """The trained classifier.

    Attributes:
        layers: weight (in, out) and bias (out,) of each layer, float64.
        checksum: SHA-256 of the weights file.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    checksum: str

    @classmethod
    def read(cls, directory: Path) -> Classifier:
        """Read the classifier in the directory of a ``train`` run.

        Raises:
            ValueError: if its file is missing or damaged; the message says how to write it again.
        """
        file = directory / WEIGHTS
        try:
            with np.load(file, allow_pickle=False) as arrays:
                layers = tuple(
                    (arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(len(arrays.files) // 2)
                )
            return cls(layers=layers, checksum=digest(file))
        except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{file} is missing or damaged ({error}). Delete {directory / 'result.json'} and "
                "submit again to train the classifier again, which takes seconds"
            ) from error

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return activations of the last hidden layer (B, D) and logits (B, classes), float64.

        Args:
            images: gray images (B, SIDE · SIDE) with values from 0 to 1.
        """
        hidden = images
        for weight, bias in self.layers[:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0)
        weight, bias = self.layers[-1]
        return hidden, hidden @ weight + bias
