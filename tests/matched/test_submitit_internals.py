"""submitit_internals: behavior of submitit's undocumented names, and their use in one module only.

Each failure says which name a new version of submitit has moved.
"""

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import submitit

from matched import submitit_internals
from matched.signals import PREEMPTION_SIGNAL
from matched.submitit_internals import TESTED_VERSIONS

ROOT = Path(__file__).parents[2]
PARAMETERS = {"name": "matched", "timeout_min": 5, "nodes": 1, "mem_gb": 4, "slurm_qos": "low"}


def works(name, call):
    """Return the call's result; fail with a hint if submitit has moved or changed ``name``."""
    try:
        return call()
    except (ImportError, AttributeError, TypeError) as error:
        pytest.fail(
            f"submitit {submitit.__version__} moved {name}: adapt matched/submitit_internals.py; "
            f"tested with {TESTED_VERSIONS} ({error})"
        )


# --- the names


def test_sbatch_script():
    script = works(
        "_make_sbatch_string or _equivalence_dict",
        lambda: submitit_internals.sbatch_script(PARAMETERS, Path("/jobs/%j"), 3),
    )
    preemption = f"signal={PREEMPTION_SIGNAL.name.removeprefix('SIG')}@90"
    for option in ("job-name=matched", "time=5", "mem=4GB", "qos=low", preemption):
        assert f"#SBATCH --{option}\n" in script
    assert "#SBATCH --array=0-2%3\n" in script


def test_requeue_on_slurm(project, monkeypatch):
    project.program("scontrol", 'echo "$@" > "$HOME/scontrol.log"')
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "41"}.items():
        monkeypatch.setenv(name, value)
    environment = submitit.JobEnvironment()
    works("JobEnvironment._requeue", lambda: submitit_internals.requeue_on_slurm(environment))
    assert (project.root / "scontrol.log").read_text(encoding="utf-8") == "requeue 41\n"


def test_local_requeue_exit_code(tmp_path):
    code = works("LOCAL_REQUEUE_RETURN_CODE", submitit_internals.local_requeue_exit_code)
    mark = str(tmp_path / "started")

    def exit_once(code):  # nested, so that it is pickled by value
        if os.path.exists(mark):
            return "second start"
        open(mark, "w").close()
        os._exit(code)

    executor = submitit.AutoExecutor(tmp_path, cluster="local")
    executor.update_parameters(timeout_min=1, nodes=1, tasks_per_node=1)
    assert executor.submit(exit_once, code).result() == "second start"


def test_submission_errors():
    errors = works("FailedJobError", submitit_internals.submission_errors)
    assert all(issubclass(error, Exception) for error in errors)


@pytest.mark.parametrize("variable", [None, "USR1"])
def test_preemption_signal_is_submitits(variable):
    """matched.signals reads submitit's variable itself, so as not to import submitit."""
    code = (
        "from matched.signals import PREEMPTION_SIGNAL\n"
        "import submitit\n"
        "print(PREEMPTION_SIGNAL.name, 'SIG' + submitit.JobEnvironment.USR_SIG)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "SUBMITIT_PREEMPT_SIGNAL"}
    if variable is not None:
        environment["SUBMITIT_PREEMPT_SIGNAL"] = variable
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    names = process.stdout.split()
    assert names == 2 * [f"SIG{variable or 'USR2'}"], (
        f"submitit {submitit.__version__} moved JobEnvironment.USR_SIG or changed its default: "
        f"adapt PREEMPTION_SIGNAL in matched/signals.py ({process.stderr})"
    )
    if "SUBMITIT_PREEMPT_SIGNAL" not in os.environ:
        assert PREEMPTION_SIGNAL == signal.SIGUSR2


def test_a_moved_name_is_reported_in_words(monkeypatch):
    monkeypatch.delattr("submitit.slurm.slurm._make_sbatch_string")
    with pytest.raises(pytest.fail.Exception, match=r"moved _make_sbatch_string .*: adapt"):
        test_sbatch_script()


# --- the versions


def test_tested_versions_are_the_range_of_pyproject():
    text = (ROOT / "shared/matched/pyproject.toml").read_text(encoding="utf-8")
    assert f'"submitit{TESTED_VERSIONS}"' in text


def test_locked_submitit_is_within_tested_versions():
    from packaging.specifiers import SpecifierSet

    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(r"^submitit==(\S+)", lock, re.MULTILINE)[1] in SpecifierSet(TESTED_VERSIONS)


# --- no other module


PUBLIC = {"AutoExecutor", "Job", "JobEnvironment", "__version__", "helpers"}
UNDOCUMENTED = {
    "_equivalence_dict",
    "_make_sbatch_string",
    "_requeue",
    "LOCAL_REQUEUE_RETURN_CODE",
    "USR_SIG",
}
EXEMPT = {"submitit_internals.py", "test_submitit_internals.py"}


def internals_used(tree):
    """Return the undocumented names of submitit that a module imports or accesses."""
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            used |= {n for n in names if n.startswith("submitit.") and n != "submitit.helpers"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "submitit":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            used |= {n for n in names if n.split(".")[1] not in PUBLIC}
        elif isinstance(node, ast.Attribute):
            of_submitit = isinstance(node.value, ast.Name) and node.value.id == "submitit"
            if node.attr in UNDOCUMENTED or (of_submitit and node.attr not in PUBLIC):
                used.add(node.attr)
    return used


def test_no_other_module_uses_internals_of_submitit():
    folders = ("shared", "packages", "recipes", "benchmarks", "tests", "tools")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 100
    texts = {path: path.read_text(encoding="utf-8") for path in paths if path.name not in EXEMPT}
    used = {
        str(path.relative_to(ROOT)): names
        for path, text in texts.items()
        if any(name in text for name in ("submitit", *UNDOCUMENTED))  # parsing is slow
        and (names := internals_used(ast.parse(text)))
    }
    assert used == {}, "wrap it in matched/submitit_internals.py"


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import submitit.slurm.slurm", {"submitit.slurm.slurm"}),
        ("from submitit.local import local", {"submitit.local.local"}),
        ("submitit.core.utils.FailedJobError", {"core"}),
        ("environment._requeue(0)", {"_requeue"}),
        (
            "import submitit.helpers\nsubmitit.helpers.Checkpointable",
            set(),
        ),
    ],
)
def test_internals_used_finds_imports_and_attributes(code, names):
    assert internals_used(ast.parse(code)) == names


def test_background_streams_keep_earlier_output_and_restore_the_terminal(tmp_path, capfd):
    output = tmp_path / "folder" / "controllers.log"
    open_files = len(os.listdir("/proc/self/fd"))
    for word in ("first", "second"):
        with submitit_internals.background_streams(output):
            subprocess.run(
                [sys.executable, "-c", f"import sys; print('{word}', sys.stdin.read() == '')"],
                check=True,
            )
            subprocess.run([sys.executable, "-c", f"exit('{word} error')"], check=False)
        os.write(1, b"on the terminal\n")
    assert len(os.listdir("/proc/self/fd")) <= open_files
    lines = output.read_text().splitlines()
    assert lines == ["first True", "first error", "second True", "second error"]
    assert capfd.readouterr().out == "on the terminal\n" * 2
