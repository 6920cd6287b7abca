"""The autoencoder: what DiT's own scripts would compute, and folders that hold none."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torchvision import transforms

from dyt_dit.autoencoder import open_autoencoder
from dyt_dit.images import open_split

from .small import autoencoder

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(vae, tmp_path):
    """A copy to break."""
    return shutil.copytree(vae, tmp_path / "vae")


@pytest.fixture(scope="module")
def official(vae):
    """What DiT's own scripts call."""
    return AutoencoderKL.from_pretrained(vae, low_cpu_mem_usage=False)


def random_images(count=3):
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=source, dtype=torch.uint8)


class TestKL:
    def test_it_encodes_as_training_on_the_fly_would(self, vae, official):
        images = random_images()
        mean, std = open_autoencoder("kl", vae, CPU).encode(images)
        normalised = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        )
        batch = torch.stack([normalised(image.permute(1, 2, 0).numpy()) for image in images])
        with torch.no_grad():
            posterior = official.encode(batch).latent_dist
        assert mean.shape == std.shape == (3, 4, 8, 8)
        torch.testing.assert_close(mean, posterior.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(std, posterior.std, rtol=1e-5, atol=1e-5)

    def test_it_decodes_as_the_samplers_do(self, vae, official):
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

    def test_the_shape_of_latents(self, vae):
        opened = open_autoencoder("kl", vae, CPU)
        assert opened.shape(16) == (4, 8)
        with pytest.raises(ValueError, match=r"image_size 15 is not a multiple of 2, as .*vae"):
            opened.shape(15)

    def test_the_checksum_is_of_the_weights(self, vae, folder):
        expected = hashlib.sha256((vae / WEIGHTS).read_bytes()).hexdigest()
        assert open_autoencoder("kl", vae, CPU).checksum == expected
        autoencoder(folder, seed=1)
        assert open_autoencoder("kl", folder, CPU).checksum != expected

    def test_attention_under_its_old_names_is_the_same(self, vae, folder):
        """stabilityai's weights have these."""
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        state = load_file(folder / WEIGHTS)
        for new, name in old.items():
            state = {key.replace(new, name): value for key, value in state.items()}
        assert sum("query" in name for name in state) == 4
        save_file(state, folder / WEIGHTS)
        one, other = (open_autoencoder("kl", f, CPU).encode(random_images()) for f in (vae, folder))
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])

    def test_weights_in_half_precision_compute_in_full(self, folder):
        state = load_file(folder / WEIGHTS)
        save_file({name: value.half() for name, value in state.items()}, folder / WEIGHTS)
        assert open_autoencoder("kl", folder, CPU).encode(random_images())[0].dtype == torch.float32


def lose_weights(folder):
    (folder / WEIGHTS).unlink()


def lose_config(folder):
    (folder / "config.json").unlink()


def cut_weights(folder):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:5000])


def no_weights(folder):
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")


def half_the_names(folder):
    state = load_file(folder / WEIGHTS)
    save_file(dict(list(state.items())[::2]), folder / WEIGHTS)


def another_model(folder):
    config = {"_class_name": "UNet2DModel", "sample_size": 8}
    (folder / "config.json").write_text(json.dumps(config))


def a_shallower_model(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layers_per_block": 0}))


DAMAGE = [lose_weights, lose_config, cut_weights, no_weights, half_the_names, another_model]
DAMAGE.append(a_shallower_model)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_without_a_whole_autoencoder_is_named(folder, damage):
    damage(folder)
    with pytest.raises(ValueError, match="such as a copy of stabilityai/sd-vae-ft-ema") as refusal:
        open_autoencoder("kl", folder, CPU)
    assert str(refusal.value).startswith(f"{folder} ") and "\n" not in str(refusal.value)


def test_a_recipe_without_the_source_is_told():
    with pytest.raises(ValueError, match="add that to the run's data"):
        open_autoencoder("kl", None, CPU)


def test_pixels_come_back_as_they_were_through_float16():
    opened = open_autoencoder("pixels", None, CPU)
    assert (opened.checksum, opened.scaling, opened.shape(8)) == ("pixels", 1, (1, 8))
    digits = open_split("digits", None, "held_out", 8)
    ramp = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8).expand(-1, 3, -1, -1)
    images = torch.cat([torch.stack([digits[i][0] for i in range(360)]), ramp])
    mean, std = opened.encode(images)
    assert mean.shape == (364, 1, 8, 8) and not std.any()
    assert (mean.min(), mean.max()) == (-1, 1)
    assert torch.equal(opened.decode(mean.half()), images)
