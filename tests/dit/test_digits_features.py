"""Digits classifier: accuracy, equality with scikit-learn, determinism, and damaged weights."""

import json

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from dyt_dit import digits_features
from dyt_dit.config import DigitsClassifier
from dyt_dit.digits_features import Classifier
from dyt_dit.images import open_split

from ..messages import refused
from .tiny import fingerprint, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("classifier")
    return directory, run(digits_features.train, directory, DigitsClassifier())


def pixels(split):
    images = open_split("digits", None, split, 8)
    return images.pixels.reshape(len(images), 64) / 255, np.array(images.targets)


def test_classifier_accuracy_on_held_out_digits(trained):
    directory, outcome = trained
    assert 90 < outcome.metrics["top1"] < 100 and outcome.details["epochs"] > 100
    assert outcome.steps == 8 * outcome.details["epochs"], "1437 digits in batches of 200"
    inputs, labels = pixels("held_out")
    _, logits = Classifier.read(directory)(inputs)
    assert outcome.metrics["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).mean())


def test_features_match_scikit_learn(trained):
    network = MLPClassifier((64, 32), max_iter=500, random_state=0).fit(*pixels("train"))
    inputs, _ = pixels("held_out")
    hidden, logits = Classifier.read(trained[0])(inputs)
    assert hidden.shape == (360, 32) and (hidden >= 0).all() and hidden.std(0).mean() > 0.1
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    np.testing.assert_allclose(chances, network.predict_proba(inputs), atol=1e-12)


def test_training_is_deterministic(trained, tmp_path):
    directory, outcome = trained
    assert run(digits_features.train, tmp_path / "x", DigitsClassifier()) == outcome
    for name in ("classifier.npz", "fingerprint.json"):
        assert (tmp_path / "x" / name).read_bytes() == (directory / name).read_bytes()
    other = DigitsClassifier(random_state=1, hidden=(16,))
    run(digits_features.train, tmp_path / "y", other)
    assert fingerprint(tmp_path / "y")["weights"] != fingerprint(directory)["weights"]
    assert fingerprint(tmp_path / "y")["batches"] == fingerprint(directory)["batches"]
    hidden, _ = Classifier.read(tmp_path / "y")(np.zeros((2, 64)))
    assert hidden.shape == (2, 16)


def test_fingerprint_has_checksum_of_weights(trained):
    directory, _ = trained
    print_ = json.loads((directory / "fingerprint.json").read_text())
    assert print_["weights"] == Classifier.read(directory).checksum
    assert print_["batches"] == [open_split("digits", None, "train", 8).digest()]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 half of it"])
def test_missing_or_damaged_weights_are_reported(content, tmp_path):
    if content is not None:
        (tmp_path / "classifier.npz").write_bytes(content)
    message = refused(Classifier.read, tmp_path)
    assert message.startswith(f"{tmp_path / 'classifier.npz'} is missing or damaged (")
    assert message.endswith(
        f"). Delete {tmp_path / 'result.json'} and submit again to train the classifier again, "
        "which takes seconds"
    )
