"""Latent cache: items that training reads, and refusal of damaged or unsuitable caches."""

import contextlib
import pickle
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dyt_dit import latent_cache, latents
from dyt_dit.autoencoder import open_autoencoder
from dyt_dit.latent_cache import Latents, Manifest, open_cache
from matched.task import Context
from matched.training import reseed
from matched.training.batches import SeededDataset

from ..messages import refused
from .small import NETWORK, PIXELS, TRAIN, autoencoder, encoded, stored
from .tiny import ENCODING, in_a_process, run

CPU = torch.device("cpu")


def opened(directory, vae, *, network=NETWORK, flip=0.5):
    context = Context(directory=directory, signature="y")
    return open_cache(context, directory, autoencoder_folder=vae, network=network, flip=flip)


class TestReading:
    def test_item_is_scaled_posterior_sample(self, encoding_run):
        train = Latents(encoding_run, "train")
        moments = stored(encoding_run, "train")
        assert len(train) == TRAIN
        for i in range(TRAIN):
            reseed(i)
            latent, label = train[i]
            reseed(i)
            torch.rand(())
            mean, std = moments[i, 0]
            expected = (mean + std * torch.randn(4, 8, 8)) * 0.18215
            assert latent.dtype == torch.float32 and torch.equal(latent, expected)
            assert label.dtype == torch.int64 and label == (i >= 8)

    def test_flip_probability(self, encoding_run):
        for flip, upper in ((0.0, 0), (1.0, 200), (0.25, 80)):
            train = Latents(encoding_run, "train", flip)
            mirrored = 0
            for i in range(200):
                reseed(i)
                latent = train[3][0] / 0.18215
                reseed(i)
                torch.rand(())
                noise = torch.randn(4, 8, 8)
                views = [mean + std * noise for mean, std in stored(encoding_run, "train")[3]]
                distances = [(latent - view).abs().max().item() for view in views]
                assert min(distances) < 1e-4
                mirrored += distances[1] < distances[0]
            assert upper * 0.4 <= mirrored <= upper

    def test_open_file_limit_is_raised(self, tmp_path):
        run(latents.encode, tmp_path / "x", replace(ENCODING, images_per_file=16))

        def work():
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
            train = Latents(tmp_path / "x", "train")
            assert len(train.files) == 90
            for i in range(0, len(train), 16):
                train[i]

        assert in_a_process(work) == 0

    def test_held_out_latents_are_not_flipped(self, encoding_run):
        held_out = Latents(encoding_run, "held_out", flip=1.0)
        reseed(1)
        latent = held_out[2][0]
        reseed(1)
        mean, std = stored(encoding_run, "held_out")[2, 0]
        assert torch.equal(latent, (mean + std * torch.randn(4, 8, 8)) * 0.18215)

    def test_data_loader_workers_read_identical_latents(self, encoding_run):
        train = Latents(encoding_run, "train", 0.5)
        train[5]
        # One seed per sample, as in the training loop.
        seeded, keys = SeededDataset(train, 3), [[(0, i) for i in range(TRAIN)]]
        ((latent, label),) = DataLoader(seeded, batch_sampler=keys, num_workers=1)
        assert torch.equal(latent, torch.stack([seeded[key][0] for key in keys[0]]))
        assert label.tolist() == train.targets.tolist()

    def test_pickled_latents_exclude_mapped_files(self, encoding_run):
        train = Latents(encoding_run, "train")
        train[0], train[13]
        content = pickle.dumps(train)
        assert len(content) < 2000
        one, other = SeededDataset(train, 3), SeededDataset(pickle.loads(content), 3)
        assert torch.equal(one[0, 13][0], other[0, 13][0])

    @pytest.mark.parametrize("index", [-1, TRAIN])
    def test_index_out_of_range(self, encoding_run, index):
        with pytest.raises(IndexError):
            Latents(encoding_run, "train")[index]


class TestOpening:
    def test_open_cache_verifies_files_once(self, encoding_copy, vae, monkeypatch):
        assert opened(encoding_copy, vae) == Manifest.read(encoding_copy)
        monkeypatch.setattr(latent_cache, "_check_files", None)
        opened(encoding_copy, vae)

    def test_open_cache_verifies_files_if_one_process_has_not(
        self, encoding_copy, vae, monkeypatch
    ):
        opened(encoding_copy, vae)
        calls = []
        monkeypatch.setattr(latent_cache, "_check_files", lambda *given: calls.append(given))
        monkeypatch.setattr(latent_cache, "all_gather_objects", lambda own: [own, False])
        manifest = opened(encoding_copy, vae)
        assert [given[1:] for given in calls] == [(manifest, encoding_copy)]

    def test_processes_share_the_verification(self, encoding_run, tmp_path, monkeypatch):
        manifest, shares = Manifest.read(encoding_run), []

        def gather(own):
            shares.append(own)
            return shares

        monkeypatch.setattr(latent_cache, "all_gather_objects", gather)
        for rank in range(3):
            with contextlib.suppress(KeyError):  # until the last one has brought its share
                place = Context(directory=tmp_path, signature="y", rank=rank, world_size=3)
                latent_cache._check_files(place, manifest, encoding_run)
        assert [list(share) for share in shares] == [
            ["train-00000.npy", "train-00003.npy", "held_out-00001.npy"],
            ["train-00001.npy", "train-labels.npy", "held_out-labels.npy"],
            ["train-00002.npy", "held_out-00000.npy"],
        ]
        assert shares[2]["train-00002.npy"] == manifest.splits["train"].files[2].sha256

    def test_damaged_file_is_reported_and_rewritten(self, encoding_copy, images, vae):
        path = encoding_copy / "latents" / "held_out-00001.npy"
        before = path.read_bytes()
        expected = Manifest.read(encoding_copy).splits["held_out"].files[1].sha256
        path.write_bytes(before[:-1])
        with pytest.raises(ValueError) as refusal:
            opened(encoding_copy, vae)
        found = latent_cache.digest(path)
        assert str(refusal.value) == (
            f"{path} is damaged: its SHA-256 is {found}; expected {expected}. "
            f"Delete {encoding_copy / 'result.json'} and submit again to write only this file again"
        )
        encoded(encoding_copy, images, vae)
        opened(encoding_copy, vae)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("name", ["train-00000.npy", "train-labels.npy"])
    def test_missing_file_is_reported_and_rewritten(self, encoding_copy, images, vae, name):
        (encoding_copy / "latents" / name).unlink()
        with pytest.raises(ValueError, match=rf"{name} is missing\. Delete .*result\.json"):
            opened(encoding_copy, vae)
        encoded(encoding_copy, images, vae)
        opened(encoding_copy, vae)

    @pytest.mark.parametrize("keep", [0, 200])
    def test_truncated_manifest_is_reported_and_rewritten(self, encoding_copy, images, vae, keep):
        path = encoding_copy / "latents" / "manifest.json"
        path.write_text(path.read_text()[:keep])
        with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON.*result\.json"):
            opened(encoding_copy, vae)
        encoded(encoding_copy, images, vae)
        opened(encoding_copy, vae)

    def test_missing_manifest_is_reported(self, encoding_copy, vae):
        (encoding_copy / "latents" / "manifest.json").unlink()
        with pytest.raises(ValueError, match=r"manifest\.json is missing.*result\.json"):
            opened(encoding_copy, vae)

    def test_manifest_of_other_version_is_rejected(self, encoding_copy, vae):
        path = encoding_copy / "latents" / "manifest.json"
        path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
        assert refused(opened, encoding_copy, vae) == (
            f"{path} has version 2; expected 1. Delete {encoding_copy / 'result.json'} and submit "
            "again to write it again"
        )

    def test_open_cache_rejects_other_autoencoder(self, encoding_run, vae, tmp_path):
        other = autoencoder(tmp_path / "other", seed=1)
        sums = [open_autoencoder("kl", folder, CPU).checksum for folder in (vae, other)]
        assert refused(opened, encoding_run, other) == (
            f"the latents in {encoding_run} were made by another autoencoder: its SHA-256 is "
            f"{sums[0]}, and that of the one in {other} is {sums[1]}. Set `sd-vae` under [data] in "
            f"site.toml to the former, or delete {encoding_run} and submit again to encode all "
            "images with the latter"
        )

    def test_open_cache_requires_autoencoder_source(self, encoding_run):
        assert refused(opened, encoding_run, None) == (
            f'the latents in {encoding_run} were made by an autoencoder; add "sd-vae" to the '
            "run's data, so that its weights can be compared"
        )

    @pytest.mark.parametrize("network", [{"input_size": 32}, {"channels": 1}])
    def test_open_cache_rejects_other_latent_size(self, encoding_run, vae, network):
        network = replace(NETWORK, **network)
        expected = f"{network.channels} × {network.input_size} × {network.input_size}"
        assert refused(opened, encoding_run, vae, network=network) == (
            f"the latents in {encoding_run}, of images of 16 pixels, are 4 × 8 × 8; the network "
            f"expects {expected}. Choose another image_size for the encoding, or another "
            "input_size (and channels) for the network"
        )

    def test_open_cache_rejects_other_number_of_classes(self, encoding_run, vae):
        assert refused(opened, encoding_run, vae, network=replace(NETWORK, classes=1000)) == (
            f"the latents in {encoding_run} have 2 classes, at 16 pixels; the network expects 1000 "
            "(classes)"
        )

    def test_flip_without_encoded_mirror_images_is_rejected(self, images, tmp_path):
        encoded(tmp_path / "run", images, None, replace(PIXELS, flip=False))
        network = replace(NETWORK, channels=1, input_size=16)
        opened(tmp_path / "run", None, network=network, flip=0.0)
        assert refused(opened, tmp_path / "run", None, network=network, flip=0.5) == (
            f"flip is 0.5, but the latents in {tmp_path / 'run'} include no mirror images; set "
            "flip to 0 or encode with flip=True"
        )


def test_latents_of_files_with_images_left_out_keep_their_order():
    """Files have different numbers of images: those that could not be read are missing."""
    latents = object.__new__(Latents)
    latents.ends, latents.targets, latents.scaling, latents.flip = [2, 5, 6], np.arange(6), 2.0, 0.0
    images = np.zeros((6, 1, 2, 1, 1, 1), np.float16)
    images[:, 0, 0, 0, 0, 0] = np.arange(6)
    latents.mapped = {0: images[:2], 1: images[2:5], 2: images[5:]}
    for index in range(6):
        latent, label = latents[index]
        assert (latent.item(), label.item()) == (2.0 * index, index)
    with pytest.raises(IndexError):
        latents[6]
