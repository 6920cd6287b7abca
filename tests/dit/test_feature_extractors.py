"""Feature extractors: equality with torch-fidelity, ADM's spatial features, rejected weights."""

import os

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from dyt_dit.feature_extractors import (
    deterministic_float32,
    extract_features,
    extractor_path,
    open_extractor,
    read_features,
    write_features,
)
from matched.training.file_tasks import digest

from ..messages import refused
from .sets import Averages, classifier, held_out, inception, noise
from .tiny import context

CPU = torch.device("cpu")
IMAGES = torch.from_numpy(noise(3, side=40)[0]).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(autouse=True)
def _block_downloads(monkeypatch):
    monkeypatch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return inception(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture(scope="module")
def features(weights):
    return open_extractor("inception", weights, CPU)(IMAGES)


class TestInceptionExtractor:
    def test_features_match_torch_fidelity(self, weights, features):
        published = FeatureExtractorInceptionV3(
            "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights
        )
        blocks = []
        published.Mixed_6d.register_forward_hook(
            lambda module, inputs, output: blocks.append(output)
        )
        pool, logits = published(IMAGES)
        assert torch.equal(features["pool"], pool) and pool.shape == (3, 2048)
        assert torch.equal(features["logits"], logits) and logits.shape == (3, 1008)
        assert pool.std(0).mean() > 1e-3 and logits.dtype == torch.float32
        # The first branch has the first channels of the block; TensorFlow has the channels last.
        spatial = blocks[0][:, :7].numpy().transpose(0, 2, 3, 1).reshape(3, 17 * 17 * 7)
        assert np.array_equal(features["spatial"].numpy(), spatial) and spatial.std(0).mean() > 1e-3

    def test_unpublished_weights_give_a_warning(self, weights, caplog):
        extractor = open_extractor("inception", weights, CPU)
        assert extractor.checksum == digest(weights)
        assert extractor.names == ("pool", "logits", "spatial")
        (warning,) = extractor.warnings
        assert warning == (
            f"{weights.name} is not torch-fidelity's file (its SHA-256 starts with "
            f"{extractor.checksum[:8]}, not with 6726825d); the metrics cannot be compared with "
            "published ones"
        )
        assert warning in caplog.messages

    def test_weights_of_other_network_are_rejected(self, weights, tmp_path):
        state = torch.load(weights, weights_only=True)
        state["fc.weights"] = state.pop("fc.weight")
        torch.save(state, tmp_path / "other.pth")
        message = refused(open_extractor, "inception", tmp_path / "other.pth", CPU)
        assert message == (
            f"{tmp_path / 'other.pth'} has weights of another network: Missing key(s) in "
            'state_dict: "fc.weight". Unexpected key(s) in state_dict: "fc.weights". … Expected '
            "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"
        )
        torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
        message = refused(open_extractor, "inception", tmp_path / "other.pth", CPU)
        listed = message.partition("network: ")[2].partition(" … Expected")[0]
        assert len(listed) == 300

    @pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
    def test_file_without_state_dict_is_rejected(self, content, tmp_path):
        torch.save(content, tmp_path / "x.pth")
        assert refused(open_extractor, "inception", tmp_path / "x.pth", CPU) == (
            f"{tmp_path / 'x.pth'} has no state dict; expected torch-fidelity's "
            "weights-inception-2015-12-05-6726825d.pth"
        )

    def test_other_file_formats_are_rejected(self, tmp_path):
        (tmp_path / "x.pth").write_bytes(b"<html>not found</html>")
        with pytest.raises(ValueError, match=r"x\.pth cannot be read as a torch checkpoint"):
            open_extractor("inception", tmp_path / "x.pth", CPU)
        with pytest.raises(ValueError, match=r"there is no checkpoint .*lost\.pth"):
            open_extractor("inception", tmp_path / "lost.pth", CPU)

    def test_pickled_code_is_not_executed(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "was here"),)

        torch.save({"fc.weight": Trap()}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"x\.pth cannot be read"):
            open_extractor("inception", tmp_path / "x.pth", CPU)
        assert not (tmp_path / "was here").exists()


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return open_extractor("digits", classifier(tmp_path_factory.mktemp("run")), CPU)


class TestDigitsExtractor:
    def held_out_digits(self, count=50):
        return torch.from_numpy(held_out(count)[0]).permute(0, 3, 1, 2)

    def test_larger_images_are_averaged(self, extractor):
        own = extractor(self.held_out_digits())
        assert own["pool"].shape == (50, 32) and own["logits"].shape == (50, 10)
        assert own["pool"].dtype == torch.float64
        enlarged = self.held_out_digits().repeat_interleave(3, 2).repeat_interleave(3, 3)
        # One pixel of each 3 × 3 is twice as bright, and another one black.
        mixed = enlarged.div(9, rounding_mode="floor")
        mixed[..., ::3, ::3] = 2 * mixed[..., ::3, ::3]
        mixed[..., 1::3, 1::3] = 0
        same = enlarged.div(9, rounding_mode="floor")
        for images, expected in ((enlarged, own), (mixed, extractor(same))):
            for name, values in extractor(images).items():
                torch.testing.assert_close(values, expected[name])

    def test_color_images_are_converted_to_gray(self, extractor):
        images = self.held_out_digits()
        images[:, 0], images[:, 2] = images[:, 0] // 2, 0
        gray = images.double().mean(1, keepdim=True).round().byte().expand(-1, 3, -1, -1)
        found, expected = extractor(images)["logits"], extractor(gray)["logits"]
        assert (found - expected).abs().max() < 0.2 < found.std()


def test_deterministic_float32_restores_settings():
    matmul = torch.backends.cuda.matmul
    before = (matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    try:
        matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        with deterministic_float32():
            assert not matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.deterministic and torch.backends.cudnn.enabled
        assert matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    finally:
        matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_write_and_read_features(tmp_path):
    extractor, batches = Averages(), IMAGES.split(2)
    write_features(tmp_path / "a.npz", extract_features(extractor, batches))
    write_features(tmp_path / "b.npz", extract_features(extractor, [IMAGES]))
    a, b = read_features(tmp_path, ["a.npz", "b.npz"], "logits")
    assert np.array_equal(a, b) and a.shape == (3, 120)


def test_extractor_path(tmp_path):
    there = context(tmp_path, data={"inception": tmp_path / "x"}, needs={"classifier": tmp_path})
    assert (
        extractor_path(there, "inception") == tmp_path / "x"
        and extractor_path(there, "digits") == tmp_path
    )
    assert refused(extractor_path, context(tmp_path), "inception") == (
        'the extractor is "inception"; add the source "inception" to `data`'
    )
    assert refused(extractor_path, context(tmp_path), "digits") == (
        'the extractor is "digits"; add a DigitsClassifier run to the needs under the name '
        '"classifier"'
    )
