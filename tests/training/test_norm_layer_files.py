"""Analysis of norm layers as a task: its files and its outcome."""

import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import torch

from matched.task import Outcome
from matched.training import norm_layer_files
from matched.training.artifacts import TRAINING_DIVERGED
from matched.training.fingerprint import batch_digest
from matched.training.norm_layer_files import Analysis, analyze_trained

from .problem import CPU, context


def test_analyze_trained_writes_arrays_fingerprint_and_outcome(tmp_path, monkeypatch):
    drawn, analyzed = [], []
    monkeypatch.setattr(norm_layer_files, "_draw", drawn.append)
    batch = torch.ones(2, 3)

    def analyze(directory, device):
        analyzed.append((directory, device))
        return Analysis(batch=batch, arrays={"x": np.arange(2)}, metrics={"layers": 3.0})

    place = context(tmp_path / "run", needs={"trained": tmp_path / "trained"})
    outcome = analyze_trained(place, analyze)
    assert outcome == Outcome(
        metrics={"layers": 3.0}, steps=1, details={"picture": "norm_layers.png"}
    )
    assert analyzed == [(tmp_path / "trained", CPU)] and drawn == [place]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "fingerprint.json", "norm_layers.npz",
    }  # fmt: skip
    fingerprint = json.loads((tmp_path / "run" / "fingerprint.json").read_text())
    assert fingerprint == {"weights": "none", "batches": [batch_digest(batch)]}
    with np.load(tmp_path / "run" / "norm_layers.npz") as arrays:
        assert arrays["x"].tolist() == [0, 1]


def test_analyze_trained_of_a_diverged_training_analyzes_nothing(tmp_path):
    (tmp_path / "result.json").write_text('{"outcome": "diverged"}')
    place = context(tmp_path / "run", needs={"trained": tmp_path})
    assert analyze_trained(place, None) == TRAINING_DIVERGED
    assert list((tmp_path / "run").iterdir()) == []


def test_picture_is_saved_if_the_run_is_still_owned(tmp_path, monkeypatch):
    events = []

    class Canvas:
        def __init__(self, stem):
            events.append(("canvas", stem))

        def save_pictures(self, directory):
            events.append(("save", directory))

    def draw_analysis(canvas, file):
        events.append(("draw", file))

    figures = "matched.report.figures"
    stand_in = SimpleNamespace(Canvas=Canvas, settings=nullcontext)
    monkeypatch.setitem(sys.modules, f"{figures}.canvas", stand_in)
    stand_in = SimpleNamespace(draw_analysis=draw_analysis)
    monkeypatch.setitem(sys.modules, f"{figures}.norm_layers", stand_in)
    norm_layer_files._draw(context(tmp_path, check_ownership=lambda: events.append(("owned",))))
    assert events == [
        ("canvas", "norm_layers"),
        ("draw", tmp_path / "norm_layers.npz"),
        ("owned",),
        ("save", tmp_path),
    ]
