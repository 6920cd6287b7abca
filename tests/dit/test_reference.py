"""References: all images measured, whatever the interruptions, and what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from dyt_dit import reference
from dyt_dit.config import Reference
from dyt_dit.features import open_extractor
from dyt_dit.images import open_split

from .sets import REFERENCE, Averages, classifier, measured
from .tiny import context, fingerprint

FROM_FILES = Reference(
    data=("imagenet",), extractor="digits", image_size=16, kept=5, batch=3, shard=4
)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def whole(there, tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    measured(directory, there)
    return directory


def same(one, other):
    names = ("reference.npz", "reference.json", "fingerprint.json")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def all_features(there):
    images = open_split("digits", None, "train", 8)
    batch = torch.stack([image for image, _ in images])
    return open_extractor("digits", there, torch.device("cpu"))(batch)["pool"].numpy()


def test_all_images_are_measured(there, whole):
    features = all_features(there)
    found, facts = reference.read(whole)
    own = found.statistics["pool"]
    assert own.count == facts["count"] == len(features) == 1437
    np.testing.assert_allclose(own.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(own.covariance, np.cov(features, rowvar=False), atol=1e-12)
    assert list(found.statistics) == ["pool"] and facts["warnings"] == []
    assert [path.name for path in whole.iterdir() if "features" in path.name] == []


def test_the_kept_ones_are_spread_over_all(there, whole):
    kept = reference.read(whole)[0].kept
    expected = all_features(there)[np.arange(100) * 1437 // 100]
    assert kept.shape == (100, 32)
    np.testing.assert_allclose(kept, expected, atol=1e-12)


def test_of_a_small_set_all_are_kept(there, tmp_path):
    measured(tmp_path / "x", there, replace(REFERENCE, kept=5000))
    assert len(reference.read(tmp_path / "x")[0].kept) == 1437


def test_shards_do_not_show(there, whole, tmp_path):
    measured(tmp_path / "x", there, replace(REFERENCE, shard=256))
    one, other = (reference.read(path)[0].statistics["pool"] for path in (whole, tmp_path / "x"))
    np.testing.assert_allclose(one.covariance, other.covariance, atol=1e-12)


def test_the_fingerprint_is_of_extractor_and_images(there, whole):
    digest = open_split("digits", None, "train", 8).digest()
    extractor = open_extractor("digits", there, torch.device("cpu")).checksum
    assert fingerprint(whole) == {"weights": extractor, "batches": [digest]}


class Cut(Exception):
    """Stands for whatever ends a process."""


def cut_after(monkeypatch, shards):
    make, left = reference.Measurement.make, iter(range(shards))

    def cut(self, name, path):
        if next(left, None) is None:
            raise Cut
        make(self, name, path)

    monkeypatch.setattr(reference.Measurement, "make", cut)


def shards(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("features-*/*.npz")}


def test_killed_between_shards_it_goes_on(there, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_after(patch, 2)
        measured(tmp_path / "x", there)
    before = shards(tmp_path / "x")
    assert sorted(before) == ["00000.npz", "00001.npz"]
    with monkeypatch.context() as patch:
        patch.setattr(reference, "_forget_shards", lambda directory: None)
        cut_after(patch, 1)
        measured(tmp_path / "x", there)
    assert before.items() <= shards(tmp_path / "x").items()
    assert same(tmp_path / "x", whole)


def test_a_damaged_shard_is_made_anew(there, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_after(patch, 2)
        measured(tmp_path / "x", there)
    (shard,) = (tmp_path / "x").glob("features-*/00001.npz")
    shard.write_bytes(shard.read_bytes()[:-50])
    measured(tmp_path / "x", there)
    assert same(tmp_path / "x", whole)


def test_killed_after_it_was_whole_nothing_is_extracted_again(there, whole, tmp_path, monkeypatch):
    copy = shutil.copytree(whole, tmp_path / "x")
    (copy / "result.json").unlink()
    cut_after(monkeypatch, 0)
    outcome = measured(copy, there)
    assert outcome.metrics == {"images": 1437} and same(copy, whole)
    (copy / "reference.npz").write_bytes(b"")
    with pytest.raises(Cut):
        measured(copy, there)


def test_shards_of_other_weights_are_not_taken(there, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_after(patch, 2)
        patch.setattr(reference, "open_extractor", lambda *_: Averages())
        measured(tmp_path / "x", there)
    measured(tmp_path / "x", there)
    assert reference.read(tmp_path / "x")[0].statistics["pool"].mean.shape == (32,)
    assert shards(tmp_path / "x") == {}


class TestFiles:
    @pytest.fixture
    def folder(self, images, tmp_path):
        return shutil.copytree(images, tmp_path / "images")

    def measured(self, directory, there, folder, config=FROM_FILES):
        usual = {"data": {"imagenet": folder}, "needs": {"classifier": there}}
        return reference.measure(context(directory, **usual), config)

    def test_few_images_are_told_of(self, there, folder, tmp_path, caplog):
        outcome = self.measured(tmp_path / "x", there, folder)
        assert outcome.metrics == {"images": 14} and outcome.steps == 4
        (warning,) = outcome.details["warnings"]
        assert "14 reference images are fewer than the 32 dimensions" in warning
        assert warning in caplog.messages
        assert len(reference.read(tmp_path / "x")[0].kept) == 5

    def test_an_unreadable_image_is_left_out(self, there, folder, tmp_path, caplog):
        (folder / "train/n01/5.JPEG").write_bytes(b"no image")
        outcome = self.measured(tmp_path / "x", there, folder)
        assert outcome.metrics == {"images": 13}
        assert outcome.details["left_out"] == ["n01/5.JPEG"]
        assert "cannot be read as an image" in caplog.text

    def test_two_of_fourteen_are_too_many(self, there, folder, tmp_path):
        for name in ("n01/5.JPEG", "n02/0.png"):
            (folder / "train" / name).write_bytes(b"no image")
        with pytest.raises(ValueError, match=r"2 images .* of 14; 1 may be left out: n01/5.JPEG"):
            self.measured(tmp_path / "x", there, folder)

    def test_a_shard_of_unreadable_images(self, there, folder, tmp_path):
        (folder / "train/n01/5.JPEG").write_bytes(b"no image")
        with pytest.raises(ValueError, match="none of the images 5 to 5 of the training set"):
            self.measured(tmp_path / "x", there, folder, replace(FROM_FILES, shard=1))

    def test_replaced_images_are_measured_anew(self, there, folder, tmp_path):
        self.measured(tmp_path / "x", there, folder)
        before = json.loads((tmp_path / "x/reference.json").read_text())
        (folder / "train/n01/5.JPEG").unlink()
        assert self.measured(tmp_path / "x", there, folder).metrics == {"images": 13}
        after = json.loads((tmp_path / "x/reference.json").read_text())
        assert before["images"] != after["images"] and before["sha256"] != after["sha256"]


@pytest.mark.parametrize("name", ["reference.npz", "reference.json"])
def test_a_lost_reference_is_named(whole, name, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "x")
    (copy / name).unlink()
    message = rf"there is no .*{name}.*delete .*result\.json and submit again"
    with pytest.raises(ValueError, match=message):
        reference.read(copy)
