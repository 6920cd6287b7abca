"""Reference statistics: values, resume, stale features, and unreadable images."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from dyt_dit import reference
from dyt_dit.config import Reference
from dyt_dit.feature_extractors import open_extractor
from dyt_dit.images import open_split

from ..messages import refused
from .sets import REFERENCE, Averages, classifier, measured
from .tiny import context, fingerprint

FROM_FILES = Reference(
    data=("imagenet",), extractor="digits", image_size=16, kept=5, batch=3, images_per_file=4
)


@pytest.fixture(scope="module")
def classifier_run(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def reference_run(classifier_run, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    measured(directory, classifier_run)
    return directory


def same(one, other):
    names = ("reference.npz", "reference.json", "fingerprint.json")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def all_features(classifier_run):
    images = open_split("digits", None, "train", 8)
    batch = torch.stack([image for image, _ in images])
    return open_extractor("digits", classifier_run, torch.device("cpu"))(batch)["pool"].numpy()


def test_measure_gives_statistics_of_all_images(classifier_run, reference_run):
    features = all_features(classifier_run)
    found, metadata = reference.read_reference(reference_run)
    own = found.statistics["pool"]
    assert own.count == metadata["count"] == len(features) == 1437
    np.testing.assert_allclose(own.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(own.covariance, np.cov(features, rowvar=False), atol=1e-12)
    assert list(found.statistics) == ["pool"] and metadata["warnings"] == []
    assert [path.name for path in reference_run.iterdir() if "features" in path.name] == []


def test_kept_features_are_evenly_spaced(classifier_run, reference_run):
    kept = reference.read_reference(reference_run)[0].features
    expected = all_features(classifier_run)[np.arange(100) * 1437 // 100]
    assert kept.shape == (100, 32)
    np.testing.assert_allclose(kept, expected, atol=1e-12)


def test_kept_is_limited_to_number_of_images(classifier_run, tmp_path):
    measured(tmp_path / "x", classifier_run, replace(REFERENCE, kept=5000))
    assert len(reference.read_reference(tmp_path / "x")[0].features) == 1437


def test_images_per_file_does_not_change_statistics(classifier_run, reference_run, tmp_path):
    measured(tmp_path / "x", classifier_run, replace(REFERENCE, images_per_file=256))
    one, other = (
        reference.read_reference(path)[0].statistics["pool"]
        for path in (reference_run, tmp_path / "x")
    )
    np.testing.assert_allclose(one.covariance, other.covariance, atol=1e-12)


def test_fingerprint_has_extractor_and_images(classifier_run, reference_run):
    digest = open_split("digits", None, "train", 8).digest()
    extractor = open_extractor("digits", classifier_run, torch.device("cpu")).checksum
    assert fingerprint(reference_run) == {"weights": extractor, "batches": [digest]}


class Cut(Exception):
    """Exception that ends a run like a crash."""


def cut_after(monkeypatch, count):
    write_file, remaining = reference.Measurement.write_file, iter(range(count))

    def cut(self, name, path):
        if next(remaining, None) is None:
            raise Cut
        write_file(self, name, path)

    monkeypatch.setattr(reference.Measurement, "write_file", cut)


def feature_files(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("features-*/*.npz")}


def test_measure_resumes_with_missing_files(classifier_run, reference_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_after(patch, 2)
        measured(tmp_path / "x", classifier_run)
    before = feature_files(tmp_path / "x")
    assert sorted(before) == ["00000.npz", "00001.npz"]
    with monkeypatch.context() as patch:
        patch.setattr(reference, "remove_stale_files", lambda context, paths: None)
        cut_after(patch, 1)
        measured(tmp_path / "x", classifier_run)
    assert before.items() <= feature_files(tmp_path / "x").items()
    assert same(tmp_path / "x", reference_run)


def test_damaged_feature_file_is_written_again(
    classifier_run, reference_run, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_after(patch, 2)
        measured(tmp_path / "x", classifier_run)
    (file,) = (tmp_path / "x").glob("features-*/00001.npz")
    file.write_bytes(file.read_bytes()[:-50])
    measured(tmp_path / "x", classifier_run)
    assert same(tmp_path / "x", reference_run)


def test_measure_reuses_finished_statistics(classifier_run, reference_run, tmp_path, monkeypatch):
    copy = shutil.copytree(reference_run, tmp_path / "x")
    (copy / "result.json").unlink()
    cut_after(monkeypatch, 0)
    outcome = measured(copy, classifier_run)
    assert outcome.metrics == {"images": 1437} and same(copy, reference_run)
    (copy / "reference.npz").write_bytes(b"")
    with pytest.raises(Cut):
        measured(copy, classifier_run)


def test_features_of_other_weights_are_not_used(classifier_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_after(patch, 2)
        patch.setattr(reference, "open_extractor", lambda *_: Averages())
        measured(tmp_path / "x", classifier_run)
    measured(tmp_path / "x", classifier_run)
    assert reference.read_reference(tmp_path / "x")[0].statistics["pool"].mean.shape == (32,)
    assert feature_files(tmp_path / "x") == {}


class TestImageFiles:
    @pytest.fixture
    def folder(self, images, tmp_path):
        return shutil.copytree(images, tmp_path / "images")

    def measured(self, directory, classifier_run, folder, config=FROM_FILES):
        usual = {"data": {"imagenet": folder}, "needs": {"classifier": classifier_run}}
        return reference.measure(context(directory, **usual), config)

    def test_few_images_give_a_warning(self, classifier_run, folder, tmp_path, caplog):
        outcome = self.measured(tmp_path / "x", classifier_run, folder)
        assert outcome.metrics == {"images": 14} and outcome.steps == 4
        (warning,) = outcome.details["warnings"]
        assert "14 reference images are fewer than the 32 dimensions" in warning
        assert warning in caplog.messages
        assert len(reference.read_reference(tmp_path / "x")[0].features) == 5

    def test_unreadable_image_is_left_out(self, classifier_run, folder, tmp_path, caplog):
        (folder / "train/n01/5.JPEG").write_bytes(b"no image")
        outcome = self.measured(tmp_path / "x", classifier_run, folder)
        assert outcome.metrics == {"images": 13}
        assert outcome.details["left_out"] == ["n01/5.JPEG"]
        (message,) = (text for text in caplog.messages if "cannot be read as an image" in text)
        assert message.endswith("; it is left out")

    def test_too_many_unreadable_images_are_rejected(self, classifier_run, folder, tmp_path):
        for name in ("n01/5.JPEG", "n02/0.png"):
            (folder / "train" / name).write_bytes(b"no image")
        assert refused(self.measured, tmp_path / "x", classifier_run, folder) == (
            "2 of 14 images of the training set cannot be read, and at most 1 may be left out: "
            "n01/5.JPEG, n02/0.png. Replace or delete them"
        )

    def test_unreadable_images_of_one_file_end_the_run_early(
        self, classifier_run, folder, tmp_path
    ):
        for number in (4, 5, 6, 7):
            (path,) = folder.glob(f"train/n01/{number}.*")
            path.write_bytes(b"no image")
        config = replace(FROM_FILES, batch=4)
        assert refused(self.measured, tmp_path / "x", classifier_run, folder, config) == (
            "4 of 14 images of the training set cannot be read, and at most 1 may be left out: "
            "n01/4.png, n01/5.JPEG, n01/6.png. Replace or delete them"
        )
        assert list(feature_files(tmp_path / "x")) == ["00000.npz"]

    def test_file_with_only_unreadable_images_is_rejected(self, classifier_run, folder, tmp_path):
        (folder / "train/n01/5.JPEG").write_bytes(b"no image")
        config = replace(FROM_FILES, images_per_file=1)
        assert refused(self.measured, tmp_path / "x", classifier_run, folder, config) == (
            "none of the images 5 to 5 of the training set can be read; replace them or increase "
            "`images_per_file`"
        )

    def test_changed_images_are_measured_again(self, classifier_run, folder, tmp_path):
        self.measured(tmp_path / "x", classifier_run, folder)
        before = json.loads((tmp_path / "x/reference.json").read_text())
        (folder / "train/n01/5.JPEG").unlink()
        assert self.measured(tmp_path / "x", classifier_run, folder).metrics == {"images": 13}
        after = json.loads((tmp_path / "x/reference.json").read_text())
        assert before["images"] != after["images"] and before["sha256"] != after["sha256"]


@pytest.mark.parametrize("name", ["reference.npz", "reference.json"])
def test_missing_reference_file_is_reported(reference_run, name, tmp_path):
    copy = shutil.copytree(reference_run, tmp_path / "x")
    (copy / name).unlink()
    assert refused(reference.read_reference, copy) == (
        f"there is no {copy / name}. The run is done: delete {copy / 'result.json'} and submit "
        "again to measure the images again"
    )
