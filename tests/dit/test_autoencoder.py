"""Autoencoders: equality with DiT's own scripts, and rejected folders."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torchvision import transforms

from dyt_dit.autoencoder import EXPECTED, open_autoencoder
from dyt_dit.images import open_split

from ..messages import refused
from .small import autoencoder

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(vae, tmp_path):
    """A copy of ``vae`` that a test may damage."""
    return shutil.copytree(vae, tmp_path / "vae")


@pytest.fixture(scope="module")
def official(vae):
    """Diffusers' AutoencoderKL, as DiT's own scripts call it."""
    return AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False)


def random_images(count=3):
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=source, dtype=torch.uint8)


class TestKLAutoencoder:
    def test_encode_matches_dit_training_script(self, vae, official):
        images = random_images()
        mean, std = open_autoencoder("kl", vae, CPU).encode(images)
        normalized = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        )
        batch = torch.stack([normalized(image.permute(1, 2, 0).numpy()) for image in images])
        with torch.no_grad():
            posterior = official.encode(batch).latent_dist
        assert mean.shape == std.shape == (3, 4, 8, 8)
        torch.testing.assert_close(mean, posterior.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(std, posterior.std, rtol=1e-5, atol=1e-5)

    def test_decode_matches_dit_sampling_script(self, vae, official):
        opened = open_autoencoder("kl", vae, CPU)
        assert opened.scaling == 0.18215
        latents = 0.5 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            decoded = official.decode(latents / 0.18215).sample
        expected = np.floor(np.clip(127.5 * decoded.numpy() + 128.0, 0, 255))
        found = opened.decode(latents)
        assert found.dtype == torch.uint8
        np.testing.assert_array_equal(found.numpy(), expected)
        assert found.float().std() > 10

    def test_latent_shape(self, vae):
        opened = open_autoencoder("kl", vae, CPU)
        assert opened.shape(16) == (4, 8)
        with pytest.raises(ValueError, match=r"image_size 15 is not a multiple of 2, as .*vae"):
            opened.shape(15)

    def test_checksum_is_sha256_of_weights(self, vae, folder):
        expected = hashlib.sha256((vae / WEIGHTS).read_bytes()).hexdigest()
        assert open_autoencoder("kl", vae, CPU).checksum == expected
        autoencoder(folder, seed=1)
        assert open_autoencoder("kl", folder, CPU).checksum != expected

    def test_old_attention_names_are_loaded(self, vae, folder):
        """stabilityai's weights have the old names."""
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        state = load_file(folder / WEIGHTS)
        for new, name in old.items():
            state = {key.replace(new, name): value for key, value in state.items()}
        assert sum("query" in name for name in state) == 4
        save_file(state, folder / WEIGHTS)
        one, other = (open_autoencoder("kl", f, CPU).encode(random_images()) for f in (vae, folder))
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])

    def test_half_precision_weights_compute_in_float32(self, folder):
        state = load_file(folder / WEIGHTS)
        save_file({name: value.half() for name, value in state.items()}, folder / WEIGHTS)
        assert open_autoencoder("kl", folder, CPU).encode(random_images())[0].dtype == torch.float32


def remove_weights(folder):
    (folder / WEIGHTS).unlink()


def remove_config(folder):
    (folder / "config.json").unlink()


def truncate_weights(folder):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:5000])


def git_lfs_pointer(folder):
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")


def remove_half_of_the_tensors(folder):
    state = load_file(folder / WEIGHTS)
    save_file(dict(list(state.items())[::2]), folder / WEIGHTS)


def config_of_other_model(folder):
    config = {"_class_name": "UNet2DModel", "sample_size": 8}
    (folder / "config.json").write_text(json.dumps(config))


def config_of_shallower_model(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layers_per_block": 0}))


DAMAGE = [
    remove_weights,
    remove_config,
    truncate_weights,
    git_lfs_pointer,
    remove_half_of_the_tensors,
    config_of_other_model,
]
DAMAGE.append(config_of_shallower_model)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_autoencoder_folder_is_rejected(folder, damage):
    damage(folder)
    with pytest.raises(ValueError, match="such as a copy of stabilityai/sd-vae-ft-ema") as refusal:
        open_autoencoder("kl", folder, CPU)
    assert str(refusal.value).startswith(f"{folder} ") and "\n" not in str(refusal.value)


def test_missing_sd_vae_source_is_rejected():
    assert refused(open_autoencoder, "kl", None, CPU) == (
        'the autoencoder "kl" needs the source "sd-vae"; add that to the run\'s data'
    )


def test_weights_that_do_not_fit_the_config_are_counted(folder):
    remove_half_of_the_tensors(folder)
    message = refused(open_autoencoder, "kl", folder, CPU)
    expected = f"{folder} has weights that do not match its config.json ("
    assert message.startswith(expected)
    assert " names differ, such as " in message and message.endswith(f"); {EXPECTED}")
    truncate_weights(folder)
    message = refused(open_autoencoder, "kl", folder, CPU)
    assert message.startswith(f"{folder} cannot be loaded as an autoencoder (")
    assert message.endswith(f"); {EXPECTED}")
    remove_weights(folder)
    assert refused(open_autoencoder, "kl", folder, CPU) == (
        f"{folder} has no autoencoder weights; {EXPECTED}"
    )


def test_loading_without_network_names_the_first_line_of_errors(folder, monkeypatch):
    given = []

    def fail(*arguments, **options):
        given.append((arguments, options))
        raise OSError("no such config\nTraceback:\n  line 3")

    monkeypatch.setattr(AutoencoderKL, "from_pretrained", fail)
    assert refused(open_autoencoder, "kl", folder, CPU) == (
        f"{folder} cannot be loaded as an autoencoder (no such config); {EXPECTED}"
    )
    options = {
        "local_files_only": True,
        "torch_dtype": torch.float32,
        "low_cpu_mem_usage": False,
        "output_loading_info": True,
    }
    assert given == [((folder,), options)]


def test_pixel_autoencoder_round_trip_through_float16():
    opened = open_autoencoder("pixels", None, CPU)
    assert (opened.checksum, opened.scaling, opened.shape(8)) == ("pixels", 1, (1, 8))
    digits = open_split("digits", None, "held_out", 8)
    ramp = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8).expand(-1, 3, -1, -1)
    images = torch.cat([torch.stack([digits[i][0] for i in range(360)]), ramp])
    mean, std = opened.encode(images)
    assert mean.shape == (364, 1, 8, 8) and not std.any()
    assert (mean.min(), mean.max()) == (-1, 1)
    assert torch.equal(opened.decode(mean.half()), images)
