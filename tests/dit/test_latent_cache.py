"""A cache of latents: what training reads of it, and what it refuses to read."""

import pickle
import resource
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from dyt_dit import latent_cache, latents
from dyt_dit.autoencoder import open_autoencoder
from dyt_dit.latent_cache import Latents, Manifest, open_cache
from matched.task import Context
from matched.training import reseed
from matched.training.batches import SeededDataset

from .small import NETWORK, PIXELS, TRAIN, autoencoder, encoded, stored
from .tiny import ENCODING, in_a_process, run

CPU = torch.device("cpu")


def opened(directory, vae, *, network=NETWORK, flip=0.5):
    context = Context(directory=directory, signature="y")
    return open_cache(context, directory, autoencoder_folder=vae, network=network, flip=flip)


class TestReading:
    def test_an_item_is_a_scaled_sample_of_the_posterior(self, whole):
        train = Latents(whole, "train")
        moments = stored(whole, "train")
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

    def test_it_is_mirrored_as_often_as_asked(self, whole):
        for flip, most in ((0.0, 0), (1.0, 200), (0.25, 80)):
            train = Latents(whole, "train", flip)
            mirrored = 0
            for i in range(200):
                reseed(i)
                latent = train[3][0] / 0.18215
                reseed(i)
                torch.rand(())
                noise = torch.randn(4, 8, 8)
                views = [mean + std * noise for mean, std in stored(whole, "train")[3]]
                distances = [(latent - view).abs().max().item() for view in views]
                assert min(distances) < 1e-4
                mirrored += distances[1] < distances[0]
            assert most * 0.4 <= mirrored <= most

    def test_more_files_than_a_process_may_open_are_read(self, tmp_path):
        run(latents.encode, tmp_path / "x", replace(ENCODING, shard=16))

        def work():
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
            train = Latents(tmp_path / "x", "train")
            assert len(train.files) == 90
            for i in range(0, len(train), 16):
                train[i]

        assert in_a_process(work) == 0

    def test_the_held_out_ones_have_no_mirror_and_draw_for_none(self, whole):
        held_out = Latents(whole, "held_out", flip=1.0)
        reseed(1)
        latent = held_out[2][0]
        reseed(1)
        mean, std = stored(whole, "held_out")[2, 0]
        assert torch.equal(latent, (mean + std * torch.randn(4, 8, 8)) * 0.18215)

    def test_a_loading_process_reads_the_same(self, whole):
        train = Latents(whole, "train", 0.5)
        train[5]
        # A seed for each sample, as the training loop has it.
        seeded, keys = SeededDataset(train, 3), [[(0, i) for i in range(TRAIN)]]
        ((latent, label),) = DataLoader(seeded, batch_sampler=keys, num_workers=1)
        assert torch.equal(latent, torch.stack([seeded[key][0] for key in keys[0]]))
        assert label.tolist() == train.targets.tolist()

    def test_a_pickled_one_reads_the_same_and_holds_no_latents(self, whole):
        train = Latents(whole, "train")
        train[0], train[13]
        content = pickle.dumps(train)
        assert len(content) < 2000
        one, other = SeededDataset(train, 3), SeededDataset(pickle.loads(content), 3)
        assert torch.equal(one[0, 13][0], other[0, 13][0])

    @pytest.mark.parametrize("index", [-1, TRAIN])
    def test_there_is_no_more(self, whole, index):
        with pytest.raises(IndexError):
            Latents(whole, "train")[index]


class TestOpening:
    def test_a_whole_cache_is_read_through_once(self, copy, vae, monkeypatch):
        assert opened(copy, vae) == Manifest.read(copy)
        monkeypatch.setattr(latent_cache, "_check_files", None)
        opened(copy, vae)

    def test_a_damaged_file_is_named_and_made_anew(self, copy, images, vae):
        path = copy / "latents" / "held_out-00001.npy"
        before = path.read_bytes()
        expected = Manifest.read(copy).parts["held_out"].files[1].sha256
        path.write_bytes(before[:-1])
        with pytest.raises(ValueError) as refusal:
            opened(copy, vae)
        found = latent_cache.digest(path)
        assert str(refusal.value) == (
            f"{path} is damaged: its SHA-256 is {found}; expected {expected}. "
            f"Delete {copy / 'result.json'} and submit again, and this file alone is made anew"
        )
        encoded(copy, images, vae)
        opened(copy, vae)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("name", ["train-00000.npy", "train-labels.npy"])
    def test_a_lost_file_too(self, copy, images, vae, name):
        (copy / "latents" / name).unlink()
        with pytest.raises(ValueError, match=rf"{name} is lost\. Delete .*result\.json"):
            opened(copy, vae)
        encoded(copy, images, vae)
        opened(copy, vae)

    @pytest.mark.parametrize("keep", [0, 200])
    def test_a_truncated_manifest(self, copy, images, vae, keep):
        path = copy / "latents" / "manifest.json"
        path.write_text(path.read_text()[:keep])
        with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON.*result\.json"):
            opened(copy, vae)
        encoded(copy, images, vae)
        opened(copy, vae)

    def test_a_lost_manifest(self, copy, vae):
        (copy / "latents" / "manifest.json").unlink()
        with pytest.raises(ValueError, match=r"manifest\.json is lost.*result\.json"):
            opened(copy, vae)

    def test_a_manifest_of_another_version(self, copy, vae):
        path = copy / "latents" / "manifest.json"
        path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
        with pytest.raises(ValueError, match="is of version 2; expected 1"):
            opened(copy, vae)

    def test_another_autoencoder(self, whole, vae, tmp_path):
        other = autoencoder(tmp_path / "other", seed=1)
        sums = [open_autoencoder("kl", folder, CPU).checksum for folder in (vae, other)]
        with pytest.raises(ValueError, match=r"`sd-vae` under \[data\] in site.toml") as refusal:
            opened(whole, other)
        assert all(value in str(refusal.value) for value in sums)

    def test_no_autoencoder(self, whole):
        with pytest.raises(ValueError, match='add "sd-vae" to the run\'s data'):
            opened(whole, None)

    @pytest.mark.parametrize("network", [{"input_size": 32}, {"channels": 1}])
    def test_latents_of_another_size(self, whole, vae, network):
        network = replace(NETWORK, **network)
        expected = f"{network.channels} × {network.input_size} × {network.input_size}"
        with pytest.raises(ValueError, match=r"images of 16 pixels, 4 × 8 × 8") as refusal:
            opened(whole, vae, network=network)
        assert expected in str(refusal.value)

    def test_other_classes(self, whole, vae):
        with pytest.raises(ValueError, match=r"of 2 classes, .* the network expects 1000"):
            opened(whole, vae, network=replace(NETWORK, classes=1000))

    def test_mirror_images_that_are_not_there(self, images, tmp_path):
        encoded(tmp_path / "run", images, None, replace(PIXELS, flip=False))
        network = replace(NETWORK, channels=1, input_size=16)
        opened(tmp_path / "run", None, network=network, flip=0.0)
        with pytest.raises(ValueError, match=r"flip is 0\.5, .* are of no mirror images"):
            opened(tmp_path / "run", None, network=network, flip=0.5)
