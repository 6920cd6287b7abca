"""Scores from results of other runs: mean, spread, selection of a setting, divergence."""

import json

import pytest

from dyt_hyenadna.config import BenchmarkScore, Selection, TaskScore
from dyt_hyenadna.scoring import score_benchmark, score_task, select_setting
from matched.task import Context

from ..messages import refused


@pytest.fixture
def make_context(tmp_path):
    """Return the context of a score that needs runs with these results."""

    def make(**results):
        needs = {}
        for name, result in results.items():
            needs[name] = tmp_path / name
            needs[name].mkdir(exist_ok=True)
            (needs[name] / "result.json").write_text(json.dumps(result))
        score = tmp_path / "score"
        score.mkdir(exist_ok=True)
        return Context(directory=score, signature="0" * 12, needs=needs)

    return make


def result(accuracy, *, test="set", outcome="done", **metrics):
    metrics = {} if outcome == "diverged" else {"accuracy": accuracy, **metrics}
    return {"outcome": outcome, "metrics": metrics, "details": {"test_checksum": test}}


def test_score_task_gives_mean_standard_deviation_and_range(make_context):
    context = make_context(split1=result(80.0), split2=result(84.0), split3=result(82.0))
    outcome = score_task(context, TaskScore())
    assert outcome.metrics == pytest.approx(
        {"accuracy": 82.0, "accuracy_std": 2.0, "accuracy_range": 4.0}
    )
    assert json.loads((context.directory / "fingerprint.json").read_text())["batches"]


def test_score_task_of_one_run_has_no_spread(make_context):
    outcome = score_task(make_context(split1=result(80.0)), TaskScore())
    assert outcome.metrics == {"accuracy": 80.0}


def test_score_task_refuses_runs_with_different_test_sets(make_context):
    context = make_context(split1=result(80.0), split2=result(80.0, test="other"))
    assert refused(score_task, context, TaskScore()) == (
        "split1, split2 have 2 test sets; fine-tune all runs of a score on one task, from one "
        "preparation"
    )


def test_score_task_fingerprint_is_that_of_the_test_set(make_context):
    def fingerprint(test):
        context = make_context(split1=result(80.0, test=test))
        score_task(context, TaskScore())
        return (context.directory / "fingerprint.json").read_text()

    assert fingerprint("set") == fingerprint("set") != fingerprint("other")


def test_select_setting_takes_best_validation_not_best_test(make_context):
    context = make_context(
        batch128=result(85.0, val_accuracy=80.0), batch256=result(83.0, val_accuracy=81.0)
    )
    outcome = select_setting(context, Selection())
    assert outcome.metrics == {"accuracy": 83.0, "val_accuracy": 81.0}
    assert outcome.details["selected"] == "batch256" and outcome.details["test_checksum"]
    assert outcome.steps == 2 and not outcome.diverged


@pytest.mark.parametrize("others", [{}, {"two": result(83.0, val_accuracy=81.0)}])
def test_select_setting_refuses_scores_without_validation(make_context, others):
    context = make_context(one=result(85.0), **others)
    assert refused(select_setting, context, Selection()) == (
        f"some of {', '.join(['one', *others])} have no validation accuracy; fine-tune with a split"
    )


def test_select_setting_takes_the_first_of_equal_ones(make_context):
    equal = {name: result(80.0, val_accuracy=81.0) for name in ("b", "a")}
    assert select_setting(make_context(**equal), Selection()).details["selected"] == "a"


def test_score_benchmark_averages_tasks_and_keeps_each(make_context):
    context = make_context(
        one=result(80.0, accuracy_std=3.0), two=result(90.0, accuracy_std=4.0, test="b")
    )
    outcome = score_benchmark(context, BenchmarkScore())
    assert outcome.metrics == pytest.approx(
        {"accuracy": 85.0, "accuracy_std": 2.5, "accuracy.one": 80.0, "accuracy.two": 90.0}
    )


def test_score_of_a_diverged_run_is_diverged(make_context):
    context = make_context(one=result(80.0), two=result(0.0, outcome="diverged"))
    outcome = score_benchmark(context, BenchmarkScore())
    assert outcome.diverged and not outcome.metrics and outcome.steps == 0
    assert outcome.details == {"reason": "diverged: two"}
    for score, config in ((score_task, TaskScore()), (select_setting, Selection())):
        assert score(context, config) == outcome


def test_score_task_has_the_mean_validation_accuracy(make_context):
    context = make_context(
        split1=result(80.0, val_accuracy=81.0), split2=result(84.0, val_accuracy=82.0)
    )
    outcome = score_task(context, TaskScore())
    assert outcome.metrics["val_accuracy"] == 81.5 and outcome.steps == 2


def test_score_benchmark_of_single_runs_has_no_deviation(make_context):
    context = make_context(one=result(80.0, accuracy_std=3.0), two=result(90.0))
    assert score_benchmark(context, BenchmarkScore()).metrics == {
        "accuracy": 85.0,
        "accuracy.one": 80.0,
        "accuracy.two": 90.0,
    }


def test_score_of_a_run_without_result_is_refused(make_context, tmp_path):
    context = make_context(one=result(80.0))
    (tmp_path / "one" / "result.json").unlink()
    assert refused(score_task, context, TaskScore()) == (
        f"{tmp_path / 'one'} has no result; submit again to compute it"
    )


@pytest.mark.parametrize(
    "score, config, needs",
    [
        (score_task, TaskScore(), "the score of a task needs fine-tuning runs"),
        (select_setting, Selection(), "the selection of a setting needs scores"),
        (score_benchmark, BenchmarkScore(), "the score of the benchmark needs scores of tasks"),
    ],
)
def test_score_without_needs_is_refused(make_context, score, config, needs):
    assert refused(score, make_context(), config) == f"{needs}; it has none"
