"""What paper scale reads from site.toml, looked at before anything is submitted."""

import json
from pathlib import Path

import numpy as np
import pytest

from dyt_dit import sources
from matched import data, recipes

SITE = Path("site.toml")
ADM = {name: np.zeros(1) for name in sources.REFERENCE_ARRAYS}


@pytest.fixture
def weights(tmp_path):
    """A place for each source, every one as it has to be."""
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
    with pytest.raises(ValueError, match=message) as told:
        data.resolve_paths(tuple(paths), paths, SITE)
    assert "\n" not in str(told.value)


def test_what_is_there_is_found(weights):
    assert data.resolve_paths(tuple(weights), weights, SITE) == weights


def test_all_that_paper_scale_lacks_is_named_at_once():
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
    ) as told:
        data.resolve_paths(tuple(sorted(names)), {}, SITE)
    assert all(f"`{name}`" in str(told.value) for name in names)


def chain(run):
    return [run, *(other for need in run.needs.values() for other in chain(need))]


def test_one_that_lacks_and_one_that_is_wrong_are_told_together(weights):
    paths = {"inception": Path("/nowhere/x.pth")}
    with pytest.raises(ValueError) as told:
        data.resolve_paths(("inception", "sd-vae"), paths, SITE)
    said = str(told.value)
    assert "set `sd-vae` under [data]" in said and "[data] inception in site.toml" in said
    assert "there is no file /nowhere/x.pth; expected the weights of torch-fidelity" in said


def test_a_folder_that_holds_no_autoencoder(weights):
    (weights["sd-vae"] / "diffusion_pytorch_model.safetensors").unlink()
    refused(weights, r"sd-vae in site\.toml: .* has no weights; expected diffusion_pytorch_model")
    (weights["sd-vae"] / "config.json").unlink()
    refused(weights, r"has no config\.json; expected the folder of diffusers' AutoencoderKL")


def test_a_reference_that_is_another_file(weights):
    path = weights["imagenet-reference"]
    np.savez(path, arr_0=np.zeros(1), mu=np.zeros(1))
    refused(weights, r"lacks sigma, mu_s, sigma_s; expected ADM's reference batch")
    path.write_bytes(path.read_bytes()[:-30])
    refused(weights, r"is not a whole \.npz file; copy it again")
    path.unlink()
    refused(weights, r"there is no file .*reference\.npz; expected ADM's reference batch")
