"""Tests of the layer and training-step benchmarks, and of the report generated from the CSV."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from dyt import DyT

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = (
    "measuring",
    "layers_report",
    "layers",
    "training_step",
    "calibration",
    "calibration_networks",
)
COMMON = (
    "layer,pass,dtype,shape,rounds,ms_p10,ms_median,ms_p90,ratio_p10,ratio_median,ratio_p90,"
    "kept_bytes,peak_bytes,device,threads,hardware,instructions,load,torch,python,triton,liger,time"
)


@pytest.fixture
def load(monkeypatch):
    """Return a function that imports a benchmark with its folder on the path, as for a script."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


def line(layer: str, ms: float, ratio: float, shape: str = "2x8x64", time: str = "2026-01-02"):
    memory = "4096,8192" if layer.startswith(("nn", "DyT")) else ","
    return (
        f'"{layer}",forward,float32,{shape},9,{ms},{ms},{ms},{ratio},{ratio},{ratio},{memory},'
        f"cpu,1,A processor,AVX2,0.1,2.11.0,3.11.7,3.6.0,,{time}"
    )


@pytest.fixture
def report(load, monkeypatch, tmp_path):
    module = load("layers_report")
    monkeypatch.setattr(module, "CSV", tmp_path / "layers.csv")
    return module


def write(report, *lines: str) -> None:
    report.CSV.write_text("\n".join((COMMON, *lines, "")), encoding="utf-8")
    report.write()


def test_layers_report_shows_the_csv(report):
    names = (report.BASE, report.EAGER, report.KERNEL, report.COPY)
    write(report, *map(line, names, (2.0, 12.0, 1.5, 0.5), (1.0, 6.0, 0.75, 0.25)))
    markdown = report.CSV.with_suffix(".md").read_text(encoding="utf-8")
    assert "| nn.LayerNorm | 2 ms |" in markdown
    assert "| DyT, kernel | 0.75 (0.75–0.75) |" in markdown
    assert "| DyT, kernel | 1.00 / 2.00 |" in markdown  # memory, of 1024 float32
    assert "| forward | float32 | ≤ 0.85 × LayerNorm | 0.75 |" in markdown
    assert "| forward | float32 | ≥ 5× faster than the formula | 8.0× |" in markdown
    assert "| forward | bfloat16 | ≤ 0.90 × LayerNorm | not measured |" in markdown
    assert "## GPU\n\nnot measured" in markdown
    plot = ElementTree.fromstring(report.CSV.with_suffix(".svg").read_text(encoding="utf-8"))
    written = [element.text for element in plot.iter() if element.text]
    assert report.KERNEL in written
    assert "GPU: not measured" in written


def test_layers_report_marks_missed_bounds(report):
    write(report, line(report.BASE, 2, 1), line(report.KERNEL, 2.2, 1.1))
    markdown = report.CSV.with_suffix(".md").read_text(encoding="utf-8")
    assert "≤ 0.85 × LayerNorm | **1.10** |" in markdown


def test_layers_report_uses_newest_run_of_a_shape(report):
    old, other = (line(report.KERNEL, 1, r, s) for r, s in ((0.51, "2x8x64"), (0.52, "1x8x64")))
    write(report, old, other, line(report.KERNEL, 1, 0.53, time="2026-01-03"))
    markdown = report.CSV.with_suffix(".md").read_text(encoding="utf-8")
    assert "| DyT, kernel | 0.52 (0.52–0.52) | 0.53 (0.53–0.53) |" in markdown
    assert "0.51" not in markdown


def test_layers_report_without_csv_names_the_command(report):
    with pytest.raises(SystemExit, match=r"Run `python benchmarks/layers.py` first"):
        report.write()


def test_append_rejects_rows_with_other_columns(load, tmp_path):
    append, file = load("measuring").append, tmp_path / "a.csv"
    append(file, [{"a": 1}])
    append(file, [{"a": 2}])
    assert file.read_text(encoding="utf-8") == "a\n1\n2\n"
    with pytest.raises(ValueError, match="other columns"):
        append(file, [{"b": 3}])


def test_layers_benchmark_measures_time_and_memory(load, report):
    layers, passes = load("layers"), ["forward", "backward", "forward+backward"]
    args = Namespace(device="cpu", compiled=False, passes=passes, rounds=2)
    environment = load("measuring").environment("cpu")
    found = layers.rows((2, 8, 64), "float32", args, environment, layers.cpu_seconds)
    assert len(found) == 6 * len(passes)
    load("measuring").append(report.CSV, found)
    assert list(load("measuring").read(report.CSV)[0]) == COMMON.split(",")
    report.write()
    size = 2 * 8 * 64 * 4
    kept = {row["layer"]: row["kept_bytes"] for row in found if row["kept_bytes"] != ""}
    peak = {row["layer"]: row["peak_bytes"] for row in found if row["peak_bytes"] != ""}
    assert kept[report.KERNEL] == size  # only the input
    assert kept[report.EAGER] == 2 * size  # additionally the output of tanh
    # The result, the input's gradient, and the parameters' gradients with their accumulators.
    assert 2 * size <= peak[report.KERNEL] < 3 * size < peak[report.EAGER]


def test_layers_benchmark_writes_only_with_save(load, report, monkeypatch, capsys):
    layers = load("layers")
    monkeypatch.setattr(load("measuring"), "reuse_freed_memory", lambda: None)
    options = {"--shape": "2x8x64", "--rounds": "2", "--dtype": "float32", "--passes": "forward"}
    arguments = ["--no-compile", *(part for option in options.items() for part in option)]
    for extra in ([], ["--save"]):
        monkeypatch.setattr(sys, "argv", ["layers.py", *arguments, *extra])
        layers.main()
        assert report.CSV.exists() == bool(extra)
        output = capsys.readouterr().out
        assert "nn.LayerNorm" in output
        assert "Targets" not in output


def test_training_step_benchmark_measures_all_arms(load):
    step = load("training_step")
    found = step.rows("float32", 1, 2, model="vit_tiny_patch16_224", size=224)
    assert [row["norm"] for row in found] == list(step.ARMS)
    assert found[0]["ratio_of_medians"] == "1.000"
    assert all(name in step.table(found) for name in step.ARMS)


def test_training_step_arms_differ_only_in_the_norm(load):
    step = load("training_step")
    networks = {arm: step.build(arm, "vit_tiny_patch16_224").eval() for arm in step.ARMS}
    weights = [network.patch_embed.proj.weight for network in networks.values()]
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        norm, again, kernel, formula = (network(images) for network in networks.values())
    assert torch.equal(norm, again)
    torch.testing.assert_close(kernel, formula, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(norm, formula, atol=1e-2)


def test_training_step_networks_share_non_norm_parameters(load):
    step = load("training_step")
    base, network = (step.build(arm, "vit_tiny_patch16_224") for arm in (step.BASE, step.ARMS[2]))
    step.share_parameters(network, base)
    norms = [path for path, module in network.named_modules() if isinstance(module, DyT)]
    expected = {f"{path}.{name}" for path in norms for name in ("alpha", "weight", "bias")}
    base_parameters = dict(base.named_parameters())
    assert len(norms) == 25
    assert expected == {n for n, p in network.named_parameters() if p is not base_parameters.get(n)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "8x"], "'8x' is not a shape such as 8x197x768"),
        (["--rounds", "0"], "'0' is not a positive integer"),
        (["--shape", "2x8", "--sweep"], "--sweep and --shape both select the shapes"),
    ],
)
def test_layers_benchmark_rejects_invalid_arguments(load, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["layers.py", *arguments])
    with pytest.raises(SystemExit):
        load("layers").parse_args()
    assert message in capsys.readouterr().err


def test_calibration_benchmark_runs_and_writes_only_with_save(load, monkeypatch, tmp_path, capsys):
    calibration = load("calibration")
    monkeypatch.setattr(calibration, "RESULTS", tmp_path)
    small = ["--networks", "vit", "--widths", "16", "--seeds", "0", "1", "--steps", "2"]
    monkeypatch.setattr(calibration, "CONVERSION_WIDTH", 16)
    for benchmark, *extra in (("conversion",), ("conversion", "--save"), ("scratch", "--save")):
        monkeypatch.setattr(sys, "argv", ["calibration.py", benchmark, *small, *extra])
        calibration.main()
        assert (tmp_path / f"calibration_{benchmark}.csv").exists() == bool(extra)
    assert "| vit, 16 |" in (tmp_path / "calibration_scratch.md").read_text(encoding="utf-8")
    assert calibration.CALIBRATED in capsys.readouterr().out


def test_calibration_benchmark_marks_scores_below_the_interval(load):
    calibration = load("calibration")
    scores = {calibration.OWN: (90, 91, 92), "DyT (0.5)": (70, 71, 72), "calibrated": (90, 90, 91)}
    rows = [
        {"network": "vit", "width": 32, "arm": arm, "score": value}
        for arm, values in scores.items()
        for value in values
    ]
    line = calibration.scratch_table(rows).splitlines()[-1]
    assert line == "| vit, 32 | 91.00 ± 2.48 | **71.00 ± 2.48** | 90.33 ± 1.43 |"
