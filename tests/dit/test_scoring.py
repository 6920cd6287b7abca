"""Scoring: torch-fidelity's numbers of whole sets, whatever happens on the way to them."""

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

from dyt_dit import digits_features, pictures, scoring
from dyt_dit.config import DigitsClassifier, Scoring
from dyt_dit.features import open_extractor
from dyt_dit.image_sets import ImageFile
from dyt_dit.images import open_split
from matched.files import write_json

from ..training.processes import run as together
from .sets import SCORING, Averages, classifier, held_out, measured, noise, samples, scored
from .tiny import fingerprint, run

SCRIPT = Path(__file__).with_name("two_processes_scoring.py")
FILES = ("samples.png", "result.json", "fingerprint.json")


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Directories of what scoring needs."""
    folder = tmp_path_factory.mktemp("there")
    samples(folder / "samples", *held_out())
    classifier(folder / "classifier")
    measured(folder / "reference", folder / "classifier")
    return {name: folder / name for name in ("samples", "classifier", "reference")}


@pytest.fixture(scope="module")
def whole(there, tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, scored(directory, **there)


def expected(generated, real, all_real):
    """What torch-fidelity makes of features: of generated images, kept real ones, all real ones."""
    pair = [
        fid_features_to_statistics(torch.from_numpy(values)) for values in (generated, all_real)
    ]
    kept = [torch.from_numpy(values) for values in (generated, real)]
    both = prc_features_to_metric(*kept, prc_neighborhood=3, verbose=False)
    distance = fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]
    return distance, both["precision"], both["recall"]


def digits_seen(there, images):
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    found = open_extractor("digits", there["classifier"], torch.device("cpu"))(batch)
    return {name: values.numpy() for name, values in found.items()}


def training_digits():
    images = open_split("digits", None, "train", 8)
    return np.stack([image.permute(1, 2, 0).numpy() for image, _ in images])


class TestDigits:
    def test_the_numbers_are_torch_fidelitys(self, there, whole):
        real = digits_seen(there, training_digits())["pool"]
        own = digits_seen(there, held_out()[0])
        kept = real[np.arange(100) * 1437 // 100]
        distance, precision, recall = expected(own["pool"], kept, real)
        metrics = whole[1].metrics
        assert metrics["frechet_digits"] == pytest.approx(distance, rel=1e-6)
        assert (metrics["precision"], metrics["recall"]) == (precision, recall)
        score = isc_features_to_metric(torch.from_numpy(own["logits"]), splits=1, shuffle=False)
        assert metrics["digits_is"] == pytest.approx(score["inception_score_mean"], rel=1e-9)
        assert 5 < metrics["digits_is"] < 10
        assert set(metrics) == {"frechet_digits", "digits_is", "precision", "recall"}

    def test_noise_scores_worse_than_digits(self, there, whole, tmp_path):
        samples(tmp_path / "noise", *noise(360))
        found = scored(tmp_path / "x", **{**there, "samples": tmp_path / "noise"}).metrics
        digits = whole[1].metrics
        assert found["frechet_digits"] > 10 * digits["frechet_digits"]
        assert found["recall"] < digits["recall"], (found, digits)

    def test_the_training_digits_are_at_no_distance(self, there, tmp_path):
        images = training_digits()
        samples(tmp_path / "real", images, np.zeros(len(images), np.int64))
        found = scored(tmp_path / "x", **{**there, "samples": tmp_path / "real"}).metrics
        assert abs(found["frechet_digits"]) < 1e-3 and found["recall"] == 1.0

    def test_few_images_are_told_of(self, there, tmp_path, caplog):
        samples(tmp_path / "few", *held_out(20))
        outcome = scored(tmp_path / "x", **{**there, "samples": tmp_path / "few"})
        (warning,) = outcome.details["warnings"]
        assert "20 generated images are fewer than the 32 dimensions" in warning
        assert warning in caplog.messages

    def test_the_fingerprint_is_of_extractor_and_reference(self, there, whole):
        facts = json.loads((there["reference"] / "reference.json").read_text())
        told = {"weights": facts["extractor"], "batches": [facts["sha256"]]}
        assert fingerprint(whole[0]) == told and whole[1].details["warnings"] == []


class TestWithAdmsReference:
    """Its extractor is replaced by one that the test can compute itself."""

    CONFIG = Scoring(data=("inception", "imagenet-reference"), batch=7, shard=20)

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

    def scored(self, directory, batch, there):
        data = {"inception": Path("weights"), "imagenet-reference": batch}
        return scored(directory, self.CONFIG, data=data, samples=there)

    def test_the_numbers_are_torch_fidelitys(self, batch, tmp_path):
        images, labels = noise(70, side=4)
        outcome = self.scored(tmp_path / "x", batch, samples(tmp_path / "samples", images, labels))
        own, real = self.features(images), self.features(self.pictures)
        fid, precision, recall = expected(
            own["pool"].numpy(), real["pool"].numpy(), self.every["pool"].numpy()
        )
        spatial = own["spatial"].numpy(), real["spatial"].numpy(), self.every["spatial"].numpy()
        score = isc_features_to_metric(own["logits"], splits=1, shuffle=False)
        assert outcome.metrics == {
            "fid": pytest.approx(fid, rel=1e-5),
            "sfid": pytest.approx(expected(*spatial)[0], rel=1e-5),
            "is": pytest.approx(score["inception_score_mean"], rel=1e-9),
            "precision": precision,
            "recall": recall,
        }
        assert outcome.metrics["fid"] > 0.1 and outcome.steps == 6
        assert 0 < precision <= 1 and outcome.metrics["is"] > 1.1

    def test_statistics_of_other_features_are_refused(self, batch, tmp_path):
        pictures = noise(40, side=4)[0]
        np.savez(batch, arr_0=pictures, mu=np.zeros(12), sigma=np.eye(12))
        with pytest.raises(ValueError, match=r"adm\.npz has nothing as mu_s; expected \(8,\)"):
            self.scored(tmp_path / "x", batch, samples(tmp_path / "s", *noise(70, side=4)))
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

    def test_damaged_statistics_are_told_of_before_features_are_made(
        self, batch, tmp_path, monkeypatch
    ):
        with np.load(batch) as arrays:
            np.savez(batch, **{**arrays, "mu": np.full(12, np.nan)})
        monkeypatch.setattr(scoring.Scorer, "make", None)
        with pytest.raises(ValueError, match=r"mu or sigma of .*adm\.npz is not finite"):
            self.scored(tmp_path / "x", batch, samples(tmp_path / "s", *noise(70, side=4)))

    def test_what_the_extractor_warns_of_stands_beside_the_numbers(self, batch, tmp_path):
        there = samples(tmp_path / "s", *noise(70, side=4))
        assert self.scored(tmp_path / "x", batch, there).details["warnings"] == [*Averages.warnings]


class Cut(Exception):
    """Stands for whatever ends a process."""


def cut(*_):
    raise Cut


def cut_after(monkeypatch, shards):
    make, left = scoring.Scorer.make, iter(range(shards))

    def made(self, name, path):
        if next(left, None) is None:
            raise Cut
        make(self, name, path)

    monkeypatch.setattr(scoring.Scorer, "make", made)


def shards(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("features-*/*.npz")}


def same(one, other):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


class TestInterruptions:
    def test_killed_between_shards_it_goes_on(self, there, whole, tmp_path, monkeypatch):
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_after(patch, 2)
            scored(tmp_path / "x", **there)
        before = shards(tmp_path / "x")
        assert sorted(before) == ["generated-00000.npz", "generated-00001.npz"]
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_after(patch, 1)
            patch.setattr(scoring.Scorer, "conclude", cut)
            scored(tmp_path / "x", **there)
        assert before.items() < shards(tmp_path / "x").items()
        cut_after(monkeypatch, 0)
        scored(tmp_path / "x", **there)
        assert same(tmp_path / "x", whole[0]) and shards(tmp_path / "x") == {}

    def test_damaged_shards_are_made_anew(self, there, whole, tmp_path, monkeypatch):
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_after(patch, 2)
            scored(tmp_path / "x", **there)
        (one,) = (tmp_path / "x").glob("features-*/generated-00001.npz")
        one.write_bytes(one.read_bytes()[:-50])
        scored(tmp_path / "x", **there)
        assert same(tmp_path / "x", whole[0])

    def test_killed_at_the_end_it_gives_the_same_again(self, there, whole, tmp_path):
        copy = shutil.copytree(whole[0], tmp_path / "x")
        (copy / "result.json").unlink()
        scored(copy, **there)
        assert same(copy, whole[0])

    def test_shards_of_other_samples_are_not_taken(self, there, whole, tmp_path, monkeypatch):
        samples(tmp_path / "noise", *noise(360))
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_after(patch, 2)
            scored(tmp_path / "x", **{**there, "samples": tmp_path / "noise"})
        scored(tmp_path / "x", **there)
        assert same(tmp_path / "x", whole[0]) and shards(tmp_path / "x") == {}

    @pytest.mark.slow
    def test_two_processes_give_what_one_gives(self, there, whole, tmp_path):
        shutil.copytree(there["samples"], tmp_path / "samples")
        together(SCRIPT, str(tmp_path))
        assert same(tmp_path / "score", whole[0])
        for name in ("reference.npz", "reference.json", "fingerprint.json"):
            one, two = there["reference"] / name, tmp_path / "reference" / name
            assert one.read_bytes() == two.read_bytes()


class TestWhatIsRefused:
    def refused(self, there, tmp_path, message, config=SCORING, **changes):
        needs = {name: path for name, path in {**there, **changes}.items() if path is not None}
        with pytest.raises(ValueError, match=message):
            scored(tmp_path / "x", config, **needs)

    def test_damaged_samples(self, there, tmp_path):
        copy = shutil.copytree(there["samples"], tmp_path / "samples")
        content = bytearray((copy / "samples.npz").read_bytes())
        content[500] ^= 1
        (copy / "samples.npz").write_bytes(content)
        message = r"samples\.npz is damaged.*Delete .*result\.json and submit again"
        self.refused(there, tmp_path, message, samples=copy)
        (copy / "samples.npz").write_bytes(content[:3000])
        self.refused(there, tmp_path, r"samples\.npz is not a whole \.npz", samples=copy)

    def test_a_reference_of_another_extractor(self, there, tmp_path):
        other = tmp_path / "other"
        run(digits_features.train, other, DigitsClassifier(random_state=1))
        told = json.loads((there["reference"] / "reference.json").read_text())["extractor"]
        own = open_extractor("digits", other, torch.device("cpu")).checksum
        self.refused(there, tmp_path, f"{told}.*{own}.*same weights", classifier=other)

    def test_missing_needs(self, there, tmp_path):
        self.refused(there, tmp_path, 'under the name "samples"', samples=None)
        self.refused(there, tmp_path, 'under the name "classifier"', classifier=None)
        self.refused(there, tmp_path, 'under the name "reference", for ADM', reference=None)

    def test_nothing_to_compare_with(self, there, tmp_path, monkeypatch):
        monkeypatch.setattr(scoring, "open_extractor", lambda *_: Averages())
        config = Scoring(data=("inception",))
        with pytest.raises(ValueError, match=r'nothing to compare with: .*"imagenet-reference"'):
            scored(tmp_path / "x", config, {"inception": Path("x")}, samples=there["samples"])

    def test_too_few_images(self, there, tmp_path):
        samples(tmp_path / "few", *held_out(3))
        self.refused(there, tmp_path, "one set has 3 images", samples=tmp_path / "few")


def test_what_diverged_is_not_scored(there, tmp_path):
    write_json(tmp_path / "samples" / "result.json", {"outcome": "diverged"})
    outcome = scored(tmp_path / "x", **{**there, "samples": tmp_path / "samples"})
    assert outcome.diverged and outcome.metrics == {} and outcome.steps == 0
    assert outcome.details == {"reason": "the training diverged"}


class TestPicture:
    def picture(self, directory):
        with Image.open(directory / "samples.png") as image:
            return np.array(image)

    def cell(self, pixels, row, column, side):
        start, left = 2 + row * (side + 2), 2 + column * (side + 2)
        return pixels[start : start + side, left : left + side]

    def test_a_row_for_each_digit(self, there, whole):
        directory, outcome = whole
        assert outcome.details["picture"] == "samples.png"
        pixels = self.picture(directory)
        assert pixels.shape == (10 * 66 + 2, 8 * 66 + 2, 3), "8 pixels are enlarged to 64"
        images, labels = held_out()
        for row, column in ((0, 0), (3, 7), (9, 2)):
            image = images[np.flatnonzero(labels == row)[column]]
            enlarged = image.repeat(8, 0).repeat(8, 1)
            assert np.array_equal(self.cell(pixels, row, column, 64), enlarged)

    def test_ten_of_many_classes_and_few_images(self, tmp_path):
        images, _ = noise(50, side=70)
        samples(tmp_path, images, np.arange(50, dtype=np.int64) // 2 * 40)
        pictures.draw(tmp_path / "samples.png", ImageFile(tmp_path / "samples.npz"))
        pixels = self.picture(tmp_path)
        assert pixels.shape == (10 * 72 + 2, 8 * 72 + 2, 3), "70 pixels stay as they are"
        assert np.array_equal(self.cell(pixels, 1, 1, 70), images[2 * (25 // 10) + 1])
        assert (self.cell(pixels, 1, 2, 70) == 255).all(), "white where there is no image"


def test_the_number_of_images_at_a_time_does_not_show(there, whole, tmp_path):
    found = scored(tmp_path / "x", replace(SCORING, batch=64, shard=1000), **there).metrics
    assert found == pytest.approx(dict(whole[1].metrics), rel=1e-9)
