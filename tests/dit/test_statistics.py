"""Fréchet distance and its companions: torch-fidelity's numbers, ADM's conventions, known cases."""

import json

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from dyt_dit import statistics
from dyt_dit.statistics import Measured, Moments, Statistics
from matched.files import DamagedFileError

CPU = torch.device("cpu")


def features(count, width=24, seed=0, shift=0.0):
    """float32, correlated and never negative, as those of Inception are."""
    source = np.random.default_rng(seed)
    mixed = source.normal(size=(count, width)) @ source.normal(size=(width, width)) + shift
    return np.maximum(mixed, 0).astype(np.float32)


def of(values, parts=1):
    moments = Moments(CPU)
    for part in np.array_split(values, parts):
        moments.add(part)
    return moments.statistics()


def theirs(one, other):
    pair = [fid_features_to_statistics(torch.from_numpy(values)) for values in (one, other)]
    return fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]


class TestFrechetDistance:
    @pytest.mark.parametrize("shift", [0.0, 0.5, 5.0])
    def test_it_is_torch_fidelitys(self, shift):
        one, other = features(600), features(500, seed=1, shift=shift)
        found = statistics.frechet(of(one, 3), of(other, 7))
        assert found == pytest.approx(theirs(one, other), rel=1e-6)
        in_float64 = theirs(one.astype(np.float64), other.astype(np.float64))
        assert found == pytest.approx(in_float64, rel=1e-12)

    def test_a_set_is_as_itself(self):
        for values in (features(400), features(60, width=128)):
            assert abs(statistics.frechet(of(values), of(values))) < 1e-3

    def test_of_two_normal_distributions(self):
        """Known for diagonal covariances: squared differences of means and of deviations."""
        one = Statistics(mean=np.array([0.0, 1.0]), covariance=np.diag([4.0, 9.0]))
        other = Statistics(mean=np.array([3.0, 1.0]), covariance=np.diag([1.0, 25.0]))
        assert statistics.frechet(one, other) == pytest.approx(9 + 1 + 4)

    def test_it_grows_with_noise(self):
        real = features(500)
        noise = np.random.default_rng(5).normal(size=real.shape).astype(np.float32)
        found = [statistics.frechet(of(real), of(real + s * noise)) for s in (0.1, 0.5, 2.0)]
        assert found == sorted(found) and found[0] > 0


class TestMoments:
    def test_parts_make_the_whole(self):
        values = features(301)
        one, many = of(values), of(values, 17)
        assert one.count == many.count == 301
        np.testing.assert_allclose(one.mean, values.astype(np.float64).mean(0), rtol=1e-13)
        np.testing.assert_allclose(one.covariance, np.cov(values, rowvar=False), rtol=1e-10)
        np.testing.assert_allclose(many.covariance, one.covariance, rtol=1e-10, atol=1e-12)
        assert one.mean.dtype == one.covariance.dtype == np.float64

    def test_a_mean_far_from_zero_costs_nothing(self):
        values = np.random.default_rng(0).normal(size=(1000, 4))
        far = of(values + 1e7, 10)
        np.testing.assert_allclose(far.covariance, np.cov(values, rowvar=False), atol=1e-8)

    def test_one_image_has_no_covariance(self):
        with pytest.raises(ValueError, match="1 images have no covariance; expected 2"):
            of(features(1))


class TestInceptionScore:
    def test_it_is_adms_of_5000_images_each_in_their_order(self):
        certain = 50 * np.repeat(np.eye(2), 5000, axis=0)
        assert statistics.inception_score(certain) == pytest.approx(1.0)
        mixed = certain.reshape(2, 5000, 2).transpose(1, 0, 2).reshape(-1, 2)
        assert statistics.inception_score(mixed) == pytest.approx(2.0)

    def test_it_is_torch_fidelitys_with_these_parts(self):
        logits = 3 * features(10000, width=10)
        expected = isc_features_to_metric(torch.from_numpy(logits), splits=2, shuffle=False)
        found = statistics.inception_score(logits)
        assert found == pytest.approx(expected["inception_score_mean"], rel=1e-9)

    def test_the_last_part_may_be_smaller(self):
        logits = 3 * features(6000, width=10)
        parts = [statistics.inception_score(part) for part in (logits[:5000], logits[5000:])]
        assert statistics.inception_score(logits) == pytest.approx(np.mean(parts))


class TestPrecisionAndRecall:
    def found(self, generated, real, neighbours=3):
        return statistics.precision_recall(generated, real, neighbours=neighbours, device=CPU)

    def test_known_cases(self):
        source = np.random.default_rng(0)
        a, b = source.normal(size=(2, 50, 3))
        assert self.found(a, a) == (1.0, 1.0)
        assert self.found(a, b + 100) == (0.0, 0.0)
        both = np.concatenate([a, b + 100])
        assert self.found(a, both) == (1.0, 0.5), "what is generated is real, but half of it"
        assert self.found(both, a) == (0.5, 1.0)

    def test_it_is_torch_fidelitys_whatever_the_blocks(self, monkeypatch):
        generated, real = features(150, seed=1), features(90)
        pair = torch.from_numpy(generated), torch.from_numpy(real)
        for neighbours in (1, 3):
            expected = prc_features_to_metric(*pair, prc_neighborhood=neighbours, verbose=False)
            for block in (2500, 40):
                monkeypatch.setattr(statistics, "BLOCK", block)
                found = self.found(generated, real, neighbours)
                assert found == (expected["precision"], expected["recall"])
                assert 0 < found[0] < 1 and 0 < found[1] < 1

    def test_too_few_for_so_many_neighbours(self):
        with pytest.raises(ValueError, match=r"one set has 3 images; .* by 3 neighbours.* need 4"):
            self.found(features(3), features(10))


def test_too_few_images_are_told_of(caplog):
    found = {"pool": of(features(20)), "spatial": of(features(24))}
    (warning,) = statistics.too_few(found, "generated")
    assert warning.startswith("20 generated images are fewer than the 24 dimensions")
    assert warning in caplog.messages
    unknown = Statistics(mean=np.zeros(24), covariance=np.eye(24))
    assert statistics.too_few({"pool": unknown}, "reference") == []


class TestFile:
    @pytest.fixture
    def file(self, tmp_path):
        measured = Measured(statistics={"pool": of(features(50))}, kept=features(5))
        statistics.write(tmp_path / "x.npz", measured, count=50)
        return tmp_path / "x.npz"

    def test_what_is_written_is_read(self, file):
        assert statistics.facts(file, "count")["count"] == 50
        found = statistics.read(file, 50)
        assert statistics.frechet(found.statistics["pool"], of(features(50))) < 1e-6
        assert np.array_equal(found.statistics["pool"].covariance, of(features(50)).covariance)
        assert np.array_equal(found.kept, features(5)) and list(found.statistics) == ["pool"]

    def test_damage_is_named(self, file):
        content = bytearray(file.read_bytes())
        content[300] ^= 1
        file.write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"x\.npz is damaged: its checksum"):
            statistics.facts(file)

    def test_loss_is_named(self, file):
        with pytest.raises(DamagedFileError, match=r"x\.json lacks images"):
            statistics.facts(file, "images")
        file.unlink()
        with pytest.raises(DamagedFileError, match=r"there is no .*x\.npz"):
            statistics.facts(file)
        file.with_suffix(".json").write_text("{")
        with pytest.raises(DamagedFileError, match=r"x\.json is not valid JSON"):
            statistics.facts(file)
        file.with_suffix(".json").unlink()
        with pytest.raises(DamagedFileError, match=r"there is no .*x\.json"):
            statistics.facts(file)

    def test_without_its_json_it_does_not_count(self, file, monkeypatch, tmp_path):
        """Killed between the two, the .npz is there and the old checksum is not its own."""
        monkeypatch.setattr(statistics, "write_json", lambda *_: None)
        other = Measured(statistics={"pool": of(features(50, seed=3))}, kept=features(5))
        statistics.write(file, other, count=50)
        assert json.loads(file.with_suffix(".json").read_text())["count"] == 50
        with pytest.raises(DamagedFileError):
            statistics.facts(file)

    def test_adms_names_and_float32(self, tmp_path):
        own = of(features(50))
        arrays = {"mu": own.mean.astype(np.float32), "sigma": own.covariance}
        np.savez(
            tmp_path / "adm.npz", arr_0=np.zeros(3), mu_s=np.zeros(7), sigma_s=np.eye(7), **arrays
        )
        found = statistics.read(tmp_path / "adm.npz")
        assert found.kept is None and found.statistics["pool"].count is None
        assert found.statistics["pool"].mean.dtype == np.float64
        assert abs(statistics.frechet(found.statistics["pool"], own)) < 1e-6
        assert found.statistics["spatial"].covariance.shape == (7, 7)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"arr_0": np.zeros(3)}, "holds no statistics; expected mu and sigma"),
            ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"are \(3,\) and \(4, 4\); expected"),
            ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu or sigma of .* is not finite"),
        ],
    )
    def test_no_statistics(self, arrays, message, tmp_path):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            statistics.read(tmp_path / "x.npz")
