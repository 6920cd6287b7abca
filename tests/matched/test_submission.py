"""submit with concurrent or empty submissions, and cancel."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from matched.status import Failure

NAMES = ["small.LN.0", "small.DyT.0"]
# Slow, so that two concurrent submissions overlap.
SBATCH = """
sleep 0.3
n=1; while [ -e "$HOME/sbatch.$n" ]; do n=$((n + 1)); done
echo > "$HOME/sbatch.$n"
echo "Submitted batch job $n"
"""
SQUEUE = """
[ -e "$HOME/sbatch.1" ] && { echo "1_0|1|PENDING|Priority"; echo "1_1|2|PENDING|Priority"; }
true
"""


@pytest.fixture
def slurm(one_row):
    one_row.program("sbatch", SBATCH)
    one_row.program("srun", "")
    one_row.program("squeue", SQUEUE)
    one_row.program("scancel", 'echo "$@" >> "$HOME/cancelled"')
    return one_row


def scancel_calls(project):
    path = project.root / "cancelled"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def num_submitted(output):
    return int(re.search(r"(\d+) of 2 runs submitted", output)[1])


# --- concurrent submissions


def test_concurrent_slurm_submissions_submit_once(slurm):
    both = [slurm.start("submit", "table1", "--cluster", "slurm") for _ in range(2)]
    outputs = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(num_submitted(out) for out, _ in outputs) == [0, 2]
    assert len(list(slurm.root.glob("sbatch.*"))) == 1
    assert slurm.directory(NAMES[0]).job().job.job_id == "1_0"


def test_concurrent_local_submissions_start_no_run_twice(one_row):
    both = [one_row.start("submit", "table1", "--wait") for _ in range(2)]
    outputs = [process.communicate(timeout=30) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(num_submitted(out) for out, _ in outputs) == [0, 2]
    assert sorted(one_row.computed()) == sorted(NAMES)


def test_submit_after_a_killed_submission(slurm):
    slurm.program("sbatch", 'echo > "$HOME/submitting"; exec sleep 60')
    first = slurm.start("submit", "table1", "--cluster", "slurm")
    slurm.wait_for((slurm.root / "submitting").exists, first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    slurm.program("sbatch", SBATCH)
    assert num_submitted(slurm.cli("submit", "table1", "--cluster", "slurm")) == 2


# --- streams of local jobs


@pytest.mark.parametrize("closed", ["", "2>&-"], ids=["pipes", "closed"])
def test_submit_in_a_pipe_returns_before_its_runs_end(one_row, closed):
    one_row.trouble("wait", *NAMES)
    command = f"x=$({shlex.quote(sys.executable)} -m matched submit table1 {closed}); echo $x"
    process = subprocess.run(
        ["sh", "-c", command],
        cwd=one_row.root,
        env=one_row.environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "2 of 2 runs submitted" in process.stdout
    assert not [name for name in NAMES if one_row.states()[name] not in ("queued", "running")]
    (one_row.root / "go").touch()
    one_row.wait_for(lambda: set(one_row.states().values()) == {"done"})


def test_what_a_local_controller_prints_is_kept(one_row):
    one_row.environment["PYTHONVERBOSE"] = "1"
    one_row.compute("submit", "table1", "--wait")
    (log,) = one_row.root.glob("runs/.jobs/submissions/*/controllers.log")
    assert "submitit" in log.read_text(encoding="utf-8")


# --- surroundings of a submission

OTHER_LAUNCHER = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "elsewhere",
    "MASTER_PORT": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
}
ENVIRONMENT_TASK = """
import os
from matched import Outcome

def train(context, config):
    (context.directory / "environment.txt").write_text(" ".join(os.environ))
    return Outcome(metrics={"top1": 1.0}, steps=1 + context.rank + 10 * context.world_size)
"""


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_jobs_ignore_the_rank_and_world_size_of_the_surroundings(one_row, cluster):
    code = one_row.write("code/numbered.py", ENVIRONMENT_TASK).parent
    one_row.recipe(
        'NUMBERED = Run(task="numbered:train", config=Config())\n'
        "TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), small=NUMBERED),))"
    )
    one_row.environment["PYTHONPATH"] += f":{code}"
    one_row.environment.update(OTHER_LAUNCHER)
    one_row.compute("submit", "table1", "--wait", "--cluster", cluster)
    (planned,) = one_row.plan().runs
    assert planned.directory.result()["steps"] == 11
    names = (planned.directory / "environment.txt").read_text(encoding="utf-8").split()
    launcher = {name for name in OTHER_LAUNCHER if not name.startswith("SLURM")}
    assert launcher.isdisjoint(names)
    if cluster == "local":  # tools such as fairseq read Slurm's variables too
        assert OTHER_LAUNCHER.keys().isdisjoint(names)


@pytest.mark.parametrize("outer_job", [{}, {"SLURM_JOB_ID": "7"}], ids=["shell", "salloc"])
@pytest.mark.parametrize(("gpus", "expected"), [(0, ""), (1, "GPU-8a2f")])
def test_local_job_has_the_gpus_of_the_surroundings(one_row, outer_job, gpus, expected):
    task = (
        "import os\n"
        "from matched import Outcome\n"
        "def train(context, config):\n"
        "    text = '{CUDA_VISIBLE_DEVICES}|{ROCR_VISIBLE_DEVICES}'.format(**os.environ)\n"
        "    (context.directory / 'gpus.txt').write_text(text)\n"
        "    return Outcome(metrics={'top1': 1.0}, steps=1)\n"
    )
    code = one_row.write("code/devices.py", task).parent
    one_row.site("[local]\ngpus = 8\n")
    one_row.recipe(
        'RUN = Run(task="devices:train", config=Config())\n'
        f"TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), gpus={gpus}, small=RUN),))"
    )
    one_row.environment["PYTHONPATH"] += f":{code}"
    one_row.environment |= {"CUDA_VISIBLE_DEVICES": "GPU-8a2f,3", "ROCR_VISIBLE_DEVICES": "3,4"}
    one_row.environment |= outer_job
    one_row.compute("submit", "table1", "--wait")
    (planned,) = one_row.plan().runs
    assert (planned.directory / "gpus.txt").read_text(encoding="utf-8") == f"{expected}|3,4"


@pytest.mark.slow  # imports torch twice
def test_processes_of_a_job_ignore_the_launcher_of_the_surroundings(one_row):
    one_row.meeting()
    one_row.recipe(
        "TABLE = Table(arms=ARMS[:1], scales=(replace(scale(seeds=(0,), small=SMALL),"
        " resources=Resources(processes=2, minutes=1)),))"
    )
    one_row.trouble("meets", "small.LN.0")
    one_row.environment.update(OTHER_LAUNCHER)
    one_row.compute("submit", "table1", "--wait")
    assert one_row.computed() == 2 * ["small.LN.0"]


# --- nothing to submit


@pytest.mark.parametrize("reason", ["all finished", "all running"])
@pytest.mark.parametrize("snapshot", [[], ["--snapshot"]], ids=["plain", "snapshot"])
def test_submit_with_nothing_missing_writes_nothing(slurm, reason, snapshot):
    for name in NAMES:
        if reason == "all finished":
            slurm.finish(name, top1=1.0)
        else:
            slurm.given(name, "slurm", "1_0")
            slurm.write("sbatch.1", "")
    before = sorted((slurm.root / "runs").rglob("*")), slurm.snapshot()
    for command in ("submit", "retry"):
        output = slurm.cli(command, "table1", "--cluster", "slurm", *snapshot)
        assert "0 of 2 runs submitted in 0 jobs" in output
    assert (sorted((slurm.root / "runs").rglob("*")), slurm.snapshot()) == before


# --- cancel


def test_cancel_local_runs_saves_checkpoints(one_row):
    one_row.trouble("steps", NAMES[0])
    process = one_row.start("submit", "table1", "--wait")
    one_row.wait_for((one_row.root / "started").exists, process)
    assert "2 runs asked to stop, in 1 job" in one_row.cli("cancel", "table1")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "small · LN · seed 0: failed cancelled by " in out
    assert list((one_row.directory(NAMES[0]) / "checkpoints").glob("step_*"))
    assert "cancelled by" in one_row.cli("status", "table1", code=1)
    (one_row.root / "go").touch()
    one_row.compute("submit", "table1", "--wait")
    assert set(one_row.states().values()) == {"done"}, "`submit` resumes cancelled runs"


def test_cancel_passes_job_ids_to_scancel(slurm):
    slurm.cli("submit", "table1", "--cluster", "slurm")
    assert "2 runs asked to stop, in 2 jobs" in slurm.cli("cancel", "table1")
    assert [sorted(line.split()) for line in scancel_calls(slurm)] == [["1_0", "1_1"]]
    (slurm.root / "sbatch.1").unlink()
    assert slurm.cli("status", "table1", code=1).count("cancelled by") == 2


def test_cancelled_retry_no_longer_shows_the_earlier_failure(slurm):
    for name in NAMES:
        directory = slurm.directory(name)
        directory.prepare()
        directory.write_failure(Failure(reason="out of memory", token="t0"))
    slurm.cli("submit", "table1", "--cluster", "slurm")
    slurm.cli("cancel", "table1")
    slurm.program("squeue", "")
    told = slurm.cli("status", "table1", code=1)
    assert told.count("cancelled by") == 2 and "out of memory" not in told


def test_cancel_one_cell_with_its_own_job(slurm):
    slurm.cli("submit", "table1", "--cluster", "slurm")
    assert "1 run asked" in slurm.cli("cancel", "table1", "--row", "small", "--arm", "DyT")
    assert scancel_calls(slurm) == ["1_1"]


@pytest.mark.parametrize("selection", [["--arm", "LN"], ["--row", "small", "--arm", "DyT"]])
def test_cancel_refuses_part_of_a_shared_job(slurm, selection):
    for name in NAMES:
        slurm.given(name, "slurm", "1_0")
    slurm.write("sbatch.1", "")
    line = slurm.mistake("cancel", "table1", *selection)
    other = "LN" if selection[-1] == "DyT" else "DyT"
    assert line.startswith(f"slurm job 1_0 computes other runs too (small · {other} · seed 0)")
    assert "do not pass --row, --arm or --seed" in line
    assert scancel_calls(slurm) == []
    assert "cancelled" not in slurm.json(slurm.directory(NAMES[0]) / "job.json")


def test_cancel_by_a_user_number_without_a_name(slurm, monkeypatch):
    """As in a container whose passwd lacks the user."""

    def no_name(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_name)
    slurm.cli("submit", "table1", "--cluster", "slurm")
    assert "2 runs asked to stop, in 2 jobs" in slurm.cli("cancel", "table1")
    job = slurm.json(slurm.directory(NAMES[0]) / "job.json")
    assert job["cancelled"].startswith(f"user {os.getuid()}, ")


def test_cancel_with_nothing_running(one_row):
    one_row.finish(NAMES[0], top1=1.0)
    assert "0 runs asked to stop" in one_row.cli("cancel", "table1")
    assert "0 runs asked to stop" in one_row.cli("cancel", "table1", "--seed", "0")


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (("--row", "smal"), "unknown row of table1: 'smal'; known, nearest first: small"),
        (("--arm", "RMSNorm"), "unknown arm of table1: 'RMSNorm'; known, nearest first: LN, DyT"),
        (("--seed", "99"), "unknown seed 99; known: 0"),
        (("--value", "0.5"), "unknown value 0.5; known: none, because this cell has no search"),
    ],
)
def test_cancel_refuses_a_selection_of_nothing(one_row, selection, message):
    assert one_row.mistake("cancel", "table1", *selection) == message


def test_cancel_refused_by_scancel_leaves_runs_queued(slurm):
    slurm.cli("submit", "table1", "--cluster", "slurm")
    slurm.program("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    line = slurm.mistake("cancel", "table1")
    assert line == "scancel failed: scancel: error: Access denied"
    assert set(slurm.states().values()) == {"queued"}
    assert "cancelled" not in slurm.json(slurm.directory(NAMES[0]) / "job.json")


def test_cancel_refuses_a_process_of_another_host(one_row, monkeypatch):
    with monkeypatch.context() as other_host:
        other_host.setattr(socket, "gethostname", lambda: "far")
        one_row.given(NAMES[0], "local", "7")
    line = one_row.mistake("cancel", "table1")
    assert line == "process 7 on host far can be cancelled on that host only"
    assert "cancelled" not in one_row.json(one_row.directory(NAMES[0]) / "job.json")
