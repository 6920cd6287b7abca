"""submit to a stand-in for Slurm: the options of sbatch, and the recorded job ids."""

import os
import re
import subprocess

import pytest

CHAIN = """
START = Run(task="tiny:train", config=Config(model="start"))
TOP = Run(task="tiny:train", config=Config(model="small"), needs={"start": START})
TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), runs_per_job=@, small=TOP),))
"""

# Submission n becomes job n and writes its script to sbatch.n.
SBATCH = """
n=1; while [ -e "$HOME/sbatch.$n" ]; do n=$((n + 1)); done
for script; do :; done
cat "$script" > "$HOME/sbatch.$n"
echo "Submitted batch job $n"
"""


@pytest.fixture
def slurm(one_row):
    one_row.program("sbatch", SBATCH)
    one_row.program("srun", "")
    queue(one_row)
    return one_row


def queue(project, *lines):
    text = "".join(f"{line}\n" for line in lines)
    project.program("squeue", f"cat <<END\n{text}END")


def submit(project, code=0):
    return project.cli("submit", "table1", "--cluster", "slurm", code=code)


def scripts(project):
    """Return the options of each submission, in order."""
    submissions = []
    while (path := project.root / f"sbatch.{len(submissions) + 1}").exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        submissions.append(dict(m.groups() for line in lines if (m := re.match(OPTION, line))))
    return submissions


OPTION = r"#SBATCH --([\w-]+)=?(.*)"


def job_ids(project):
    return {
        name: project.directory(name).job().job.job_id for name in ("small.LN.0", "small.DyT.0")
    }


def test_equal_jobs_are_one_slurm_array(slurm):
    slurm.site('[slurm]\npartition = "gpu"\naccount = "a1"\nparallel = 1\nmax_hours = 1\n')
    assert "2 of 2 runs submitted in 2 jobs (slurm)" in submit(slurm)
    (script,) = scripts(slurm)
    assert script["array"] == "0-1%1"
    assert (script["partition"], script["account"]) == ("gpu", "a1")
    assert script["time"] == "30"
    assert job_ids(slurm) == {"small.LN.0": "1_0", "small.DyT.0": "1_1"}


def test_a_single_job_is_not_an_array(slurm):
    slurm.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), runs_per_job=2, small=SMALL),))"
    )
    submit(slurm)
    (script,) = scripts(slurm)
    assert "array" not in script
    assert job_ids(slurm) == {"small.LN.0": "1", "small.DyT.0": "1"}


def test_queued_runs_are_not_submitted_again(slurm):
    submit(slurm)
    queue(slurm, "1_0|2|RUNNING|None", "1_1|3|PENDING|Priority")
    assert set(slurm.states().values()) == {"queued"}
    assert "0 of 2 runs submitted" in submit(slurm)
    assert len(scripts(slurm)) == 1, "queued and running runs are left alone"


def test_runs_of_vanished_jobs_are_submitted_again(slurm):
    submit(slurm)
    queue(slurm, "1_0|2|RUNNING|None")
    assert slurm.states() == {"small.LN.0": "queued", "small.DyT.0": "failed"}
    assert "1 of 2 runs submitted in 1 job" in submit(slurm)
    assert job_ids(slurm) == {"small.LN.0": "1_0", "small.DyT.0": "2"}


def test_needs_become_slurm_dependencies(slurm):
    slurm.recipe(CHAIN.replace("@", "1"))
    submit(slurm)
    first, *dependents = scripts(slurm)
    assert "dependency" not in first and first["array"].startswith("0-1")
    assert [script["dependency"] for script in dependents] == ["afterany:1_0", "afterany:1_1"]


def test_dependencies_keep_the_sites_slurm_options(slurm):
    slurm.site('[slurm.options]\nexclude = "node7"\n')
    slurm.recipe(CHAIN.replace("@", "2"))
    submit(slurm)
    first, second = scripts(slurm)
    assert (first["exclude"], second["exclude"]) == ("node7", "node7")
    assert second["dependency"] == "afterany:1"


def test_sbatch_error_is_quoted_and_leaves_runs_new(slurm):
    message = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    slurm.program(
        "sbatch",
        f"echo 'sbatch: error: invalid partition specified' >&2\necho '{message}' >&2; exit 1",
    )
    line = slurm.mistake("submit", "table1", "--cluster", "slurm")
    assert line == f"Slurm refused the job: {message}"
    assert set(slurm.states().values()) == {"new"}


def test_jobs_accepted_before_an_sbatch_error_are_recorded(slurm):
    slurm.recipe(CHAIN.replace("@", "2"))
    slurm.program(
        "sbatch", f"[ -e $HOME/sbatch.1 ] && {{ echo 'no more jobs' >&2; exit 1; }}\n{SBATCH}"
    )
    assert "no more jobs" in slurm.mistake("submit", "table1", "--cluster", "slurm")
    queue(slurm, "1_N/A|1|PENDING|Priority")
    states = [str(planned.status.state) for planned in slurm.plan().runs]
    assert states == ["queued", "new", "queued", "new"]


@pytest.mark.parametrize("per_job", ["1", "2"])
def test_plan_shows_sbatch_options_without_submitting(slurm, per_job):
    slurm.site('[slurm]\npartition = "gpu"\nparallel = 1\n[slurm.options]\nexclude = "node7"\n')
    slurm.recipe(CHAIN.replace("@", per_job))
    output = slurm.cli("plan", "table1", "--cluster", "slurm")
    assert scripts(slurm) == []
    assert not (slurm.root / "runs").exists()
    shown = [dict(re.findall(OPTION, part)) for part in output.split("Slurm is asked for")[1:]]
    submit(slurm)
    sent = scripts(slurm)
    for script in sent[1:]:  # the plan cannot know the id of a job that is not submitted yet
        assert script.pop("dependency") and script.pop("kill-on-invalid-dep") == "yes"
    assert shown == [script for i, script in enumerate(sent) if script not in sent[:i]]


# --- surroundings of the submission

OUTER_JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_CPUS_PER_TASK": "1",
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
    "SLURM_TRES_PER_TASK": "cpu:1",
    "SRUN_CPUS_PER_TASK": "1",
    "SALLOC_PARTITION": "debug",
    "SBATCH_MEM_PER_CPU": "100",
    "SBATCH_TIMELIMIT": "1",
    "CUDA_VISIBLE_DEVICES": "3",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "elsewhere",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
CLIENT = {"SLURM_CONF": "/etc/other/slurm.conf", "SLURM_CLUSTERS": "c1", "SBATCH_ACCOUNT": "a1"}


def environment_of_sbatch(project, monkeypatch, variables):
    """Return the variables that sbatch, and so the jobs, get from a submission."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    project.program("sbatch", f'env > "$HOME/environment"\n{SBATCH}')
    submit(project)
    assert {name: os.environ[name] for name in variables} == variables, "only sbatch is affected"
    lines = (project.root / "environment").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_variables_of_an_outer_job_do_not_reach_sbatch(slurm, monkeypatch):
    passed_on = environment_of_sbatch(slurm, monkeypatch, OUTER_JOB | CLIENT)
    assert OUTER_JOB.keys() & passed_on.keys() == set()
    assert passed_on.items() >= CLIENT.items(), "sbatch needs them to find the cluster"


def test_site_settings_win_over_variables_of_sbatch(slurm, monkeypatch):
    slurm.site('[slurm]\naccount = "a2"\n[slurm.options]\nreservation = "r"\n')
    variables = {"SBATCH_ACCOUNT": "a1", "SBATCH_RESERVATION": "q", "SBATCH_QOS": "low"}
    passed_on = environment_of_sbatch(slurm, monkeypatch, variables)
    assert passed_on.keys() & variables.keys() == {"SBATCH_QOS"}


def test_filters_of_squeue_in_the_environment_hide_no_jobs(slurm, monkeypatch):
    submit(slurm)
    monkeypatch.setenv("SQUEUE_PARTITION", "debug")
    line = "1_0|2|RUNNING|None\n1_1|3|PENDING|Priority"
    slurm.program("squeue", f'[ -n "$SQUEUE_PARTITION" ] || echo "{line}"')
    assert set(slurm.states().values()) == {"queued"}


def test_job_script_gives_its_cores_to_srun(slurm):
    """From Slurm 22.05 to 23.02, a step has one core unless srun is told otherwise."""
    slurm.program("srun", 'echo "$SRUN_CPUS_PER_TASK" > "$HOME/cores"')
    submit(slurm)
    environment = {**slurm.environment, "SLURM_CPUS_PER_TASK": "10"}
    subprocess.run(["sh", str(slurm.root / "sbatch.1")], env=environment, check=True)
    assert (slurm.root / "cores").read_text(encoding="utf-8") == "10\n"


@pytest.mark.parametrize("command", ["sbatch", "srun"])
def test_missing_slurm_command_is_refused_by_name(slurm, command):
    (slurm.programs / command).unlink()
    line = slurm.mistake("submit", "table1", "--cluster", "slurm")
    assert line == (
        f"there is no Slurm here (no {command} on PATH): run this on a login node, "
        "or use --cluster local"
    )
    assert not (slurm.root / "runs").exists()


def test_missing_scancel_is_an_error_and_cancels_nothing(slurm):
    submit(slurm)
    queue(slurm, "1_0|2|RUNNING|None", "1_1|3|PENDING|Priority")
    line = slurm.mistake("cancel", "table1")
    assert line.startswith("scancel cannot be run (No such file or directory); run this where")
    assert "cancelled" not in slurm.json(slurm.directory("small.LN.0") / "job.json")


def test_sbatch_answer_without_a_job_id_is_quoted(slurm):
    slurm.program("sbatch", "echo 'Welcome to the cluster'")
    assert "Slurm refused the job" in slurm.mistake("submit", "table1", "--cluster", "slurm")
