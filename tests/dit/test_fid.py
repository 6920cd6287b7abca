"""FID metrics: torch-fidelity's values, ADM's conventions, known cases, and statistics files."""

import json

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from dyt_dit import fid
from dyt_dit.fid import FeatureStatistics, ReferenceStatistics, RunningMoments
from matched.files import DamagedFileError

from ..messages import refused

CPU = torch.device("cpu")


def features(count, width=24, seed=0, shift=0.0):
    """Return float32 features that are correlated and not negative, like Inception's."""
    source = np.random.default_rng(seed)
    mixed = source.normal(size=(count, width)) @ source.normal(size=(width, width)) + shift
    return np.maximum(mixed, 0).astype(np.float32)


def statistics_of(values, chunks=1):
    moments = RunningMoments(CPU)
    for chunk in np.array_split(values, chunks):
        moments.add(chunk)
    return moments.statistics()


def torch_fidelity_fid(one, other):
    pair = [fid_features_to_statistics(torch.from_numpy(values)) for values in (one, other)]
    return fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]


class TestFrechetDistance:
    @pytest.mark.parametrize("shift", [0.0, 0.5, 5.0])
    def test_matches_torch_fidelity(self, shift):
        one, other = features(600), features(500, seed=1, shift=shift)
        found = fid.frechet_distance(statistics_of(one, 3), statistics_of(other, 7))
        assert found == pytest.approx(torch_fidelity_fid(one, other), rel=1e-6)
        in_float64 = torch_fidelity_fid(one.astype(np.float64), other.astype(np.float64))
        assert found == pytest.approx(in_float64, rel=1e-12)

    def test_distance_to_itself_is_zero(self):
        for values in (features(400), features(60, width=128)):
            assert abs(fid.frechet_distance(statistics_of(values), statistics_of(values))) < 1e-3

    def test_known_normal_distributions(self):
        """With diagonal covariances: squared differences of means and of standard deviations."""
        one = FeatureStatistics(mean=np.array([0.0, 1.0]), covariance=np.diag([4.0, 9.0]))
        other = FeatureStatistics(mean=np.array([3.0, 1.0]), covariance=np.diag([1.0, 25.0]))
        assert fid.frechet_distance(one, other) == pytest.approx(9 + 1 + 4)

    def test_distance_grows_with_noise(self):
        real = features(500)
        noise = np.random.default_rng(5).normal(size=real.shape).astype(np.float32)
        found = [
            fid.frechet_distance(statistics_of(real), statistics_of(real + s * noise))
            for s in (0.1, 0.5, 2.0)
        ]
        assert found == sorted(found) and found[0] > 0


class TestRunningMoments:
    def test_chunks_give_mean_and_covariance_of_all(self):
        values = features(301)
        one, many = statistics_of(values), statistics_of(values, 17)
        assert one.count == many.count == 301
        np.testing.assert_allclose(one.mean, values.astype(np.float64).mean(0), rtol=1e-13)
        np.testing.assert_allclose(one.covariance, np.cov(values, rowvar=False), rtol=1e-10)
        np.testing.assert_allclose(many.covariance, one.covariance, rtol=1e-10, atol=1e-12)
        assert one.mean.dtype == one.covariance.dtype == np.float64

    def test_covariance_is_accurate_for_large_mean(self):
        values = np.random.default_rng(0).normal(size=(1000, 4))
        far = statistics_of(values + 1e7, 10)
        np.testing.assert_allclose(far.covariance, np.cov(values, rowvar=False), atol=1e-8)

    def test_one_image_is_rejected(self):
        with pytest.raises(ValueError, match="1 images have no covariance; expected 2"):
            statistics_of(features(1))


class TestInceptionScore:
    def test_score_is_mean_over_5000_images_in_order(self):
        certain = 50 * np.repeat(np.eye(2), 5000, axis=0)
        assert fid.inception_score(certain) == pytest.approx(1.0)
        mixed = certain.reshape(2, 5000, 2).transpose(1, 0, 2).reshape(-1, 2)
        assert fid.inception_score(mixed) == pytest.approx(2.0)

    def test_matches_torch_fidelity_with_ordered_splits(self):
        logits = 3 * features(10000, width=10)
        expected = isc_features_to_metric(torch.from_numpy(logits), splits=2, shuffle=False)
        found = fid.inception_score(logits)
        assert found == pytest.approx(expected["inception_score_mean"], rel=1e-9)

    def test_last_chunk_may_be_smaller(self):
        logits = 3 * features(6000, width=10)
        scores = [fid.inception_score(chunk) for chunk in (logits[:5000], logits[5000:])]
        assert fid.inception_score(logits) == pytest.approx(np.mean(scores))


class TestPrecisionAndRecall:
    def found(self, generated, real, neighbours=3):
        return fid.precision_recall(generated, real, neighbours=neighbours, device=CPU)

    def test_precision_recall_of_known_cases(self):
        source = np.random.default_rng(0)
        a, b = source.normal(size=(2, 50, 3))
        assert self.found(a, a) == (1.0, 1.0)
        assert self.found(a, b + 100) == (0.0, 0.0)
        both = np.concatenate([a, b + 100])
        assert self.found(a, both) == (1.0, 0.5), "generated images cover half of the real ones"
        assert self.found(both, a) == (0.5, 1.0)

    def test_matches_torch_fidelity_for_any_block_size(self, monkeypatch):
        generated, real = features(150, seed=1), features(90)
        pair = torch.from_numpy(generated), torch.from_numpy(real)
        for neighbours in (1, 3):
            expected = prc_features_to_metric(*pair, prc_neighborhood=neighbours, verbose=False)
            for block in (2500, 40):
                monkeypatch.setattr(fid, "DISTANCE_BLOCK", block)
                found = self.found(generated, real, neighbours)
                assert found == (expected["precision"], expected["recall"])
                assert 0 < found[0] < 1 and 0 < found[1] < 1

    def test_distances_are_computed_in_blocks(self, monkeypatch):
        given = {}

        def record(*sets, **options):
            given.update(options, sets=[tuple(values.shape) for values in sets])
            return {"precision": 0.25, "recall": 0.75}

        monkeypatch.setattr(fid, "prc_features_to_metric", record)
        assert self.found(features(7), features(5), neighbours=2) == (0.25, 0.75)
        assert given == {
            "sets": [(7, 24), (5, 24)],
            "prc_neighborhood": 2,
            "prc_batch_size": 2500,
            "save_cpu_ram": True,
            "verbose": False,
        }

    def test_fewer_images_than_neighbours_are_rejected(self):
        for sets in ((features(3), features(10)), (features(10), features(3))):
            assert refused(self.found, *sets) == (
                "one set has 3 images; precision and recall with neighbours = 3 need at least "
                "neighbours + 1 = 4 images in each set"
            )
        self.found(features(4), features(10))


def test_warn_of_few_images(caplog):
    found = {"pool": statistics_of(features(20)), "spatial": statistics_of(features(24))}
    (warning,) = fid.warn_of_few_images(found, "generated")
    assert warning == (
        "20 generated images are fewer than the 24 dimensions of the features (pool), so the "
        "covariance is singular and the Fréchet distance too high"
    )
    assert (warning, "WARNING") in [(r.message, r.levelname) for r in caplog.records]
    unknown = FeatureStatistics(mean=np.zeros(24), covariance=np.eye(24))
    assert fid.warn_of_few_images({"pool": unknown}, "reference") == []


class TestStatisticsFile:
    @pytest.fixture
    def file(self, tmp_path):
        own = statistics_of(features(50))
        reference = ReferenceStatistics(statistics={"pool": own}, features=features(5))
        fid.write_statistics(tmp_path / "x.npz", reference, count=50)
        return tmp_path / "x.npz"

    def test_write_and_read_statistics(self, file):
        assert fid.read_metadata(file, "count")["count"] == 50
        found, own = fid.read_statistics(file, 50), statistics_of(features(50))
        assert fid.frechet_distance(found.statistics["pool"], own) < 1e-6
        assert np.array_equal(found.statistics["pool"].covariance, own.covariance)
        assert np.array_equal(found.features, features(5)) and list(found.statistics) == ["pool"]

    def test_damaged_file_is_reported(self, file):
        content = bytearray(file.read_bytes())
        content[300] ^= 1
        file.write_bytes(content)
        with pytest.raises(DamagedFileError) as error:
            fid.read_metadata(file)
        assert str(error.value) == (
            f"{file} is damaged: its checksum differs from the one in x.json"
        )

    def test_missing_files_are_reported(self, file):
        with pytest.raises(DamagedFileError, match=r"x\.json lacks images"):
            fid.read_metadata(file, "images")
        file.unlink()
        with pytest.raises(DamagedFileError, match=r"there is no .*x\.npz"):
            fid.read_metadata(file)
        file.with_suffix(".json").write_text("{")
        with pytest.raises(DamagedFileError, match=r"x\.json is not valid JSON"):
            fid.read_metadata(file)
        file.with_suffix(".json").unlink()
        with pytest.raises(DamagedFileError, match=r"there is no .*x\.json"):
            fid.read_metadata(file)

    def test_npz_with_outdated_json_is_rejected(self, file, monkeypatch, tmp_path):
        """After a kill between the two writes, the .json has the checksum of the old .npz."""
        monkeypatch.setattr(fid, "write_json", lambda *_: None)
        other = ReferenceStatistics(
            statistics={"pool": statistics_of(features(50, seed=3))}, features=features(5)
        )
        fid.write_statistics(file, other, count=50)
        assert json.loads(file.with_suffix(".json").read_text())["count"] == 50
        with pytest.raises(DamagedFileError):
            fid.read_metadata(file)

    def test_read_statistics_of_adm_reference_batch(self, tmp_path):
        own = statistics_of(features(50))
        arrays = {"mu": own.mean.astype(np.float32), "sigma": own.covariance}
        np.savez(
            tmp_path / "adm.npz", arr_0=np.zeros(3), mu_s=np.zeros(7), sigma_s=np.eye(7), **arrays
        )
        found = fid.read_statistics(tmp_path / "adm.npz")
        assert found.features is None and found.statistics["pool"].count is None
        assert found.statistics["pool"].mean.dtype == np.float64
        assert abs(fid.frechet_distance(found.statistics["pool"], own)) < 1e-6
        assert found.statistics["spatial"].covariance.shape == (7, 7)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"arr_0": np.zeros(3)}, "{} has no statistics; expected the arrays mu and sigma"),
            ({"mu": np.zeros(3)}, "{} has no statistics; expected the arrays mu and sigma"),
            (
                {"mu": np.zeros(3), "sigma": np.eye(4)},
                "mu and sigma of {} are (3,) and (4, 4); expected (D,) and (D, D)",
            ),
            (
                {"mu": np.zeros((3, 1)), "sigma": np.eye(3)},
                "mu and sigma of {} are (3, 1) and (3, 3); expected (D,) and (D, D)",
            ),
            (
                {"mu": np.full(3, np.nan), "sigma": np.eye(3)},
                "mu or sigma of {} is not finite; copy it again",
            ),
            (
                {"mu": np.zeros(3), "sigma": np.full((3, 3), np.inf)},
                "mu or sigma of {} is not finite; copy it again",
            ),
        ],
    )
    def test_read_statistics_rejects_other_arrays(self, arrays, message, tmp_path):
        np.savez(tmp_path / "x.npz", **arrays)
        found = refused(fid.read_statistics, tmp_path / "x.npz")
        assert found == message.format(tmp_path / "x.npz")

    def test_read_statistics_refuses_damaged_file(self, tmp_path):
        (tmp_path / "x.npz").write_bytes(b"PK\3\4 half")
        message = refused(fid.read_statistics, tmp_path / "x.npz")
        assert message.startswith(f"{tmp_path / 'x.npz'} is not a complete .npz file (")
        assert message.endswith("); copy it again")
