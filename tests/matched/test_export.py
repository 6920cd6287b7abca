"""Export to TensorBoard: folders, tags, values and times of the training curves of a table."""

import json
import math
import sys
from types import SimpleNamespace

import pytest

from matched import export

from .test_chains import CHAINS

METRICS = [
    {"step": 2, "epoch": 0.5, "loss": 2.5, "lr": 0.1, "gradient_norm": 3.0, "alpha": {"x": 0.4}},
    {"step": 4, "epoch": 1.0, "loss": None, "lr": 0.05, "gradient_norm": 2.0},
    {"step": 4, "epoch": 1.0, "evaluation": {"top1": 81.0}, "alpha": {"x": 0.5, "x.shift": 0.1}},
]
PERFORMANCE = [
    {"step": 2, "time": 100.0, "samples_per_second": 8.0, "peak_memory_mib": 512.0},
    {"step": 4, "time": 101.5, "samples_per_second": 9.0},
]


class FakeWriter:
    """Records the points that are written to each folder, as one event file."""

    def __init__(self, folder):
        self.folder, self.points = folder, []

    def add_scalar(self, tag, data, step, *, wall_time=None):
        self.points.append([tag, data, step, wall_time])

    def close(self):
        with open(f"{self.folder}/events.out.tfevents.1", "w") as file:
            json.dump(self.points, file)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(export, "tensorboard_writer", lambda: FakeWriter)


def log(project, name, metrics=METRICS, performance=PERFORMANCE, end=""):
    """Write the logs of the run "<model>.<norm>.<seed>"."""
    directory = project.directory(name)
    directory.prepare()
    for file, lines in (("metrics.jsonl", metrics), ("performance.jsonl", performance)):
        if lines is not None:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (directory / file).write_text(text + end)
    return directory


def exported(project):
    """Run the command; return its output, and folder → points."""
    folder = project.root / "curves"
    output = project.cli("export", "table1", "--tensorboard", str(folder))
    files = sorted(folder.glob("*/events*"))
    return output, {file.parent.name: json.loads(file.read_text()) for file in files}


def test_export_writes_a_folder_per_run(project, fake):
    log(project, "small.LN.0")
    log(project, "large.DyT.1")
    output, points = exported(project)
    assert list(points) == ["large.DyT.seed1", "small.LN.seed0"]
    assert f"training curves of 2 runs to {project.root}/curves; 6 runs without any" in output


def test_export_writes_all_numbers_with_step_and_time(one_row, fake):
    log(one_row, "small.DyT.0")
    points = exported(one_row)[1]["small.DyT.seed0"]
    assert [point for point in points if point[1] == point[1]] == [
        ["performance/samples_per_second", 8.0, 2, 100.0],
        ["performance/peak_memory_mib", 512.0, 2, 100.0],
        ["performance/samples_per_second", 9.0, 4, 101.5],
        ["train/loss", 2.5, 2, 100.0],
        ["train/lr", 0.1, 2, 100.0],
        ["train/gradient_norm", 3.0, 2, 100.0],
        ["alpha/x", 0.4, 2, 100.0],
        ["train/lr", 0.05, 4, 101.5],
        ["train/gradient_norm", 2.0, 4, 101.5],
        ["evaluation/top1", 81.0, 4, 101.5],
        ["alpha/x", 0.5, 4, 101.5],
        ["alpha/x.shift", 0.1, 4, 101.5],
    ]
    (diverged,) = (point for point in points if math.isnan(point[1]))
    assert diverged[0] == "train/loss" and diverged[2] == 4


def test_export_takes_the_last_known_time_of_earlier_steps(one_row, fake):
    """Losses may be written more often than times."""
    metrics = [{"step": step, "loss": float(step)} for step in (1, 2, 3, 4, 5)]
    log(one_row, "small.DyT.0", metrics)
    points = exported(one_row)[1]["small.DyT.seed0"]
    assert [point for point in points if point[0] == "train/loss"] == [
        ["train/loss", 1.0, 1, None],
        ["train/loss", 2.0, 2, 100.0],
        ["train/loss", 3.0, 3, 100.0],
        ["train/loss", 4.0, 4, 101.5],
        ["train/loss", 5.0, 5, 101.5],
    ]


def test_export_leaves_out_counters(one_row, fake):
    line = {"step": 1, "epoch": 2, "attempt": 3, "time": 4.0, "loss": 0.5}
    log(one_row, "small.DyT.0", [line], None)
    assert exported(one_row)[1] == {"small.DyT.seed0": [["train/loss", 0.5, 1, None]]}


def test_export_names_runs_of_a_search_by_their_value(grid, fake):
    log(grid, "small.LN.1")
    assert list(exported(grid)[1]) == ["small.8.1.seed1"]


def test_value_in_the_name_of_a_folder_has_no_slash():
    of_pair, of_none = (SimpleNamespace(value=value) for value in ("0.5/0.25", ""))
    assert (export._of_value(of_pair), export._of_value(of_none)) == (".0.5-0.25", "")


def test_export_names_a_shared_run_by_its_first_cell(project, fake):
    project.recipe(
        "TABLE = Table(arms=(Arm(name='a'), Arm(name='b+')),"
        " scales=(scale(seeds=(0,), small={'a': SMALL, 'b+': SMALL}, large={'b+': LARGE}),))"
    )
    for name in ("small.LN.0", "large.LN.0"):
        log(project, name)
    output, points = exported(project)
    assert list(points) == ["large.b.seed0", "small.a.seed0"]
    assert output == f"Written: training curves of 2 runs to {project.root}/curves\n"


def test_export_deletes_the_old_files_of_a_run_without_metrics(one_row, fake):
    log(one_row, "small.LN.0")
    log(one_row, "small.DyT.0")
    exported(one_row)
    log(one_row, "small.LN.0", [], [])
    output, points = exported(one_row)
    assert list(points) == ["small.DyT.seed0"]
    assert output == (
        f"Written: training curves of 1 run to {one_row.root}/curves; 1 run without any\n"
    )


def test_export_closes_the_writer_after_an_error(one_row):
    log(one_row, "small.LN.0")
    closed = []

    class Full(FakeWriter):
        def add_scalar(self, *point, wall_time):
            raise OSError(28, "No space left on device")

        def close(self):
            closed.append(self.folder)

    with pytest.raises(OSError):
        export.write_event_files(one_row.plan(), one_row.root / "curves", Full)
    assert closed == [f"{one_row.root}/curves/small.LN.seed0"]


def test_export_works_without_a_performance_file(one_row, fake):
    log(one_row, "small.DyT.0", performance=None)
    points = exported(one_row)[1]["small.DyT.seed0"]
    assert len(points) == 10 and all(point[3] is None for point in points)


def test_export_replaces_event_files_and_no_others(one_row, fake):
    log(one_row, "small.LN.0")
    folder = one_row.root / "curves" / "small.LN.seed0"
    folder.mkdir(parents=True)
    for name in ("events.out.tfevents.0", "notes.txt"):
        (folder / name).write_text("old")
    exported(one_row)
    assert sorted(path.name for path in folder.iterdir()) == ["events.out.tfevents.1", "notes.txt"]


def test_export_names_needed_runs_after_the_first_cell(project, fake):
    project.recipe(CHAINS)
    directory = next(p.directory for p in project.plan().runs if p.title.endswith("0 · samples"))
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "metrics.jsonl").write_text(json.dumps(METRICS[0]) + "\n")
    assert list(exported(project)[1]) == ["small.LN.seed0.samples"]


def test_export_skips_the_line_that_is_being_written(one_row, fake):
    log(one_row, "small.LN.0", METRICS[:1], None, end='{"step": 3, "lo')
    assert len(exported(one_row)[1]["small.LN.seed0"]) == 4


@pytest.mark.parametrize("damage", ["\0\0\n", "[1]\n", '{"loss": 1.0}\n'])
def test_export_refuses_a_damaged_line(one_row, fake, damage):
    log(one_row, "small.LN.0", METRICS[:2], None, end=damage)
    message = one_row.mistake("export", "table1", "--tensorboard", str(one_row.root / "curves"))
    assert message.endswith("metrics.jsonl, line 3, is damaged")


def test_export_without_tensorboard_says_how_to_install_it(one_row, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    log(one_row, "small.LN.0")
    folder = one_row.root / "curves"
    message = one_row.mistake("export", "table1", "--tensorboard", str(folder))
    assert message.startswith("TensorBoard cannot be imported (")
    assert message.endswith(
        "); install it with `pip install tensorboard`, or as the extra matched[tensorboard]"
    )
    assert not folder.exists()


def test_tensorboard_writer_is_that_of_the_package(monkeypatch):
    package = SimpleNamespace(Writer=FakeWriter)
    monkeypatch.setitem(sys.modules, "tensorboard", SimpleNamespace(summary=package))
    monkeypatch.setitem(sys.modules, "tensorboard.summary", package)
    assert export.tensorboard_writer() is FakeWriter


def test_export_needs_a_folder(one_row):
    assert "--tensorboard" in one_row.mistake("export", "table1")
