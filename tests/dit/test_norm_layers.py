"""Analysis of the norm layers of a trained diffusion transformer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dyt.norm_analysis import record_norms, to_arrays
from dyt_dit import latents, norm_layers, release_weights, training, weights_import
from dyt_dit.config import ReleasedWeights
from dyt_dit.diffusion import Diffusion
from dyt_dit.latent_cache import Latents
from dyt_dit.model import build
from dyt_dit.sources import DIT_XL2_WEIGHTS
from matched.training.fingerprint import batch_digest

from .tiny import DYT, ENCODING, NETWORK, OWN, TRAINING, context, fingerprint, run


@pytest.mark.parametrize(("arm", "norm"), [("LN", OWN), ("DyT", DYT)])
def test_analyze_records_every_norm_layer(tmp_path, arm, norm):
    config = replace(TRAINING, norm=norm, epochs=1)
    needs = {"latents": tmp_path / "latents"}
    run(latents.encode, needs["latents"], ENCODING)
    needs["trained"] = tmp_path / "trained"
    run(training.train, needs["trained"], config, needs=needs)
    outcome = run(norm_layers.analyze, tmp_path / "analysis", config, needs=needs)
    arrays = np.load(tmp_path / "analysis/norm_layers.npz")
    assert len(arrays["path"]) == 2 * config.network.depth + 1
    assert arrays["x0"].shape == (64, config.network.width)
    model, paths = build(config)
    release_weights.load(model, needs["trained"] / "weights.pt")  # the EMA weights
    held_out = training.HeldOutLoss(
        Latents(needs["latents"], "held_out"),
        Diffusion(1000),
        config,
        context(tmp_path / "analysis"),
        torch.device("cpu"),
    )
    x, labels, t, noise = held_out.batch(range(32))
    noised = Diffusion(1000).noised(x, t, noise)
    records = record_norms(model, lambda: model(noised, t, labels), paths=paths, seed=config.seed)
    assert np.array_equal(arrays["x3"], to_arrays(records)["x3"])
    digests = {"weights": "none", "batches": [batch_digest([x, labels, t, noise])]}
    assert fingerprint(tmp_path / "analysis") == digests
    assert np.isnan(arrays["alpha"]).all() == (arm == "LN")
    assert 0 < outcome.metrics["linear_share"] <= 100
    assert (tmp_path / "analysis" / outcome.details["picture"]).is_file()


def test_analyze_reads_weights_of_the_release(tmp_path):
    model, _ = build(TRAINING)
    file = tmp_path / "DiT.pt"
    torch.save(release_weights.to_release(model, model.state_dict()), file)
    config = ReleasedWeights(network=NETWORK)
    data = {"dit-xl2-weights": file}
    run(weights_import.import_weights, tmp_path / "imported", config, data=data)
    needs = {"latents": tmp_path / "latents", "trained": tmp_path / "imported"}
    run(latents.encode, needs["latents"], ENCODING)
    run(norm_layers.analyze, tmp_path / "analysis", TRAINING, needs=needs)
    arrays = np.load(tmp_path / "analysis/norm_layers.npz")
    assert len(arrays["path"]) == 2 * NETWORK.depth + 1
    deeper = replace(config, network=replace(NETWORK, depth=3))
    with pytest.raises(ValueError, match=r"does not fit .* keys differ"):
        run(weights_import.import_weights, tmp_path / "other", deeper, data=data)


def test_missing_release_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected the weights of DiT-XL/2, DiT-XL-2-256x256\.pt"):
        DIT_XL2_WEIGHTS.check(tmp_path / "none.pt")
