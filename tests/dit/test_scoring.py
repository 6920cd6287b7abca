"""Scoring: equality with torch-fidelity, resume, rejected inputs, and the sample grid."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from dyt_dit import digits_features, scoring
from dyt_dit.config import DigitsClassifier, Scoring
from dyt_dit.feature_extractors import open_extractor
from dyt_dit.image_npz import ImageFile
from dyt_dit.images import open_split
from dyt_dit.sample_grid import draw_sample_grid
from matched.files import write_json
from matched.training.file_tasks import digest

from ..messages import refused
from ..processes import run as run_in_two_processes
from .sets import SCORING, Averages, classifier, held_out, measured, noise, samples, scored
from .tiny import fingerprint, run

SCRIPT = Path(__file__).with_name("two_processes_scoring.py")
FILES = ("samples.png", "result.json", "fingerprint.json")


@pytest.fixture(scope="module")
def need_runs(tmp_path_factory):
    """Run directories of the needs of scoring."""
    folder = tmp_path_factory.mktemp("needs")
    samples(folder / "samples", *held_out())
    classifier(folder / "classifier")
    measured(folder / "reference", folder / "classifier")
    return {name: folder / name for name in ("samples", "classifier", "reference")}


@pytest.fixture(scope="module")
def scoring_run(need_runs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    return directory, scored(directory, **need_runs)


def torch_fidelity_metrics(generated, real, all_real):
    """Return torch-fidelity's FID, precision and recall for features of generated images, kept real
    images and all real images."""
    pair = [
        fid_features_to_statistics(torch.from_numpy(values)) for values in (generated, all_real)
    ]
    kept = [torch.from_numpy(values) for values in (generated, real)]
    both = prc_features_to_metric(*kept, prc_neighborhood=3, verbose=False)
    distance = fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]
    return distance, both["precision"], both["recall"]


def digits_features_of(need_runs, images):
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    found = open_extractor("digits", need_runs["classifier"], torch.device("cpu"))(batch)
    return {name: values.numpy() for name, values in found.items()}


def training_digits():
    images = open_split("digits", None, "train", 8)
    return np.stack([image.permute(1, 2, 0).numpy() for image, _ in images])


class TestDigits:
    def test_metrics_match_torch_fidelity(self, need_runs, scoring_run):
        real = digits_features_of(need_runs, training_digits())["pool"]
        own = digits_features_of(need_runs, held_out()[0])
        kept = real[np.arange(100) * 1437 // 100]
        distance, precision, recall = torch_fidelity_metrics(own["pool"], kept, real)
        metrics = scoring_run[1].metrics
        assert metrics["frechet_digits"] == pytest.approx(distance, rel=1e-6)
        assert (metrics["precision"], metrics["recall"]) == (precision, recall)
        score = isc_features_to_metric(torch.from_numpy(own["logits"]), splits=1, shuffle=False)
        assert metrics["digits_is"] == pytest.approx(score["inception_score_mean"], rel=1e-9)
        assert 5 < metrics["digits_is"] < 10
        assert set(metrics) == {"frechet_digits", "digits_is", "precision", "recall"}
        weights = digest(need_runs["classifier"] / "classifier.npz")
        details = {"picture": "samples.png", "warnings": [], "extractor": weights}
        assert (scoring_run[1].details, scoring_run[1].steps) == (details, 3)

    def test_noise_scores_worse_than_digits(self, need_runs, scoring_run, tmp_path):
        samples(tmp_path / "noise", *noise(360))
        found = scored(tmp_path / "x", **{**need_runs, "samples": tmp_path / "noise"}).metrics
        digits = scoring_run[1].metrics
        assert found["frechet_digits"] > 10 * digits["frechet_digits"]
        assert found["recall"] < digits["recall"], (found, digits)

    def test_training_digits_have_zero_distance(self, need_runs, tmp_path):
        images = training_digits()
        samples(tmp_path / "real", images, np.zeros(len(images), np.int64))
        found = scored(tmp_path / "x", **{**need_runs, "samples": tmp_path / "real"}).metrics
        assert abs(found["frechet_digits"]) < 1e-3 and found["recall"] == 1.0

    def test_few_images_give_a_warning(self, need_runs, tmp_path, caplog):
        samples(tmp_path / "few", *held_out(20))
        outcome = scored(tmp_path / "x", **{**need_runs, "samples": tmp_path / "few"})
        (warning,) = outcome.details["warnings"]
        assert "20 generated images are fewer than the 32 dimensions" in warning
        assert warning in caplog.messages

    def test_fingerprint_has_extractor_and_reference(self, need_runs, scoring_run):
        metadata = json.loads((need_runs["reference"] / "reference.json").read_text())
        expected = {"weights": metadata["extractor"], "batches": [metadata["sha256"]]}
        assert fingerprint(scoring_run[0]) == expected and scoring_run[1].details["warnings"] == []


class TestAdmReference:
    """The extractor is replaced by one that the tests can recompute."""

    CONFIG = Scoring(data=("inception", "imagenet-reference"), batch=7, images_per_file=20)

    @pytest.fixture
    def batch(self, tmp_path, monkeypatch):
        monkeypatch.setattr(scoring, "open_extractor", lambda *_: Averages())
        pictures, _ = noise(40, side=4, seed=1)
        every = self.features(noise(300, side=4, seed=2)[0] // 2)
        pair = {name: fid_features_to_statistics(values) for name, values in every.items()}
        self.every, self.pictures = every, pictures
        path = tmp_path / "adm.npz"
        np.savez_compressed(
            path,
            arr_0=pictures,
            mu=pair["pool"]["mu"].astype(np.float32),
            sigma=pair["pool"]["sigma"],
            mu_s=pair["spatial"]["mu"].astype(np.float32),
            sigma_s=pair["spatial"]["sigma"],
        )
        return path

    def features(self, images):
        return Averages()(torch.from_numpy(images).permute(0, 3, 1, 2))

    def scored(self, directory, batch, need_runs):
        data = {"inception": Path("weights"), "imagenet-reference": batch}
        return scored(directory, self.CONFIG, data=data, samples=need_runs)

    def test_metrics_match_torch_fidelity(self, batch, tmp_path):
        images, labels = noise(70, side=4)
        outcome = self.scored(tmp_path / "x", batch, samples(tmp_path / "samples", images, labels))
        own, real = self.features(images), self.features(self.pictures)
        fid, precision, recall = torch_fidelity_metrics(
            own["pool"].numpy(), real["pool"].numpy(), self.every["pool"].numpy()
        )
        spatial = own["spatial"].numpy(), real["spatial"].numpy(), self.every["spatial"].numpy()
        score = isc_features_to_metric(own["logits"], splits=1, shuffle=False)
        assert outcome.metrics == {
            "fid": pytest.approx(fid, rel=1e-5),
            "sfid": pytest.approx(torch_fidelity_metrics(*spatial)[0], rel=1e-5),
            "is": pytest.approx(score["inception_score_mean"], rel=1e-9),
            "precision": precision,
            "recall": recall,
        }
        assert outcome.metrics["fid"] > 0.1 and outcome.steps == 6
        assert 0 < precision <= 1 and outcome.metrics["is"] > 1.1

    def test_statistics_of_other_features_are_rejected(self, batch, tmp_path):
        pictures = noise(40, side=4)[0]
        np.savez(batch, arr_0=pictures, mu=np.zeros(12), sigma=np.eye(12))
        runs = samples(tmp_path / "s", *noise(70, side=4))
        assert refused(self.scored, tmp_path / "x", batch, runs) == (
            f"{batch} has nothing as mu_s; expected (8,), as in ADM's reference batch of ImageNet"
        )
        np.savez(
            batch,
            arr_0=pictures,
            mu=np.zeros(7),
            sigma=np.eye(7),
            mu_s=np.zeros(8),
            sigma_s=np.eye(8),
        )
        with pytest.raises(ValueError, match=r"adm\.npz has \(7,\) as mu; expected \(12,\)"):
            self.scored(tmp_path / "y", batch, tmp_path / "s")

    def test_damaged_statistics_are_reported_before_extracting_features(
        self, batch, tmp_path, monkeypatch
    ):
        with np.load(batch) as arrays:
            np.savez(batch, **{**arrays, "mu": np.full(12, np.nan)})
        monkeypatch.setattr(scoring.Scorer, "write_file", None)
        with pytest.raises(ValueError, match=r"mu or sigma of .*adm\.npz is not finite"):
            self.scored(tmp_path / "x", batch, samples(tmp_path / "s", *noise(70, side=4)))

    def test_extractor_warnings_are_in_outcome(self, batch, tmp_path):
        need_runs = samples(tmp_path / "s", *noise(70, side=4))
        assert self.scored(tmp_path / "x", batch, need_runs).details["warnings"] == [
            *Averages.warnings
        ]


class Cut(Exception):
    """Exception that ends a run like a crash."""


def cut(*_):
    raise Cut


def cut_after(monkeypatch, count):
    write_file, remaining = scoring.Scorer.write_file, iter(range(count))

    def cut_or_write(self, name, path):
        if next(remaining, None) is None:
            raise Cut
        write_file(self, name, path)

    monkeypatch.setattr(scoring.Scorer, "write_file", cut_or_write)


def feature_files(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("features-*/*.npz")}


def same(one, other):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


class TestResume:
    def test_score_resumes_with_missing_files(self, need_runs, scoring_run, tmp_path, monkeypatch):
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_after(patch, 2)
            scored(tmp_path / "x", **need_runs)
        before = feature_files(tmp_path / "x")
        assert sorted(before) == ["generated-00000.npz", "generated-00001.npz"]
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_after(patch, 1)
            patch.setattr(scoring.Scorer, "compute_metrics", cut)
            scored(tmp_path / "x", **need_runs)
        assert before.items() < feature_files(tmp_path / "x").items()
        cut_after(monkeypatch, 0)
        scored(tmp_path / "x", **need_runs)
        assert same(tmp_path / "x", scoring_run[0]) and feature_files(tmp_path / "x") == {}

    def test_damaged_feature_file_is_written_again(
        self, need_runs, scoring_run, tmp_path, monkeypatch
    ):
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_after(patch, 2)
            scored(tmp_path / "x", **need_runs)
        (file,) = (tmp_path / "x").glob("features-*/generated-00001.npz")
        file.write_bytes(file.read_bytes()[:-50])
        scored(tmp_path / "x", **need_runs)
        assert same(tmp_path / "x", scoring_run[0])

    def test_score_repeated_after_completion_is_identical(self, need_runs, scoring_run, tmp_path):
        copy = shutil.copytree(scoring_run[0], tmp_path / "x")
        (copy / "result.json").unlink()
        scored(copy, **need_runs)
        assert same(copy, scoring_run[0])

    def test_features_of_other_samples_are_not_used(
        self, need_runs, scoring_run, tmp_path, monkeypatch
    ):
        samples(tmp_path / "noise", *noise(360))
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_after(patch, 2)
            scored(tmp_path / "x", **{**need_runs, "samples": tmp_path / "noise"})
        scored(tmp_path / "x", **need_runs)
        assert same(tmp_path / "x", scoring_run[0]) and feature_files(tmp_path / "x") == {}

    @pytest.mark.slow
    def test_two_processes_score_like_one(self, need_runs, scoring_run, tmp_path):
        shutil.copytree(need_runs["samples"], tmp_path / "samples")
        run_in_two_processes(SCRIPT, str(tmp_path))
        assert same(tmp_path / "score", scoring_run[0])
        for name in ("reference.npz", "reference.json", "fingerprint.json"):
            one, two = need_runs["reference"] / name, tmp_path / "reference" / name
            assert one.read_bytes() == two.read_bytes()


class TestRejectedInputs:
    def refused(self, need_runs, tmp_path, message, config=SCORING, **changes):
        needs = {name: path for name, path in {**need_runs, **changes}.items() if path is not None}
        with pytest.raises(ValueError, match=message):
            scored(tmp_path / "x", config, **needs)

    def test_damaged_samples(self, need_runs, tmp_path):
        copy = shutil.copytree(need_runs["samples"], tmp_path / "samples")
        content = bytearray((copy / "samples.npz").read_bytes())
        content[500] ^= 1
        (copy / "samples.npz").write_bytes(content)
        message = (
            rf"^{copy}/samples\.npz is damaged: its checksum differs from the one in "
            rf"samples\.npz\.\w+\. Delete {copy}/result\.json and submit again to sample it again$"
        )
        self.refused(need_runs, tmp_path, message, samples=copy)
        (copy / "samples.npz").write_bytes(content[:3000])
        self.refused(need_runs, tmp_path, r"samples\.npz is not a complete \.npz", samples=copy)

    def test_reference_of_other_extractor(self, need_runs, tmp_path):
        other = tmp_path / "other"
        run(digits_features.train, other, DigitsClassifier(random_state=1))
        recorded = json.loads((need_runs["reference"] / "reference.json").read_text())["extractor"]
        own = open_extractor("digits", other, torch.device("cpu")).checksum
        message = (
            f"^the reference {need_runs['reference']} has features of the extractor {recorded}, "
            f"but the generated images would have features of {own}; use the same weights for both "
            "runs$"
        )
        self.refused(need_runs, tmp_path, message, classifier=other)

    def test_missing_needs(self, need_runs, tmp_path):
        message = '^scoring needs a run of Sampling under the name "samples"$'
        self.refused(need_runs, tmp_path, message, samples=None)
        self.refused(need_runs, tmp_path, 'under the name "classifier"', classifier=None)
        message = (
            '^the extractor is "digits"; add a Reference run to the needs under the name '
            "\"reference\", because ADM's has Inception's features$"
        )
        self.refused(need_runs, tmp_path, message, reference=None)

    def test_missing_reference(self, need_runs, tmp_path, monkeypatch):
        monkeypatch.setattr(scoring, "open_extractor", lambda *_: Averages())
        config = Scoring(data=("inception",))
        data, samples = {"inception": Path("x")}, need_runs["samples"]
        assert refused(scored, tmp_path / "x", config, data, samples=samples) == (
            'there is no reference; add the source "imagenet-reference" to `data`, or a Reference '
            'run to the needs under the name "reference"'
        )

    def test_too_few_images(self, need_runs, tmp_path):
        samples(tmp_path / "few", *held_out(3))
        self.refused(need_runs, tmp_path, "one set has 3 images", samples=tmp_path / "few")


def test_score_after_diverged_training(need_runs, tmp_path):
    write_json(tmp_path / "samples" / "result.json", {"outcome": "diverged"})
    outcome = scored(tmp_path / "x", **{**need_runs, "samples": tmp_path / "samples"})
    assert outcome.diverged and outcome.metrics == {} and outcome.steps == 0
    assert outcome.details == {"reason": "the training diverged"}


class TestSampleGrid:
    def picture(self, directory):
        with Image.open(directory / "samples.png") as image:
            return np.array(image)

    def cell(self, pixels, row, column, side):
        start, left = 2 + row * (side + 2), 2 + column * (side + 2)
        return pixels[start : start + side, left : left + side]

    def test_grid_has_one_row_per_class(self, need_runs, scoring_run):
        directory, outcome = scoring_run
        assert outcome.details["picture"] == "samples.png"
        pixels = self.picture(directory)
        assert pixels.shape == (10 * 66 + 2, 8 * 66 + 2, 3), "8 pixels are enlarged to 64"
        images, labels = held_out()
        for row, column in ((0, 0), (3, 7), (9, 2)):
            image = images[np.flatnonzero(labels == row)[column]]
            enlarged = image.repeat(8, 0).repeat(8, 1)
            assert np.array_equal(self.cell(pixels, row, column, 64), enlarged)

    def test_grid_of_images_that_are_not_square(self, tmp_path):
        images = noise(3, side=50)[0][:, :33]
        samples(tmp_path, images, np.array([7, 2, 7]))
        draw_sample_grid(tmp_path / "samples.png", ImageFile(tmp_path / "samples.npz"))
        pixels = self.picture(tmp_path)
        assert pixels.shape == (2 * 68 + 2, 8 * 102 + 2, 3), "33 pixels are doubled"
        enlarged = images[2].repeat(2, 0).repeat(2, 1)
        assert np.array_equal(pixels[70 : 70 + 66, 104 : 104 + 100], enlarged)

    def test_grid_shows_ten_classes_and_white_gaps(self, tmp_path):
        images, _ = noise(50, side=70)
        samples(tmp_path, images, np.arange(50, dtype=np.int64) // 2 * 40)
        draw_sample_grid(tmp_path / "samples.png", ImageFile(tmp_path / "samples.npz"))
        pixels = self.picture(tmp_path)
        assert pixels.shape == (10 * 72 + 2, 8 * 72 + 2, 3), "70 pixels stay as they are"
        assert np.array_equal(self.cell(pixels, 1, 1, 70), images[2 * (25 // 10) + 1])
        assert (self.cell(pixels, 1, 2, 70) == 255).all(), "white where there is no image"


def test_batch_and_images_per_file_do_not_change_metrics(need_runs, scoring_run, tmp_path):
    found = scored(
        tmp_path / "x", replace(SCORING, batch=64, images_per_file=1000), **need_runs
    ).metrics
    assert found == pytest.approx(dict(scoring_run[1].metrics), rel=1e-9)
