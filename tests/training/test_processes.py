"""A run on two processes is the run on one, and only the first process writes."""

import pytest
import torch

from .problem import Trained, same


def test_two_processes_train_as_one_that_accumulates(pair, undisturbed):
    """With dropout, mixup and augmentation: all of it is drawn alike."""
    two = Trained(directory=pair / "own-0")
    assert two.losses == pytest.approx(undisturbed.losses, rel=1e-4)
    assert two.rates == undisturbed.rates
    for name, tensor in two.state["model"].items():
        torch.testing.assert_close(tensor, undisturbed.state["model"][name], rtol=1e-3, atol=1e-4)


def test_only_the_first_process_writes(pair):
    assert {path.name for path in (pair / "own-0").iterdir()} == {
        "checkpoints", "metrics.jsonl", "progress.json", "fingerprint.json",
    }  # fmt: skip
    assert list((pair / "own-1").iterdir()) == []


def test_the_arms_of_a_pair_have_the_same_fingerprint_on_any_number_of_processes(pair, undisturbed):
    own, dyt = (Trained(directory=pair / name) for name in ("own-0", "dyt-0"))
    assert own.json("fingerprint.json") == dyt.json("fingerprint.json")
    assert own.json("fingerprint.json") == undisturbed.json("fingerprint.json")
    assert own.losses[:4] != dyt.losses[:4]


def test_a_process_that_is_early_for_the_next_run_of_a_job_waits_for_the_others(pair):
    early, late, own = (Trained(directory=pair / f"{run}-0") for run in ("early", "late", "own"))
    assert early.losses == pytest.approx(own.losses, rel=1e-6)
    assert late.losses != early.losses
    assert late.checkpoints == early.checkpoints


def test_a_run_on_two_processes_that_was_cut_ends_the_same(pair, resumed):
    assert Trained(directory=pair / "cut").checkpoints == ["step_00000005.pt"]
    cut, own = Trained(directory=resumed / "cut"), Trained(directory=pair / "own-0")
    assert cut.lines == own.lines
    assert cut.json("fingerprint.json") == own.json("fingerprint.json")
    assert same(cut.state, own.state)


def test_all_processes_evaluate_the_same_running_statistics(pair):
    said = [(pair / "said" / f"normed-{rank}.txt").read_text() for rank in range(2)]
    told = [[x for x in text.splitlines() if x.startswith("buffers")] for text in said]
    assert told[0] == told[1] and len(set(told[0])) == len(told[0]) >= 4


def test_what_fails_on_the_first_process_ends_the_others_too(pair):
    for rank in range(2):
        said = (pair / "said" / f"lost-{rank}.txt").read_text()
        assert "ended by LeaseLostError: another process is at work" in said


def test_a_process_that_fails_ends_although_another_is_far_behind(pair):
    """Else nobody would end the other, which may never come."""
    assert (pair / "said" / "left-alone").read_text() == "ended first: True"
