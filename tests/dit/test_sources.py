"""Data sources of paper scale in site.toml, which are checked before submission."""

import json
from pathlib import Path

import numpy as np
import pytest

from dyt_dit import sources
from matched import data, recipes

from ..messages import refused as exactly_refused

SITE = Path("site.toml")
ADM = {name: np.zeros(1) for name in sources.REFERENCE_ARRAYS}


@pytest.fixture
def valid_paths(tmp_path):
    """Name → valid path for each source."""
    vae = tmp_path / "vae"
    vae.mkdir()
    (vae / "config.json").write_text(json.dumps({}))
    (vae / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    (tmp_path / "inception.pth").write_bytes(b"x")
    np.savez(tmp_path / "reference.npz", **ADM)
    return {
        "sd-vae": vae,
        "inception": tmp_path / "inception.pth",
        "imagenet-reference": tmp_path / "reference.npz",
    }


def refused(paths, message):
    with pytest.raises(ValueError, match=message) as refusal:
        data.resolve_paths(tuple(paths), paths, SITE)
    assert "\n" not in str(refusal.value)


INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
BATCH = "VIRTUAL_imagenet256_labeled.npz"


def test_sources_say_what_is_expected(tmp_path, valid_paths):
    missing, text = tmp_path / "none", tmp_path / "text"
    text.write_text("no zip")
    lacking = tmp_path / "lacking.npz"
    np.savez(lacking, **{name: ADM[name] for name in ("arr_0", "sigma")})
    checks = [
        (sources.INCEPTION, missing, "there is no file {}; expected the weights of "
         f"torch-fidelity's Inception v3, {INCEPTION}"),
        (sources.IMAGENET_REFERENCE, missing, "there is no file {}; expected ADM's reference batch "
         f"of ImageNet at 256 × 256, {BATCH}"),
        (sources.IMAGENET_REFERENCE, text, "{} is not a whole .npz file; copy it again"),
        (sources.IMAGENET_REFERENCE, lacking, "{} lacks mu, mu_s, sigma_s; expected ADM's "
         f"reference batch of ImageNet with images and statistics, {BATCH}"),
        (sources.DIT_XL2_WEIGHTS, missing, "there is no file {}; expected the weights of DiT-XL/2, "
         "DiT-XL-2-256x256.pt"),
        (sources.SD_VAE, tmp_path, "{} has no config.json; expected the folder of diffusers' "
         "AutoencoderKL, such as a copy of stabilityai/sd-vae-ft-ema"),
    ]  # fmt: skip
    for source, path, message in checks:
        assert exactly_refused(source.check, path) == message.format(path)
    vae = valid_paths["sd-vae"]
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    assert exactly_refused(sources.SD_VAE.check, vae) == (
        f"{vae} has no weights; expected diffusion_pytorch_model.safetensors or "
        "diffusion_pytorch_model.bin in it"
    )


def test_valid_sources_are_resolved(valid_paths):
    assert data.resolve_paths(tuple(valid_paths), valid_paths, SITE) == valid_paths


def test_all_missing_sources_of_paper_scale_are_reported():
    recipe = recipes.load("table3")
    names = {
        name
        for cell in recipe.table.cells(recipe.scale("paper"))
        for run in chain(cell.run)
        for name in data.source_names(run.config)
    }
    assert names == {"imagenet", "sd-vae", "inception", "imagenet-reference"}
    with pytest.raises(
        ValueError, match=r"^no path for .*Inception v3.*: set .* in site\.toml"
    ) as refusal:
        data.resolve_paths(tuple(sorted(names)), {}, SITE)
    assert all(f"`{name}`" in str(refusal.value) for name in names)


def chain(run):
    return [run, *(other for need in run.needs.values() for other in chain(need))]


def test_missing_and_invalid_sources_are_reported_together(valid_paths):
    paths = {"inception": Path("/nowhere/x.pth")}
    with pytest.raises(ValueError) as refusal:
        data.resolve_paths(("inception", "sd-vae"), paths, SITE)
    message = str(refusal.value)
    assert "set `sd-vae` under [data]" in message and "[data] inception in site.toml" in message
    assert "there is no file /nowhere/x.pth; expected the weights of torch-fidelity" in message


def test_sd_vae_folder_without_autoencoder_is_rejected(valid_paths):
    (valid_paths["sd-vae"] / "diffusion_pytorch_model.safetensors").unlink()
    refused(
        valid_paths,
        r"sd-vae in site\.toml: .* has no weights; expected diffusion_pytorch_model",
    )
    (valid_paths["sd-vae"] / "config.json").unlink()
    refused(valid_paths, r"has no config\.json; expected the folder of diffusers' AutoencoderKL")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 334643268\n"
ANNEX = "/annex/objects/SHA256E-s334643268--4d7a\n"


@pytest.mark.parametrize(
    "text, tool", [(LFS, "git-lfs"), (ANNEX, "git-annex")], ids=["git-lfs", "git-annex"]
)
@pytest.mark.parametrize(
    "source, name",
    [
        ("sd-vae", "diffusion_pytorch_model.safetensors"),
        ("sd-vae", "diffusion_pytorch_model.bin"),
        ("sd-vae", "config.json"),
        ("inception", ""),
        ("imagenet-reference", ""),
    ],
)
def test_pointer_in_place_of_weights_is_refused(valid_paths, source, name, text, tool):
    file = valid_paths[source] / name
    if name.endswith(".bin"):
        (valid_paths[source] / "diffusion_pytorch_model.safetensors").unlink()
    file.write_text(text)
    refused(
        valid_paths,
        rf"^\[data\] {source} in site\.toml: {file} is a pointer of {tool}, not the file",
    )
    file.unlink()
    file.symlink_to("../.git/annex/objects/Zx/9q/SHA256E-s1--4d7a/SHA256E-s1--4d7a")
    refused(valid_paths, rf"{file} is a pointer of git-annex, not the file itself; run `git annex")


def test_pointer_beside_the_weights_that_are_loaded_is_accepted(valid_paths):
    (valid_paths["sd-vae"] / "diffusion_pytorch_model.bin").write_text(LFS)
    assert data.resolve_paths(tuple(valid_paths), valid_paths, SITE) == valid_paths


def test_invalid_imagenet_reference_is_rejected(valid_paths):
    path = valid_paths["imagenet-reference"]
    np.savez(path, arr_0=np.zeros(1), mu=np.zeros(1))
    refused(valid_paths, r"lacks sigma, mu_s, sigma_s; expected ADM's reference batch")
    path.write_bytes(path.read_bytes()[:-30])
    refused(valid_paths, r"is not a whole \.npz file; copy it again")
    path.unlink()
    refused(valid_paths, r"there is no file .*reference\.npz; expected ADM's reference batch")
