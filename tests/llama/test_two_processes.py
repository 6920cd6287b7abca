"""Two processes: equal to one, sharded or not, resumed by one, and as large as estimated."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from dyt_llama import memory, weights

from ..processes import run as run_in_processes
from .tiny import lines, pretrained
from .two_processes_memory import CASES

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def one(glosses_run, tmp_path_factory):
    """Directory of the run in one process."""
    directory = tmp_path_factory.mktemp("one")
    pretrained(directory, glosses_run)
    return directory


@pytest.fixture(scope="module")
def two(glosses_run, tmp_path_factory):
    """Folder of the runs in two processes."""
    folder = tmp_path_factory.mktemp("two")
    run_in_processes(SCRIPT, folder, glosses_run, "ddp", "sharded", "replicated", "interrupted")
    return folder


@pytest.fixture(scope="module")
def two_slow(glosses_run, tmp_path_factory):
    """Folder of the runs in two processes of the slow tests."""
    folder = tmp_path_factory.mktemp("two-slow")
    run_in_processes(SCRIPT, folder, glosses_run, "bf16-params", "bf16-reduce", "memory")
    return folder


def losses(directory):
    return [line["loss"] for line in lines(directory) if "loss" in line]


def fingerprint(directory):
    return json.loads((directory / "fingerprint.json").read_text())


def evaluations(directory):
    return [line["evaluation"] for line in lines(directory) if "evaluation" in line]


@pytest.mark.parametrize("name", ["ddp", "sharded", "replicated"])
def test_two_processes_equal_one_process(one, two, name):
    """Sharded 1 × 2, with recomputed activations, and 2 × 1, with accumulated gradients."""
    assert losses(two / name) == pytest.approx(losses(one), rel=1e-5)
    assert fingerprint(two / name)["weights"] == fingerprint(one)["weights"]
    if name != "replicated":  # whose micro-batches are smaller
        assert fingerprint(two / name) == fingerprint(one)
    for evaluation, expected in zip(evaluations(two / name), evaluations(one), strict=True):
        assert evaluation == pytest.approx(expected, rel=1e-5)
    trained = weights.load(one / "weights").state_dict()
    for key, weight in weights.load(two / name / "weights").state_dict().items():
        torch.testing.assert_close(weight, trained[key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_four_processes_with_two_copies_equal_one_process(one, glosses_run, tmp_path):
    """HSDP, 2 × 2, with accumulated gradients."""
    run_in_processes(SCRIPT, tmp_path, glosses_run, "hybrid", world_size=4)
    assert losses(tmp_path / "hybrid") == pytest.approx(losses(one), rel=1e-5)
    assert fingerprint(tmp_path / "hybrid")["weights"] == fingerprint(one)["weights"]
    trained = weights.load(one / "weights").state_dict()
    for key, weight in weights.load(tmp_path / "hybrid" / "weights").state_dict().items():
        torch.testing.assert_close(weight, trained[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["ddp", "sharded"])
def test_both_processes_have_the_same_outcome(two, name):
    outcomes = [(two / name / f"outcome-{rank}.txt").read_text() for rank in range(2)]
    assert outcomes[0] == outcomes[1] and "'loss'" in outcomes[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bf16-params", "bf16-reduce"])
def test_bf16_params_is_near_fp32_and_keeps_fp32_weights(one, two_slow, name):
    assert losses(two_slow / name) != pytest.approx(losses(one), rel=1e-6)
    assert losses(two_slow / name) == pytest.approx(losses(one), rel=5e-3)
    assert fingerprint(two_slow / name) == fingerprint(one)
    trained = weights.load(two_slow / name / "weights").state_dict()
    assert {weight.dtype for weight in trained.values()} == {torch.float32}


@pytest.mark.slow
def test_bf16_reduce_rounds_gradients_more_than_bf16_params(two_slow):
    assert losses(two_slow / "bf16-reduce") != losses(two_slow / "bf16-params")


def test_one_process_continues_a_sharded_run_of_two(one, two, glosses_run, tmp_path):
    directory = shutil.copytree(two / "interrupted", tmp_path / "run")
    assert not (directory / "weights").exists()
    outcome = pretrained(directory, glosses_run, signature="interrupted")
    assert outcome.steps == 12 and losses(directory) == pytest.approx(losses(one), rel=1e-5)
    assert fingerprint(directory) == fingerprint(one)


@pytest.fixture(scope="module")
def measured(two_slow):
    """Case → bytes that the two processes measured, the larger of both."""
    ranks = [json.loads((two_slow / f"memory-{rank}.json").read_text()) for rank in range(2)]
    return {
        case: {part: max(rank[case][part] for rank in ranks) for part in ranks[0][case]}
        for case in CASES
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_parts_equal_those_of_a_sharded_model(measured, case):
    config, resources = CASES[case]
    estimate = config.memory(resources)
    found = measured[case]
    assert estimate.weights == found["weights"] > 0
    assert estimate.gradients == found["gradients"]
    assert estimate.optimizer == found["optimizer"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_kept_activations_are_those_of_a_sharded_model(measured, case):
    """What autograd keeps, without weights and without the logits of the loss."""
    config, _ = CASES[case]
    tokens = 2 * config.length
    with_loss = 4 * config.network.vocabulary * tokens
    kept = memory.kept_activations(
        config.network, config.norm, config.precision, config.checkpointed
    )
    assert measured[case]["kept"] - with_loss == pytest.approx(tokens * kept, rel=0.03)
