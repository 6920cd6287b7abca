"""Tests of the GPU benchmark without a GPU: bad machines, interruptions, report, rehearsal."""

import importlib
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
OWN = ("gpu", "gpu_sections", "measuring", "layers", "layers_report")


@pytest.fixture
def load(monkeypatch):
    """Return a function that imports a benchmark with its folder on the path, as for a script."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in list(sys.modules):
        if name.split(".")[0] in OWN:
            sys.modules.pop(name)


@pytest.fixture
def preparation(load, monkeypatch):
    """Return the module of the checks, as if on a machine with an H100."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    module = load("gpu_sections.preparation")
    monkeypatch.setattr(module.triton, "PROBLEM", None)
    return module


def fail_with(message: str):
    def fail() -> None:
        raise RuntimeError(message)

    return fail


def test_gpu_preparation_accepts_an_h100(preparation):
    assert preparation.problem("cuda") is None


def test_gpu_preparation_names_torch_without_cuda(preparation, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without CUDA. Install a CUDA build" in preparation.problem("cuda")


def test_gpu_preparation_names_a_missing_device(preparation, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "no CUDA device was found" in preparation.problem("cuda")
    monkeypatch.setattr(torch.cuda, "init", fail_with("No CUDA GPUs are available"))
    problem = preparation.problem("cuda")
    assert problem.startswith("no CUDA device can be used: No CUDA GPUs are available. Use")


def test_gpu_preparation_names_an_old_card(preparation, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    assert "a card is sm_70, and the kernels are measured on sm_80" in preparation.problem("cuda")


def test_gpu_preparation_names_an_old_driver(preparation, monkeypatch):
    message = "The NVIDIA driver on your system is too old (found version 11040).\nPlease update"
    monkeypatch.setattr(torch.cuda, "init", fail_with(message))
    problem = preparation.problem("cuda")
    assert problem.startswith("the driver cannot run torch")
    assert "found version 11040" in problem and "\n" not in problem


def test_gpu_preparation_leaves_out_parts(load, preparation, monkeypatch):
    part = load("gpu_sections").Part
    small = part(name="small", measure=list, gigabytes=1)
    missing = part(name="missing", measure=list, requires=("no_such_module", "torch"))
    large = part(name="large", measure=list, gigabytes=60)

    class Card:
        total_memory = 16 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    assert preparation.left_out(small, "cuda") is None
    assert preparation.left_out(missing, "cuda").startswith(
        "left out: no_such_module not installed"
    )
    expected = "left out: it needs 60 GB of memory, and the card has 16"
    assert preparation.left_out(large, "cuda") == expected


def test_gpu_progress_counts_only_equal_measurements(load, tmp_path):
    progress = load("gpu_sections.progress")
    here = {"hardware": "a card", "kernels": "12345678", "reduced": "no", "time": "2026-01-02"}
    state = progress.Progress(tmp_path, "floors", here)
    state.begin("copy")
    assert state.running() == "copy" and state.whole() == set()
    state.fail("copy", "it failed")
    assert state.running() is None and state.failed() == {"copy": "it failed"}
    state.complete("copy", [{"value": 1}, {"value": 2, "unit": "µs"}])
    state.complete("copy", [{"value": 3}])
    assert state.whole() == {"copy"} and state.failed() == {}
    assert state.file.read_text(encoding="utf-8").splitlines()[1].startswith("copy,3,")
    assert progress.Progress(tmp_path, "latency", here).whole() == set()
    for column in progress.SAME:
        changed = progress.Progress(tmp_path, "floors", {**here, column: "other"})
        assert changed.whole() == set()
        changed.complete("copy", [{"value": 4}])
        assert changed.whole() == state.whole() == {"copy"}


def test_gpu_progress_of_a_killed_call_blocks_no_other_section(load, tmp_path):
    progress = load("gpu_sections.progress")
    first, second = (
        {"hardware": "a card", "kernels": "12345678", "reduced": "no", "time": time}
        for time in ("2026-01-02T10:00", "2026-01-02T11:00")
    )
    killed = progress.Progress(tmp_path, "floors", first)
    killed.fail("launch", "it failed")
    killed.begin("copy")  # and nothing after it
    assert killed.running() == "copy"
    for section in ("floors", "latency"):
        assert progress.Progress(tmp_path, section, second).running() is None
    again = progress.Progress(tmp_path, "floors", second)
    assert list(again.failed()) == ["launch", "copy"]  # tried last
    assert again.failed_in_this_call() == {}
    again.begin("matrix product")
    assert again.running() == "matrix product" and again.whole() == set()
    progress.Progress(tmp_path, "latency", second).begin("block")
    again.complete("matrix product", [{"value": 1}])
    again.begin("copy")
    again.fail("copy", "it failed")
    assert again.running() is None and list(again.failed_in_this_call()) == ["copy"]
    assert progress.Progress(tmp_path, "latency", second).running() == "block"
    parallel = [progress.Progress(tmp_path, "latency", second, number) for number in (1, 2)]
    parallel[0].begin("layers")
    assert [state.running() for state in parallel] == ["layers", None]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["failures.csv", "floors.csv"]


def test_gpu_progress_keeps_failures_of_concurrent_sections(load, tmp_path):
    progress = load("gpu_sections.progress")
    environment = {"hardware": "a card", "kernels": "1", "reduced": "no", "time": "2026"}
    sections = [f"section {number}" for number in range(4)]

    def fail_often(section: str) -> None:
        state = progress.Progress(tmp_path, section, environment)
        for part in map(str, range(10)):
            state.begin(part)
            state.fail(part, "it failed")

    with ThreadPoolExecutor() as pool:
        list(pool.map(fail_often, sections))
    for section in sections:
        assert len(progress.Progress(tmp_path, section, environment).failed()) == 10


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "nine"])
def test_gpu_benchmark_rejects_invalid_minutes(load, capsys, text):
    with pytest.raises(SystemExit):
        load("gpu").parse_args(["--minutes", text])
    assert f"{text!r} is not a positive number of minutes" in capsys.readouterr().err


def test_gpu_page_shows_the_committed_measurements(load):
    summary = load("gpu_sections.summary")
    page = summary.PAGE.read_text(encoding="utf-8")
    assert summary.with_tables(page, FOLDER / "results/gpu") == page


def test_gpu_report_shows_newest_kernels_only(load, tmp_path):
    summary, progress = load("gpu_sections.summary"), load("gpu_sections.progress")
    row = {"quantity": "copy", "unit": "µs"}
    for day, kernels, reduced in ((1, "a", "no"), (2, "b", "no"), (3, "c", "yes")):
        environment = {"hardware": "a card", "kernels": kernels, "reduced": reduced}
        environment |= {"time": f"2026-01-0{day}", "torch": "2.11", "triton": "3.6"}
        state = progress.Progress(tmp_path, "floors", environment)
        state.complete("copy", [{**row, "value": 10 * day}])
    page = summary.PAGE.read_text(encoding="utf-8")
    text = summary.with_tables(page, tmp_path)
    assert "a card, 2026-01-02, torch 2.11, triton 3.6:" in text
    assert "| copy | 20 µs |" in text
    assert "| copy | 10 µs |" not in text and "| copy | 30 µs |" not in text


FAKE_SECTION = """
import os, signal, time
from gpu_sections import Part

def parts(device):
    def crash():
        os.kill(os.getpid(), signal.SIGSEGV)
    def hang():
        time.sleep(1000)
    def wrong():
        if not os.path.exists(FIXED):
            raise ValueError("a reason\\nof two lines")
        return [row]
    row = {"quantity": "q", "value": 1, "unit": ""}
    measures = {"crash": crash, "hang": hang, "wrong": wrong, "fine": lambda: [row]}
    missing = Part(name="missing", measure=list, requires=("no_such_module",))
    return [*(Part(name=n, measure=m, limit=2) for n, m in measures.items()), missing]
"""


def test_gpu_benchmark_processes_divide_a_section(load, tmp_path, monkeypatch):
    # Several processes check correctness on a card, and fill caches before times are measured.
    gpu, sections = load("gpu"), load("gpu_sections")
    environment = {"hardware": "a card", "kernels": "1", "reduced": "no", "time": "2026"}
    commands = []

    def record(command, deadline, grace=gpu.GRACE):
        commands.append(command)
        return 0

    monkeypatch.setattr(gpu, "_wait", record)
    monkeypatch.setattr(gpu.os, "cpu_count", lambda: 3)
    for section in sections.SECTIONS:
        for device in ("cuda", "cpu"):
            commands.clear()
            state = load("gpu_sections.progress").Progress(tmp_path, section.name, environment)
            gpu.run_section(section, state, device, 100.0)
            parsed = [gpu.parse_args(command[2:]) for command in commands]
            measured = sorted((a.process, a.processes) for a in parsed if not a.fill_caches)
            filled = sorted((a.process, a.processes) for a in parsed if a.fill_caches)
            thirds = [(0, 3), (1, 3), (2, 3)]
            assert measured == (thirds if device == "cuda" and section.is_parallel else [(0, 1)])
            assert filled == (thirds if device == "cuda" and section.fills_caches else [])
            assert not any(a.fill_caches for a in parsed[-len(measured) :])


def test_gpu_worker_measures_its_slice_and_fills_caches_silently(load, tmp_path, monkeypatch):
    worker, sections = load("gpu_sections.worker"), load("gpu_sections")
    timing, measured = load("gpu_sections.timing"), []

    def measure(name):
        measured.append((name, timing.number_of_rounds(7)))
        raise RuntimeError("it failed")

    parts = [sections.Part(name=n, measure=lambda n=n: measure(n)) for n in "abcde"]
    large = sections.Part(name="f", measure=lambda: measure("f"), gigabytes=60)
    module = SimpleNamespace(parts=lambda device: [*parts, large])
    monkeypatch.setattr(worker.importlib, "import_module", lambda name: module)
    share = worker.Slice(process=1, processes=2)
    worker.run_section("floors", "cpu", tmp_path, time.time() + 60, ["d"], share)
    assert measured == [("b", 7), ("f", 7)]
    (tmp_path / "failures.csv").unlink()
    measured.clear()
    monkeypatch.setattr(timing, "fills_caches", False)  # restores it after the test
    worker.fill_caches("floors", "cpu", tmp_path, share)
    assert measured == [("b", 1), ("d", 1)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_gpu_benchmark_continues_after_crash_hang_and_error(load, tmp_path):
    folder, out = tmp_path / "benchmarks", tmp_path / "out"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("results", "__pycache__"))
    fixed = tmp_path / "fixed"
    text = f"FIXED = {str(fixed)!r}\n{FAKE_SECTION}"
    (folder / "gpu_sections/floors.py").write_text(text, encoding="utf-8")
    command = [sys.executable, folder / "gpu.py", "--device", "cpu", "--section", "floors"]
    command += ["--minutes", "3", "--out", out]

    def failures(printed: str) -> list[str]:
        return [line for line in printed.splitlines() if line.startswith("floors, ")]

    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert failures(first) == [
        "floors, crash: the process ended with signal SIGSEGV",
        "floors, hang: exceeded its time limit, or its process ended with exit code 1",
        "floors, wrong: ValueError: a reason of two lines",
        "floors, missing: left out: no_such_module not installed; docs/GPU.md has the commands",
    ]
    rows = (out / "floors.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows] == ["part", "fine"]
    fixed.touch()
    second = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "  fine …" not in second  # whole already
    assert len(failures(second)) == 3
    rows = (out / "floors.csv").read_text(encoding="utf-8").splitlines()
    assert {row.split(",")[0] for row in rows} == {"part", "fine", "wrong"}


@pytest.mark.slow
def test_gpu_benchmark_stops_when_the_time_runs_out(tmp_path):
    command = [sys.executable, FOLDER / "gpu.py", "--device", "cpu", "--out", tmp_path]
    command += ["--minutes", "0.05", "--section", "correctness"]  # ends in the first part
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    whole = int(next(s for s in printed.splitlines() if s.startswith("correctness ")).split()[1])
    file = tmp_path / "correctness.csv"
    assert file.exists() == bool(whole)
    command[command.index("0.05")] = "3"
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    again = int(next(s for s in printed.splitlines() if s.startswith("correctness ")).split()[1])
    assert again > whole


@pytest.mark.slow
def test_gpu_benchmark_rehearsal_measures_every_part(load, tmp_path):
    command = [sys.executable, FOLDER / "gpu.py", "--device", "cpu", "--out", tmp_path]
    for minutes in ("2", "8", "8"):  # later calls continue, on a busy machine
        ended = subprocess.run(
            [*command, "--minutes", minutes], capture_output=True, text=True, check=True
        )
        if not (tmp_path / "failures.csv").exists():
            break
    assert not (tmp_path / "failures.csv").exists(), ended.stdout
    assert "WRONG" not in ended.stdout
    names = {section.name for section in load("gpu_sections").SECTIONS}
    # The rows at mini scale take hours on a CPU.
    assert {name for name in names if not (tmp_path / f"{name}.csv").exists()} == {"mini"}


def test_gpu_benchmark_without_a_gpu_names_the_rehearsal(load, monkeypatch):
    gpu = load("gpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="DEVICE=cpu for a rehearsal"):
        gpu.main()


@pytest.mark.slow
def test_gpu_step_times_compile_the_blocks_of_every_network(load):
    step_times = load("gpu_sections.step_times")
    for name, blocks in (("ViT-B", 1), ("MAE-B", 2), ("DiT-B/4", 1)):
        network, _ = step_times.MODELS[name]("cpu")
        step_times.compile_blocks(network)
        compiled = [m for m in network.modules() if m._compiled_call_impl is not None]
        assert len(compiled) == blocks, name


SMALL_SECTION = """
from gpu_sections import Part

def parts(device):
    fine = Part(name="fine", measure=lambda: [{"quantity": "q", "value": 1, "unit": ""}])
    return [fine, Part(name="missing", measure=list, requires=("no_such_module",))]
"""


@pytest.mark.slow
def test_gpu_visit_packs_the_results_and_continues_them(tmp_path):
    folder, out = tmp_path / "checkout", tmp_path / "out"
    ignored = shutil.ignore_patterns("results", "__pycache__")
    shutil.copytree(FOLDER, folder / "benchmarks", ignore=ignored)
    for name in ("shared", "packages"):
        (folder / name).symlink_to(FOLDER.parent / name)
    known = folder / "benchmarks/results/gpu"
    known.mkdir(parents=True)
    file = folder / "benchmarks/gpu_sections/floors.py"
    file.write_text(SMALL_SECTION, encoding="utf-8")
    out.mkdir()
    environment = {**os.environ, "OUT": str(out), "PYTHON": sys.executable, "DEVICE": "cpu"}
    command = ["sh", folder / "benchmarks/gpu_visit.sh", "5", "floors"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert [file.name for file in out.iterdir()] == ["gpu.tar.gz"]
    shutil.unpack_archive(out / "gpu.tar.gz", known, filter="data")
    assert {"floors.csv", "failures.csv", "log.txt"} <= {file.name for file in known.iterdir()}
    assert "  fine …" in (known / "log.txt").read_text(encoding="utf-8")
    shutil.rmtree(folder / "build")  # another machine
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "  fine …" not in again.stdout and "floors, missing: left out" in again.stdout
