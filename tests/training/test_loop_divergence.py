"""Divergence in the training loop: detection, outcome, files, resumption."""

from dataclasses import replace

import pytest

from .problem import CONFIG, PLAIN, Crash, CrashAt, NaNFrom, assert_same_run, train


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_outcome_has_the_best_metrics_before(tmp_path, value):
    errors = iter([2.0, 1.0, 1.5])
    run = train(tmp_path, loss=NaNFrom(9, value), evaluate=lambda model: {"error": next(errors)})
    assert run.outcome.diverged
    assert run.outcome.metrics == {"error": 1.0}
    assert run.outcome.best == {"error": 1.0, "step": 6}
    assert run.outcome.steps == 10


def test_diverged_metrics_line_has_loss_null(tmp_path, uninterrupted):
    run = train(tmp_path, loss=NaNFrom(7))
    before = [line for line in uninterrupted.lines if line["step"] < 8]
    assert run.lines[:-1] == before
    assert run.lines[-1] == {
        **uninterrupted.lines[len(before)],
        "loss": None,
        "gradient_norm": None,
    }
    assert run.json("progress.json")["steps"] == 12


def test_divergence_is_detected_at_the_next_logged_line(tmp_path):
    run = train(tmp_path, replace(CONFIG, log_steps=50), loss=NaNFrom(6))
    assert run.outcome.diverged and run.outcome.steps == 9


def test_diverged_before_any_evaluation_has_no_metrics(tmp_path):
    run = train(tmp_path, loss=NaNFrom(0))
    assert run.outcome.diverged
    assert run.outcome.metrics == run.outcome.best == {}


def test_log_names_the_step_of_the_divergence(tmp_path, caplog):
    with caplog.at_level("INFO", logger="matched"):
        train(tmp_path, loss=NaNFrom(7))
    assert "diverged at step 8: the loss is nan" in caplog.text


def test_log_names_step_and_values_of_a_diverged_evaluation(tmp_path, caplog):
    errors = iter([3.0, float("inf")])
    with caplog.at_level("INFO", logger="matched"):
        train(tmp_path, evaluate=lambda model: {"error": next(errors), "other": 1.0})
    assert "diverged at step 6: the evaluation is {'error': inf, 'other': 1.0}" in caplog.messages


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_evaluation_diverges_in_the_last_step(tmp_path, value, caplog):
    # Every loss is computed before its step: only the evaluation detects an overflow in the last.
    errors = iter([3.0, 2.0, 1.0, value])
    with caplog.at_level("INFO", logger="matched"):
        run = train(tmp_path, evaluate=lambda model: {"error": next(errors), "other": 1.0})
    assert run.outcome.diverged
    assert run.outcome.metrics == {"error": 1.0, "other": 1.0}
    assert run.outcome.best["step"] == 9
    assert run.lines[-1]["evaluation"] == {"error": None, "other": 1.0}
    assert run.json("progress.json")["shown"]["error"] is None
    assert "diverged at step 12" in caplog.text


def test_restarted_diverged_run_gives_the_same_result(tmp_path):
    once = train(tmp_path / "once", loss=NaNFrom(7))
    train(tmp_path / "again", loss=NaNFrom(7))
    assert_same_run(train(tmp_path / "again", loss=CrashAt(0)), once)


def test_crash_between_nan_and_its_detection_keeps_the_step(tmp_path):
    config = replace(CONFIG, log_steps=50)
    once = train(tmp_path / "once", config, loss=NaNFrom(3))
    with pytest.raises(Crash):
        train(tmp_path / "crashed", config, loss=CrashAt(5, loss=NaNFrom(3)))
    assert_same_run(train(tmp_path / "crashed", config, loss=NaNFrom(0)), once)


def test_diverged_run_is_not_evaluated_again(tmp_path):
    """The accuracy of a network of NaN is a finite number, and may even be the best."""
    calls = []

    def evaluate(model):
        calls.append(1)
        return {"error": 1.0 / len(calls)}

    run = train(tmp_path, PLAIN, loss=NaNFrom(5), evaluate=evaluate)
    assert (run.outcome.diverged, run.outcome.steps) == (True, 6)
    assert run.outcome.metrics == {"error": 1.0}
    assert run.outcome.best == {"error": 1.0, "step": 3}
    assert [line["step"] for line in run.lines if "evaluation" in line] == [3]
