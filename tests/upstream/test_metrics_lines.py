"""metrics.jsonl of a script: its lines, and those of the attempts that it continues."""

import math

from dyt_upstream import metrics_lines

FIRST = [{"step": step, "epoch": 0, "loss": 4.0 - step} for step in (1, 2, 3)]
RESUMED = [{"step": 3, "epoch": 0, "loss": 1.5}, {"step": 4, "epoch": 1, "loss": 1.0, "acc": 80.0}]


def test_text_of_metrics_lines_is_read_back(tmp_path):
    records = [*FIRST, {"step": 4, "loss": math.nan}, {"step": 5, "acc": 80.0, "attempt": 2}]
    path = tmp_path / "metrics.jsonl"
    path.write_text(metrics_lines.text(records, {"acc"}))
    assert path.read_text().splitlines()[3:] == [
        '{"step": 4, "loss": null}',
        '{"step": 5, "attempt": 2, "evaluation": {"acc": 80.0}}',
    ]
    found = metrics_lines.read(path)
    assert math.isnan(found[3].pop("loss"))
    assert found == [*FIRST, {"step": 4}, records[4]]


def test_join_keeps_earlier_attempts_up_to_the_first_step_logged_again():
    joined = metrics_lines.join(FIRST, RESUMED)
    assert joined == [*FIRST[:2], *({**record, "attempt": 2} for record in RESUMED)]
    third = metrics_lines.join(joined, [{"step": 4, "loss": 0.5}])
    assert third == [*joined[:3], {"step": 4, "loss": 0.5, "attempt": 3}]


def test_join_before_the_first_line_of_an_attempt_keeps_all():
    assert metrics_lines.join(FIRST, []) == FIRST


def test_join_of_a_log_over_all_attempts_is_that_log():
    assert metrics_lines.join(FIRST[:2], [*FIRST, RESUMED[1]]) == [*FIRST, RESUMED[1]]


def test_read_metrics_lines_without_a_file(tmp_path):
    assert metrics_lines.read(tmp_path / "metrics.jsonl") == []
