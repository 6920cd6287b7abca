"""Extractors: torch-fidelity's features, ADM's spatial ones, and which weights are refused."""

import os

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from dyt_dit.features import (
    exact,
    extract,
    located,
    open_extractor,
    read_shards,
    write_shard,
)
from matched.training.file_tasks import digest

from .sets import Averages, classifier, held_out, inception, noise
from .tiny import context

CPU = torch.device("cpu")
IMAGES = torch.from_numpy(noise(3, side=40)[0]).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(autouse=True)
def _nothing_is_downloaded(monkeypatch):
    monkeypatch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return inception(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture(scope="module")
def features(weights):
    return open_extractor("inception", weights, CPU)(IMAGES)


class TestInception:
    def test_it_is_torch_fidelitys(self, weights, features):
        theirs = FeatureExtractorInceptionV3(
            "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=weights
        )
        blocks = []
        theirs.Mixed_6d.register_forward_hook(lambda module, inputs, output: blocks.append(output))
        pool, logits = theirs(IMAGES)
        assert torch.equal(features["pool"], pool) and pool.shape == (3, 2048)
        assert torch.equal(features["logits"], logits) and logits.shape == (3, 1008)
        assert pool.std(0).mean() > 1e-3 and logits.dtype == torch.float32
        # The first branch comes first in the block; TensorFlow's order has the channels last.
        spatial = blocks[0][:, :7].numpy().transpose(0, 2, 3, 1).reshape(3, 17 * 17 * 7)
        assert np.array_equal(features["spatial"].numpy(), spatial) and spatial.std(0).mean() > 1e-3

    def test_other_weights_are_told_of(self, weights, caplog):
        extractor = open_extractor("inception", weights, CPU)
        assert extractor.checksum == digest(weights)
        assert extractor.names == ("pool", "logits", "spatial")
        (warning,) = extractor.warnings
        assert "is not torch-fidelity's file" in warning and "6726825d" in warning
        assert warning in caplog.messages

    def test_another_network_is_refused(self, weights, tmp_path):
        state = torch.load(weights, weights_only=True)
        state["fc.weights"] = state.pop("fc.weight")
        torch.save(state, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=r"other\.pth is of another network.*fc\.weight.*6726"):
            open_extractor("inception", tmp_path / "other.pth", CPU)

    @pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
    def test_no_state_dict_is_refused(self, content, tmp_path):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"x\.pth holds no state dict; expected torch-fid"):
            open_extractor("inception", tmp_path / "x.pth", CPU)

    def test_no_file_of_torchs_is_refused(self, tmp_path):
        (tmp_path / "x.pth").write_bytes(b"<html>not found</html>")
        with pytest.raises(ValueError, match=r"x\.pth cannot be read as a checkpoint"):
            open_extractor("inception", tmp_path / "x.pth", CPU)
        with pytest.raises(ValueError, match=r"there is no checkpoint .*lost\.pth"):
            open_extractor("inception", tmp_path / "lost.pth", CPU)

    def test_code_in_a_file_is_not_run(self, tmp_path):
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


class TestDigits:
    def pictures(self, count=50):
        return torch.from_numpy(held_out(count)[0]).permute(0, 3, 1, 2)

    def test_larger_pictures_are_averaged(self, extractor):
        own = extractor(self.pictures())
        assert own["pool"].shape == (50, 32) and own["logits"].shape == (50, 10)
        assert own["pool"].dtype == torch.float64
        enlarged = self.pictures().repeat_interleave(3, 2).repeat_interleave(3, 3)
        for name, values in extractor(enlarged).items():
            torch.testing.assert_close(values, own[name])

    def test_colours_are_made_grey(self, extractor):
        pictures = self.pictures()
        pictures[:, 0], pictures[:, 2] = pictures[:, 0] // 2, 0
        grey = pictures.double().mean(1, keepdim=True).round().byte().expand(-1, 3, -1, -1)
        found, expected = extractor(pictures)["logits"], extractor(grey)["logits"]
        assert (found - expected).abs().max() < 0.2 < found.std()


def test_without_tf32_and_as_it_was_afterwards():
    matmul = torch.backends.cuda.matmul
    before = (matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    try:
        matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        with exact():
            assert not matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.deterministic
        assert matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    finally:
        matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_shards_hold_what_was_extracted(tmp_path):
    extractor, batches = Averages(), IMAGES.split(2)
    write_shard(tmp_path / "a.npz", extract(extractor, batches))
    write_shard(tmp_path / "b.npz", extract(extractor, [IMAGES]))
    a, b = read_shards(tmp_path, ["a.npz", "b.npz"], "logits")
    assert np.array_equal(a, b) and a.shape == (3, 120)


def test_where_the_weights_lie(tmp_path):
    there = context(tmp_path, data={"inception": tmp_path / "x"}, needs={"classifier": tmp_path})
    assert located(there, "inception") == tmp_path / "x" and located(there, "digits") == tmp_path
    with pytest.raises(ValueError, match='name the source "inception" in `data`'):
        located(context(tmp_path), "inception")
    with pytest.raises(ValueError, match='needed under the name "classifier"'):
        located(context(tmp_path), "digits")
