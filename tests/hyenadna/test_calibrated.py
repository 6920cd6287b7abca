"""The arm "DyT (calibrated)" of the DNA runs: α fitted to windows before the pretraining."""

from dataclasses import replace

import pytest
import torch

from dyt import Norm, alphas
from dyt_hyenadna import finetuning, pretraining

from .chain import ARMS, PRETRAINING, TUNING, fingerprint, learner, run

NORM = Norm.dyt("calibrated")


@pytest.fixture(scope="module")
def started(genome, tmp_path_factory):
    """Return the directories of pretrainings with LN and with calibrated DyT."""
    folder = tmp_path_factory.mktemp("pretraining")
    return {
        arm: run(
            pretraining.pretrain, folder / arm, replace(PRETRAINING, norm=norm), genome=genome
        )[1]
        for arm, norm in {"LN": ARMS["LN"], "calibrated": NORM}.items()
    }


def tuned(monkeypatch, directory, genome, **needs):
    config = replace(TUNING, norm=NORM)
    needs = {"benchmarks": genome, **needs}
    return learner(monkeypatch, finetuning, finetuning.train, directory, config, **needs).model


def test_calibrated_pretraining_matches_the_baseline(monkeypatch, started, genome, tmp_path):
    assert fingerprint(started["LN"]) == fingerprint(started["calibrated"])
    config, task = replace(PRETRAINING, norm=NORM), pretraining.pretrain
    first, again = (
        learner(monkeypatch, pretraining, task, tmp_path, config, genome=genome).model
        for _ in range(2)
    )
    assert alphas(first) == alphas(again) != {}
    assert all(value != 0.5 for value in alphas(first).values())


def test_fine_tuning_starts_from_the_pretrained_alpha(monkeypatch, started, genome, tmp_path):
    model = tuned(monkeypatch, tmp_path, genome, pretrained=started["calibrated"])
    expected = pretraining.read_pretrained(started["calibrated"])
    assert alphas(model)
    for path in alphas(model):
        assert torch.equal(model.get_submodule(path).alpha, expected[f"{path}.alpha"])


def test_fine_tuning_from_scratch_is_calibrated(monkeypatch, genome, tmp_path):
    values = alphas(tuned(monkeypatch, tmp_path, genome))
    assert values
    assert all(value != 0.5 for value in values.values())
