"""Sampling: contents of the image set, resume, stale images, and rejected inputs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dyt_dit import sampling
from dyt_dit.config import Sampling
from matched.training.fingerprint import batch_digest
from matched.training.seeding import generator

from ..messages import refused
from .tiny import DYT, NETWORK, SAMPLING, TRAINING, context, fingerprint, sampled, trained


@pytest.fixture(scope="module")
def trainings(digits, tmp_path_factory):
    """Folder of one-epoch trainings with LN and with DyT."""
    folder = tmp_path_factory.mktemp("trained")
    short = replace(TRAINING, epochs=1)
    trained(folder / "LN", short, digits)
    trained(folder / "DyT", replace(short, norm=DYT, zero_init=False), digits)
    return folder


@pytest.fixture(scope="module")
def sampling_run(trainings, tmp_path_factory):
    """Directory of a sampling run without interruption."""
    folder = tmp_path_factory.mktemp("run") / "LN"
    sampled(folder, SAMPLING, trainings / "LN")
    return folder


@pytest.fixture
def other_training(trainings, tmp_path):
    """Directory of another training of the same network, with other EMA weights."""
    (tmp_path / "other_training").mkdir()
    state = torch.load(trainings / "LN" / "weights.pt", weights_only=True)
    torch.save({**state, "ema": state["model"]}, tmp_path / "other_training" / "weights.pt")
    return tmp_path / "other_training"


def images(directory):
    with np.load(directory / "samples.npz") as arrays:
        return arrays["arr_0"], arrays["arr_1"]


def test_samples_have_adm_layout(sampling_run):
    pictures, labels = images(sampling_run)
    assert pictures.shape == (50, 8, 8, 3) and pictures.dtype == np.uint8
    assert labels.shape == (50,) and set(labels) <= set(range(10)) and len(set(labels)) > 5
    assert pictures.std() > 10, "images are not uniform gray"
    assert np.array_equal(pictures[..., 0], pictures[..., 2]), "digits are gray"
    assert not (sampling_run / "batches").exists()
    assert len(np.unique(pictures.reshape(50, -1), axis=0)) == 50


def test_image_depends_only_on_seed_and_index(trainings, sampling_run, tmp_path):
    pictures, labels = images(sampling_run)
    longer = sampled(tmp_path / "a", replace(SAMPLING, count=64), trainings / "LN")
    assert longer.metrics == {"images": 64} and longer.steps == 4
    more, more_labels = images(tmp_path / "a")
    assert np.array_equal(more_labels[:50], labels)
    assert np.array_equal(more[:48], pictures[:48]), "batches of the same images are identical"
    sampled(tmp_path / "b", replace(SAMPLING, seed=1), trainings / "LN")
    other, other_labels = images(tmp_path / "b")
    assert not np.array_equal(other_labels, labels) and not np.array_equal(other, pictures)


def test_arms_share_initial_noise_and_classes(trainings, sampling_run, tmp_path):
    sampled(tmp_path / "x", replace(SAMPLING, norm=DYT), trainings / "DyT")
    assert fingerprint(tmp_path / "x") == fingerprint(sampling_run)
    sampled(tmp_path / "y", replace(SAMPLING, norm=DYT, seed=1), trainings / "DyT")
    assert fingerprint(tmp_path / "y") != fingerprint(sampling_run)
    assert not np.array_equal(images(tmp_path / "x")[0], images(sampling_run)[0])


def test_generate_uses_ema_weights(trainings, tmp_path):
    state = torch.load(trainings / "LN" / "weights.pt", weights_only=True)
    state["model"] = {name: t * float("nan") for name, t in state["model"].items()}
    (tmp_path / "trained").mkdir()
    torch.save(state, tmp_path / "trained" / "weights.pt")
    sampled(tmp_path / "x", SAMPLING, tmp_path / "trained")
    assert images(tmp_path / "x")[0].std() > 10


class Cut(Exception):
    """Exception that ends a run like a crash."""


def test_generate_resumes_with_missing_files(trainings, sampling_run, tmp_path, monkeypatch):
    sampled_files = []
    sample_file = sampling.ImageSampler.__call__

    def cut(self, name, path):
        if len(sampled_files) == 2:
            raise Cut
        sampled_files.append(name)
        sample_file(self, name, path)

    monkeypatch.setattr(sampling.ImageSampler, "__call__", cut)
    with pytest.raises(Cut):
        sampled(tmp_path / "LN", SAMPLING, trainings / "LN")
    assert sampled_files == ["000000.npy", "000001.npy"]

    def record(self, name, path):
        sampled_files.append(name)
        sample_file(self, name, path)

    monkeypatch.setattr(sampling.ImageSampler, "__call__", record)
    sampled(tmp_path / "LN", SAMPLING, trainings / "LN")
    assert sampled_files == ["000000.npy", "000001.npy", "000002.npy", "000003.npy"]
    assert (tmp_path / "LN/samples.npz").read_bytes() == (sampling_run / "samples.npz").read_bytes()


def test_generate_reuses_complete_samples(trainings, sampling_run, tmp_path, monkeypatch):
    sampled(tmp_path / "x", SAMPLING, trainings / "LN")
    (tmp_path / "x" / "result.json").unlink()
    monkeypatch.setattr(sampling.ImageSampler, "__call__", None)
    assert sampled(tmp_path / "x", SAMPLING, trainings / "LN").metrics == {"images": 50}


@pytest.mark.parametrize("files", [2, 4])
def test_partial_images_of_other_weights_are_removed(
    trainings, sampling_run, other_training, tmp_path, monkeypatch, files
):
    """The training was started again after the sampling was interrupted."""
    sampled_files = []
    sample_file = sampling.ImageSampler.__call__

    def cut(self, name, path):
        sample_file(self, name, path)
        sampled_files.append(name)
        if len(sampled_files) == files:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(sampling.ImageSampler, "__call__", cut)
        with pytest.raises(Cut):
            sampled(tmp_path / "x", SAMPLING, other_training)
    sampled(tmp_path / "x", SAMPLING, trainings / "LN")
    assert (tmp_path / "x/samples.npz").read_bytes() == (sampling_run / "samples.npz").read_bytes()


def test_complete_samples_of_other_weights_are_replaced(
    trainings, sampling_run, other_training, tmp_path, caplog
):
    warning = "the existing images were sampled with other weights and are sampled again"
    sampled(tmp_path / "x", SAMPLING, other_training)
    sampled(tmp_path / "x", SAMPLING, other_training)
    assert warning not in caplog.messages
    sampled(tmp_path / "x", SAMPLING, trainings / "LN")
    assert caplog.messages.count(warning) == 1
    assert (tmp_path / "x/samples.npz").read_bytes() == (sampling_run / "samples.npz").read_bytes()


def test_damaged_samples_are_sampled_again(trainings, sampling_run, tmp_path):
    sampled(tmp_path / "x", SAMPLING, trainings / "LN")
    file = tmp_path / "x" / "samples.npz"
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)
    sampled(tmp_path / "x", SAMPLING, trainings / "LN")
    assert file.read_bytes() == (sampling_run / "samples.npz").read_bytes()


def test_sampling_fingerprint_is_that_of_the_first_batch(sampling_run):
    """Of the classes of all images, and of the initial noise of a batch."""
    labels = torch.randint(10, (50,), generator=generator(0, "classes"))
    noise = [torch.randn(1, 8, 8, generator=generator(0, "image", i)) for i in range(16)]
    assert fingerprint(sampling_run) == {
        "weights": "none",
        "batches": [batch_digest([labels, torch.stack(noise)])],
    }
    assert images(sampling_run)[1].tolist() == labels.tolist()


def test_sampler_guidance_has_scale_and_unlabelled_class(trainings, tmp_path, monkeypatch):
    guided = []
    monkeypatch.setattr(sampling, "classifier_free_guidance", lambda *given: guided.append(given))
    for scale in (1.0, 1.25):
        config = replace(SAMPLING, cfg_scale=scale)
        sampling.ImageSampler(
            context(tmp_path), config, trainings / "LN", torch.zeros(50), torch.device("cpu")
        )
    ((model, scale, no_label),) = guided
    assert (scale, no_label) == (1.25, 10) and not model.training


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True)])
def test_sampler_allows_tf32_by_precision(trainings, tmp_path, precision, allowed):
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = not allowed
        config = replace(SAMPLING, precision=precision)
        sampling.ImageSampler(
            context(tmp_path), config, trainings / "LN", torch.zeros(50), torch.device("cpu")
        )
        assert [backend.allow_tf32 for backend in backends] == [allowed, allowed]
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def test_cfg_scale_changes_images_but_not_classes(trainings, sampling_run, tmp_path):
    sampled(tmp_path / "x", replace(SAMPLING, cfg_scale=1.5), trainings / "LN")
    pictures, labels = images(sampling_run)
    guided, guided_labels = images(tmp_path / "x")
    assert np.array_equal(labels, guided_labels) and not np.array_equal(pictures, guided)


def test_generate_after_diverged_training(digits, tmp_path):
    trained(tmp_path / "trained", replace(TRAINING, lr=1e6), digits)
    outcome = sampled(tmp_path / "x", SAMPLING, tmp_path / "trained")
    assert outcome.diverged and outcome.metrics == {}
    assert outcome.details == {"reason": "the training diverged"}


class TestRejectedInputs:
    def refused(self, training, tmp_path, config, message):
        with pytest.raises(ValueError, match=message):
            sampling.generate(context(tmp_path / "x", needs={"trained": training}), config)

    def test_generate_refuses_weights_of_another_network(self, trainings, tmp_path):
        """The number of heads changes no shape."""
        config = replace(SAMPLING, network=replace(NETWORK, heads=2))
        message = r"weights\.pt has weights of .*'heads': 4.*; expected those of"
        self.refused(trainings / "LN", tmp_path, config, message)

    def test_generate_refuses_other_diffusion_steps(self, trainings, tmp_path):
        message = r"weights\.pt was trained with 1000 diffusion steps; expected 500"
        self.refused(trainings / "LN", tmp_path, replace(SAMPLING, diffusion_steps=500), message)

    def test_generate_refuses_weights_of_another_norm(self, trainings, tmp_path):
        self.refused(
            trainings / "DyT", tmp_path, SAMPLING, "5 keys differ, the first: blocks.0.norm1"
        )

    def test_generate_refuses_another_autoencoder(self, trainings, tmp_path):
        state = torch.load(trainings / "LN" / "weights.pt", weights_only=True)
        (tmp_path / "trained").mkdir()
        torch.save({**state, "autoencoder": "abc"}, tmp_path / "trained" / "weights.pt")
        message = (
            "weights.pt was trained on latents of the autoencoder abc, and `sd-vae` in site.toml "
            "is pixels; use the autoencoder that made the latents$"
        )
        self.refused(tmp_path / "trained", tmp_path, SAMPLING, message)

    def test_generate_names_what_is_missing_in_the_weights(self, trainings, tmp_path):
        state = torch.load(trainings / "LN" / "weights.pt", weights_only=True)
        (tmp_path / "trained").mkdir()
        file = tmp_path / "trained" / "weights.pt"
        torch.save({"model": state["model"], "network": state["network"]}, file)
        found = refused(
            sampling.generate,
            context(tmp_path / "x", needs={"trained": tmp_path / "trained"}),
            SAMPLING,
        )
        assert found == (
            f"{file} lacks ema, diffusion_steps, autoencoder. The training is done: delete "
            f"{tmp_path / 'trained' / 'result.json'} and submit again to write the file from its "
            "last checkpoint"
        )

    def test_generate_refuses_weights_without_settings(self, trainings, tmp_path):
        state = torch.load(trainings / "LN" / "weights.pt", weights_only=True)
        (tmp_path / "trained").mkdir()
        torch.save({"ema": state["ema"], "model": {}}, tmp_path / "trained" / "weights.pt")
        message = r"weights\.pt lacks network, diffusion_steps, autoencoder\. The training is done"
        self.refused(tmp_path / "trained", tmp_path, SAMPLING, message)

    def test_generate_refuses_missing_weights(self, tmp_path):
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
    def test_sampling_config_refuses_invalid_values(self, setting, message):
        with pytest.raises(ValueError, match=message):
            replace(SAMPLING, **setting)


def test_sampling_defaults_are_those_of_the_paper():
    config = Sampling(network=NETWORK)
    assert (config.steps, config.count, config.cfg_scale) == (250, 50000, 1.0)


def test_result_has_number_of_images(sampling_run):
    assert json.loads((sampling_run / "result.json").read_text())["metrics"] == {"images": 50}
