"""A small classifier of digits whose hidden layer gives features where there is no Inception.

The task ``dyt_dit.digits_features:train``. It scores what is generated at smoke scale: what comes
out is no FID and must not be read beside one.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dyt_dit.config import DigitsClassifier
from dyt_dit.images import Digits
from matched.task import Context, Outcome
from matched.training.distributed import on_rank0, process_group
from matched.training.file_tasks import digest

WEIGHTS = "classifier.npz"
SIDE = 8
"""Height and width of the pictures that it sees."""
EPOCHS = 500
"""At most; scikit-learn stops when the loss does not fall any more, after some 200."""


def train(context: Context, config: DigitsClassifier) -> Outcome:
    """Train on the training digits; the metric is ``top1`` of the held-out ones, in percent.

    Those are of other writers: a network of this size gets some 91 % of them right.
    """
    with process_group(context):
        return on_rank0(lambda: _train(context, config))


def _train(context: Context, config: DigitsClassifier) -> Outcome:
    from sklearn.neural_network import MLPClassifier

    digits, held_out = Digits("train", SIDE), Digits("held_out", SIDE)
    network = MLPClassifier(config.hidden, max_iter=EPOCHS, random_state=config.random_state)
    network.fit(_inputs(digits), digits.targets)
    with context.atomic_write(WEIGHTS) as temporary, temporary.open("wb") as target:
        weights = {f"w{i}": weight for i, weight in enumerate(network.coefs_)}
        biases = {f"b{i}": bias for i, bias in enumerate(network.intercepts_)}
        np.savez(target, **weights, **biases)
    classifier = Classifier.read(context.directory)
    _, logits = classifier(_inputs(held_out))
    right = logits.argmax(1) == np.array(held_out.targets)
    context.write_fingerprint(weights=classifier.checksum, batches=[digits.digest()])
    return Outcome(
        metrics={"top1": 100 * float(right.mean())},
        steps=network.n_iter_ * -(-len(digits) // min(200, len(digits))),
        details={"epochs": network.n_iter_},
    )


def _inputs(digits: Digits) -> np.ndarray:
    return digits.pixels.reshape(len(digits), -1) / 255


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """The trained network.

    Attributes:
        layers: weight (in, out) and bias (out,) of each, float64.
        checksum: of their file.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    checksum: str

    @classmethod
    def read(cls, directory: Path) -> Classifier:
        """What a run of ``train`` has left in its directory.

        Raises:
            ValueError: if it is lost or damaged; the run writes it anew, as the message says.
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
                f"{file} is lost or damaged ({error}). Delete {directory / 'result.json'} and "
                "submit again: the classifier is trained anew in seconds"
            ) from error

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Activations of the last hidden layer and logits, float64 (B, D) and (B, classes).

        Args:
            images: grey pictures (B, SIDE · SIDE) with values from 0 to 1.
        """
        hidden = images
        for weight, bias in self.layers[:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0)
        weight, bias = self.layers[-1]
        return hidden, hidden @ weight + bias
