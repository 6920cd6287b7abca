"""Sampling: which images come out, whatever the interruptions, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dyt_dit import sampling
from dyt_dit.config import Sampling

from .tiny import DYT, NETWORK, SAMPLING, TRAINING, context, fingerprint, sampled, trained


@pytest.fixture(scope="module")
def there(digits, tmp_path_factory):
    """Directories of trainings with LN and with DyT, of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    short = replace(TRAINING, epochs=1)
    trained(folder / "LN", short, digits)
    trained(folder / "DyT", replace(short, norm=DYT, zero_init=False), digits)
    return folder


@pytest.fixture(scope="module")
def whole(there, tmp_path_factory):
    """Directory of a set sampled without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "LN"
    sampled(folder, SAMPLING, there / "LN")
    return folder


@pytest.fixture
def other(there, tmp_path):
    """Directory of another training of the same network."""
    (tmp_path / "other").mkdir()
    state = torch.load(there / "LN" / "weights.pt", weights_only=True)
    torch.save({**state, "ema": state["model"]}, tmp_path / "other" / "weights.pt")
    return tmp_path / "other"


def images(directory):
    with np.load(directory / "samples.npz") as found:
        return found["arr_0"], found["arr_1"]


def test_the_set_is_what_adms_suite_reads(whole):
    pictures, labels = images(whole)
    assert pictures.shape == (50, 8, 8, 3) and pictures.dtype == np.uint8
    assert labels.shape == (50,) and set(labels) <= set(range(10)) and len(set(labels)) > 5
    assert pictures.std() > 10, "no even grey"
    assert np.array_equal(pictures[..., 0], pictures[..., 2]), "digits are grey"
    assert not (whole / "shards").exists()
    assert len(np.unique(pictures.reshape(50, -1), axis=0)) == 50


def test_seed_and_place_decide_an_image(there, whole, tmp_path):
    pictures, labels = images(whole)
    longer = sampled(tmp_path / "a", replace(SAMPLING, count=64), there / "LN")
    assert longer.metrics == {"images": 64} and longer.steps == 4
    more, more_labels = images(tmp_path / "a")
    assert np.array_equal(more_labels[:50], labels)
    assert np.array_equal(more[:48], pictures[:48]), "files that are computed alike are alike"
    sampled(tmp_path / "b", replace(SAMPLING, seed=1), there / "LN")
    other, other_labels = images(tmp_path / "b")
    assert not np.array_equal(other_labels, labels) and not np.array_equal(other, pictures)


def test_both_arms_begin_with_the_same_noise_and_classes(there, whole, tmp_path):
    sampled(tmp_path / "x", replace(SAMPLING, norm=DYT), there / "DyT")
    assert fingerprint(tmp_path / "x") == fingerprint(whole)
    sampled(tmp_path / "y", replace(SAMPLING, norm=DYT, seed=1), there / "DyT")
    assert fingerprint(tmp_path / "y") != fingerprint(whole)
    assert not np.array_equal(images(tmp_path / "x")[0], images(whole)[0])


def test_the_average_is_sampled_and_not_the_last_weights(there, tmp_path):
    state = torch.load(there / "LN" / "weights.pt", weights_only=True)
    state["model"] = {name: t * float("nan") for name, t in state["model"].items()}
    (tmp_path / "trained").mkdir()
    torch.save(state, tmp_path / "trained" / "weights.pt")
    sampled(tmp_path / "x", SAMPLING, tmp_path / "trained")
    assert images(tmp_path / "x")[0].std() > 10


class Cut(Exception):
    """Stands for whatever ends a process."""


def test_killed_between_two_files_it_makes_those_that_are_missing(
    there, whole, tmp_path, monkeypatch
):
    made = []
    make = sampling.Sampler.__call__

    def cut(self, name, path):
        if len(made) == 2:
            raise Cut
        made.append(name)
        make(self, name, path)

    monkeypatch.setattr(sampling.Sampler, "__call__", cut)
    with pytest.raises(Cut):
        sampled(tmp_path / "LN", SAMPLING, there / "LN")
    assert made == ["000000.npy", "000001.npy"]

    def rest(self, name, path):
        made.append(name)
        make(self, name, path)

    monkeypatch.setattr(sampling.Sampler, "__call__", rest)
    sampled(tmp_path / "LN", SAMPLING, there / "LN")
    assert made == ["000000.npy", "000001.npy", "000002.npy", "000003.npy"]
    assert (tmp_path / "LN/samples.npz").read_bytes() == (whole / "samples.npz").read_bytes()


def test_killed_after_the_set_was_whole_nothing_is_sampled_again(
    there, whole, tmp_path, monkeypatch
):
    sampled(tmp_path / "x", SAMPLING, there / "LN")
    (tmp_path / "x" / "result.json").unlink()
    monkeypatch.setattr(sampling.Sampler, "__call__", None)
    assert sampled(tmp_path / "x", SAMPLING, there / "LN").metrics == {"images": 50}


@pytest.mark.parametrize("files", [2, 4])
def test_no_image_of_other_weights_stays(there, whole, other, tmp_path, monkeypatch, files):
    """The training was begun anew since the sampling was cut."""
    made = []
    make = sampling.Sampler.__call__

    def cut(self, name, path):
        make(self, name, path)
        made.append(name)
        if len(made) == files:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(sampling.Sampler, "__call__", cut)
        with pytest.raises(Cut):
            sampled(tmp_path / "x", SAMPLING, other)
    sampled(tmp_path / "x", SAMPLING, there / "LN")
    assert (tmp_path / "x/samples.npz").read_bytes() == (whole / "samples.npz").read_bytes()


def test_a_set_of_other_weights_is_made_anew(there, whole, other, tmp_path):
    sampled(tmp_path / "x", SAMPLING, other)
    sampled(tmp_path / "x", SAMPLING, there / "LN")
    assert (tmp_path / "x/samples.npz").read_bytes() == (whole / "samples.npz").read_bytes()


def test_a_damaged_set_is_made_again(there, whole, tmp_path):
    sampled(tmp_path / "x", SAMPLING, there / "LN")
    file = tmp_path / "x" / "samples.npz"
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)
    sampled(tmp_path / "x", SAMPLING, there / "LN")
    assert file.read_bytes() == (whole / "samples.npz").read_bytes()


def test_guidance_changes_images_and_not_their_classes(there, whole, tmp_path):
    sampled(tmp_path / "x", replace(SAMPLING, cfg_scale=1.5), there / "LN")
    pictures, labels = images(whole)
    guided, guided_labels = images(tmp_path / "x")
    assert np.array_equal(labels, guided_labels) and not np.array_equal(pictures, guided)


def test_a_training_that_diverged_has_no_images(digits, tmp_path):
    trained(tmp_path / "trained", replace(TRAINING, lr=1e6), digits)
    outcome = sampled(tmp_path / "x", SAMPLING, tmp_path / "trained")
    assert outcome.diverged and outcome.metrics == {}
    assert outcome.details == {"reason": "the training diverged"}


class TestWhatIsRefused:
    def refused(self, there, tmp_path, config, message):
        with pytest.raises(ValueError, match=message):
            sampling.generate(context(tmp_path / "x", needs={"trained": there}), config)

    def test_another_network(self, there, tmp_path):
        """Of other heads, which no shape tells."""
        other = replace(SAMPLING, network=replace(NETWORK, heads=2))
        self.refused(there / "LN", tmp_path, other, r"weights\.pt is of .*'heads': 4.*, not of")

    def test_another_diffusion(self, there, tmp_path):
        message = r"weights\.pt has learned a diffusion of 1000 steps, not of 500"
        self.refused(there / "LN", tmp_path, replace(SAMPLING, diffusion_steps=500), message)

    def test_another_norm(self, there, tmp_path):
        self.refused(there / "DyT", tmp_path, SAMPLING, "5 keys differ, the first: blocks.0.norm1")

    def test_another_autoencoder(self, there, tmp_path):
        state = torch.load(there / "LN" / "weights.pt", weights_only=True)
        (tmp_path / "trained").mkdir()
        torch.save({**state, "autoencoder": "abc"}, tmp_path / "trained" / "weights.pt")
        message = "latents of the autoencoder abc, and .* is pixels"
        self.refused(tmp_path / "trained", tmp_path, SAMPLING, message)

    def test_weights_of_an_earlier_version(self, there, tmp_path):
        state = torch.load(there / "LN" / "weights.pt", weights_only=True)
        (tmp_path / "trained").mkdir()
        torch.save({"ema": state["ema"], "model": {}}, tmp_path / "trained" / "weights.pt")
        message = (
            r"weights\.pt lacks network, diffusion_steps, autoencoder\. The training has ended"
        )
        self.refused(tmp_path / "trained", tmp_path, SAMPLING, message)

    def test_lost_weights(self, tmp_path):
        message = "no checkpoint .*weights.pt.*delete .*result.json and submit again"
        self.refused(tmp_path, tmp_path, SAMPLING, message)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"steps": 1001}, "steps is 1001; the diffusion has 1000"),
            ({"cfg_scale": 0.5}, "cfg_scale is 0.5; expected 1"),
            ({"autoencoder": "vae"}, "autoencoder is 'vae'; expected 'kl' or 'pixels'"),
            ({"precision": "fp8"}, "precision is 'fp8'; expected 'fp32' or 'tf32'"),
            ({"count": 0}, "count is 0; expected a whole number"),
        ],
    )
    def test_settings_that_make_no_sense(self, setting, message):
        with pytest.raises(ValueError, match=message):
            replace(SAMPLING, **setting)


def test_the_paper_samples_in_250_steps_without_guidance():
    config = Sampling(network=NETWORK)
    assert (config.steps, config.count, config.cfg_scale) == (250, 50000, 1.0)


def test_its_result_is_whole(whole):
    assert json.loads((whole / "result.json").read_text())["metrics"] == {"images": 50}
