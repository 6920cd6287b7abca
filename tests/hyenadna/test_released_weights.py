"""Released weights as the start of fine-tuning: both packages, other networks, the DyT arm."""

from dataclasses import replace

import pytest
import torch

from dyt import Norm
from dyt_caduceus import finetuning as caduceus_finetuning
from dyt_caduceus import released_weights as caduceus_weights
from dyt_caduceus import weights as caduceus_names
from dyt_caduceus.config import FineTuning as CaduceusTuning
from dyt_caduceus.config import ReleasedWeights as CaduceusWeights
from dyt_caduceus.model import build_language_model as build_caduceus
from dyt_caduceus.network_config import CaduceusNetwork
from dyt_hyenadna import finetuning, released_weights, weights
from dyt_hyenadna.config import ReleasedWeights
from dyt_hyenadna.model import build_language_model
from matched import Run
from matched.run import derive_run

from .chain import LENGTH, NETWORK, SHORT, TASK, TUNING, context, learner, run

CADUCEUS = CaduceusNetwork(width=8, layers=1, d_state=2, strand_exchange=True)


@pytest.fixture(params=["hyenadna", "caduceus"])
def released(request, tmp_path):
    """Return package, task, config, fine-tuning module and config, and a folder with weights."""
    folder = tmp_path / "released"
    folder.mkdir()
    if request.param == "hyenadna":
        state = weights.official_state(build_language_model(NETWORK, 3).state_dict(), "lightning")
        torch.save({"state_dict": state, "epoch": 1}, folder / "weights.ckpt")
        config = ReleasedWeights(network=NETWORK)
        return released_weights, config, finetuning.train, TUNING, folder
    state = caduceus_names.official_state(build_caduceus(CADUCEUS, 3).state_dict(), "huggingface")
    torch.save(state, folder / "pytorch_model.bin")
    tuning = CaduceusTuning(
        **SHORT, network=CADUCEUS, task=TASK, max_length=LENGTH, split=1, train_samples=16, epochs=1
    )
    config = CaduceusWeights(network=CADUCEUS)
    return caduceus_weights, config, caduceus_finetuning.train, tuning, folder


def imported(directory, module, config, path):
    """Import weights; return the outcome."""
    return module.import_weights(context(directory, data={config.data: path}), config)


def test_fine_tuning_starts_from_released_weights(monkeypatch, tmp_path, genome, released):
    module, config, train, tuning, folder = released
    outcome = imported(tmp_path / "start", module, config, folder)
    assert outcome.details["weights"]
    needs = {"benchmarks": genome, "pretrained": tmp_path / "start"}
    caught = learner(monkeypatch, finetuning, train, tmp_path / "run", tuning, **needs)
    build = build_language_model if module is released_weights else build_caduceus
    expected = build(config.network, 3).state_dict()
    state = caught.model.state_dict()
    assert set(state) - set(caught.inherited) == {"head.weight", "head.bias"}
    for name in caught.inherited:
        assert torch.equal(state[name], expected[name]), name


def test_released_weights_train_a_classifier(tmp_path, genome, released):
    module, config, train, tuning, folder = released
    imported(tmp_path / "start", module, config, folder)
    needs = {"benchmarks": genome, "pretrained": tmp_path / "start"}
    outcome, _ = run(train, tmp_path / "run", replace(tuning, epochs=1), **needs)
    assert outcome.steps > 0 and 0 <= outcome.metrics["accuracy"] <= 100


def test_released_weights_of_another_width_are_refused(tmp_path, released):
    module, config, _, _, folder = released
    wider = replace(config, network=replace(config.network, width=16))
    with pytest.raises(ValueError, match=r"keys differ, the first: .*Nothing was loaded") as error:
        imported(tmp_path / "start", module, wider, folder)
    assert "\n" not in str(error.value) and not list((tmp_path / "start").glob("*.pth"))


def test_released_weights_missing_in_folder_are_named(tmp_path, released):
    module, config, _, _, folder = released
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"released has n.* weights.ckpt"):
        imported(tmp_path / "start", module, config, folder)


def test_plain_path_of_caduceus_refuses_fused_weights(tmp_path):
    state = caduceus_names.official_state(build_caduceus(CADUCEUS, 3).state_dict(), "huggingface")
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = CaduceusWeights(network=replace(CADUCEUS, strand_exchange=False))
    with pytest.raises(ValueError, match="set variant and strand_exchange as the weights have"):
        imported(tmp_path / "start", caduceus_weights, config, tmp_path)


def test_dyt_arm_of_released_weights_is_refused_at_planning(released):
    module, config, *_ = released
    start = Run(task=f"{module.__name__}:import_weights", config=config)
    assert derive_run(start, norm=Norm.own()) == start
    with pytest.raises(ValueError, match=r"expected Norm\.own.*: pretrain the other arms"):
        derive_run(start, norm=Norm.dyt())
