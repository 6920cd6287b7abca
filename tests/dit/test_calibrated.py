"""The arm "DyT (calibrated)" of diffusion transformers: α fitted to noised training latents."""

from dataclasses import replace
from functools import partial

import torch

from dyt import Norm, alphas
from dyt_dit.diffusion import Diffusion
from dyt_dit.latent_cache import Latents
from dyt_dit.model import build
from dyt_dit.training import AddNoise, HybridLoss, run_on_latents
from matched.training import reseed
from matched.training.batches import seeded_batch

from .tiny import DYT, SAMPLING, TRAINING, fingerprint, sampled, states, trained

NORM = Norm.dyt("calibrated")
CALIBRATED = replace(TRAINING, norm=NORM, zero_init=False, epochs=1)


def built(config, digits):
    dataset = Latents(digits, "train", config.flip)
    return build(config, partial(run_on_latents, dataset, config))[0]


def test_calibrated_alpha_fits_latents_of_the_seed(digits):
    first, again = (built(CALIBRATED, digits) for _ in range(2))
    assert alphas(first) == alphas(again)
    assert all(value != 0.5 for value in alphas(first).values())
    assert alphas(built(replace(CALIBRATED, seed=1), digits)) != alphas(first)
    plain = built(replace(CALIBRATED, norm=DYT), digits).state_dict()
    for name, value in first.state_dict().items():
        if not name.endswith("alpha"):
            assert torch.equal(plain[name], value), name


def test_run_on_latents_draws_latents_and_noise_from_the_seed(digits):
    dataset, config = Latents(digits, "train", 0.5), replace(CALIBRATED, seed=5, norm=DYT)
    model = built(config, digits)
    found = run_on_latents(dataset, config, model)
    latents = seeded_batch(dataset, 64, 5, "calibration")
    reseed(5, "calibration", "noise")
    assert torch.equal(found, HybridLoss(Diffusion(1000))(model, AddNoise(config)(latents)))


def test_calibrated_training_matches_and_its_weights_give_samples(digits, tmp_path):
    trained(tmp_path / "LN", replace(TRAINING, epochs=1), digits)
    trained(tmp_path / "calibrated", CALIBRATED, digits)
    assert fingerprint(tmp_path / "LN") == fingerprint(tmp_path / "calibrated")
    assert states(tmp_path / "calibrated")["model"]["blocks.0.norm1.alpha"].item() != 0.5
    outcome = sampled(tmp_path / "samples", replace(SAMPLING, norm=NORM), tmp_path / "calibrated")
    assert not outcome.diverged
