"""A run that diverges ends with a result, the best before, and says so."""

from dataclasses import replace

import pytest

from .problem import CONFIG, Cut, CutAt, NaNFrom, assert_same_run, trained


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_its_metrics_are_the_best_before(tmp_path, value):
    errors = iter([2.0, 1.0, 1.5])
    run = trained(tmp_path, loss=NaNFrom(9, value), evaluate=lambda model: {"error": next(errors)})
    assert run.outcome.diverged
    assert run.outcome.metrics == {"error": 1.0}
    assert run.outcome.best == {"error": 1.0, "step": 6}
    assert run.outcome.steps == 10


def test_the_lines_before_it_are_kept_and_its_own_has_no_loss(tmp_path, undisturbed):
    run = trained(tmp_path, loss=NaNFrom(7))
    before = [line for line in undisturbed.lines if line["step"] < 8]
    assert run.lines[:-1] == before
    assert run.lines[-1] == {**undisturbed.lines[len(before)], "loss": None}
    assert run.json("progress.json")["steps"] == 12


def test_it_is_noticed_at_the_next_line_at_the_latest(tmp_path):
    run = trained(tmp_path, replace(CONFIG, log_steps=50), loss=NaNFrom(6))
    assert run.outcome.diverged and run.outcome.steps == 9


def test_before_any_evaluation_there_is_no_metric(tmp_path):
    run = trained(tmp_path, loss=NaNFrom(0))
    assert run.outcome.diverged
    assert run.outcome.metrics == run.outcome.best == {}


def test_the_log_says_where(tmp_path, caplog):
    with caplog.at_level("INFO", logger="matched"):
        trained(tmp_path, loss=NaNFrom(7))
    assert "diverged at step 8: the loss is nan" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_overflow_in_the_last_step_show_in_the_evaluation(tmp_path, value, caplog):
    # Every loss is of the weights before its step: only the evaluation sees the last one's.
    errors = iter([3.0, 2.0, 1.0, value])
    with caplog.at_level("INFO", logger="matched"):
        run = trained(tmp_path, evaluate=lambda model: {"error": next(errors), "other": 1.0})
    assert run.outcome.diverged
    assert run.outcome.metrics == {"error": 1.0, "other": 1.0}
    assert run.outcome.best["step"] == 9
    assert run.lines[-1]["evaluation"] == {"error": None, "other": 1.0}
    assert run.json("progress.json")["shown"]["error"] is None
    assert "diverged at step 12" in caplog.text


def test_a_diverged_run_started_again_gives_the_same_result(tmp_path):
    once = trained(tmp_path / "once", loss=NaNFrom(7))
    trained(tmp_path / "again", loss=NaNFrom(7))
    assert_same_run(trained(tmp_path / "again", loss=CutAt(0)), once)


def test_a_run_cut_between_the_first_nan_and_its_notice_diverges_at_the_same_step(tmp_path):
    config = replace(CONFIG, log_steps=50)
    once = trained(tmp_path / "once", config, loss=NaNFrom(3))
    with pytest.raises(Cut):
        trained(tmp_path / "cut", config, loss=CutAt(5, loss=NaNFrom(3)))
    assert_same_run(trained(tmp_path / "cut", config, loss=NaNFrom(0)), once)
