"""Submitting to a Slurm that is a few lines of shell: what sbatch is told, and what is kept."""

import re

import pytest

CHAIN = """
START = Run(task="tiny:train", config=Config(model="start"))
TOP = Run(task="tiny:train", config=Config(model="small"), needs={"start": START})
TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), runs_per_job=@, small=TOP),))
"""

# The nth submission becomes job n and leaves its script as sbatch.n.
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
    """The options of each submission, in order."""
    found = []
    while (path := project.root / f"sbatch.{len(found) + 1}").exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        found.append(dict(m.groups() for line in lines if (m := re.match(OPTION, line))))
    return found


OPTION = r"#SBATCH --([\w-]+)=?(.*)"


def job_ids(project):
    return {
        name: project.directory(name).job().job.job_id for name in ("small.LN.0", "small.DyT.0")
    }


def test_jobs_of_one_wave_are_one_array(slurm):
    slurm.site('[slurm]\npartition = "gpu"\naccount = "a1"\nparallel = 1\nmax_hours = 1\n')
    assert "2 of 2 runs submitted in 2 jobs (slurm)" in submit(slurm)
    (script,) = scripts(slurm)
    assert script["array"] == "0-1%1"
    assert (script["partition"], script["account"]) == ("gpu", "a1")
    assert script["time"] == "30"
    assert job_ids(slurm) == {"small.LN.0": "1_0", "small.DyT.0": "1_1"}


def test_a_single_job_is_no_array(slurm):
    slurm.recipe(
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), runs_per_job=2, small=SMALL),))"
    )
    submit(slurm)
    (script,) = scripts(slurm)
    assert "array" not in script
    assert job_ids(slurm) == {"small.LN.0": "1", "small.DyT.0": "1"}


def test_the_queue_then_says_where_the_runs_stand(slurm):
    submit(slurm)
    queue(slurm, "1_0|2|RUNNING|None", "1_1|3|PENDING|Priority")
    assert set(slurm.states().values()) == {"queued"}
    assert "0 of 2 runs submitted" in submit(slurm)
    assert len(scripts(slurm)) == 1, "what is at work is left alone"


def test_jobs_that_vanished_are_submitted_again(slurm):
    submit(slurm)
    queue(slurm, "1_0|2|RUNNING|None")
    assert slurm.states() == {"small.LN.0": "queued", "small.DyT.0": "failed"}
    assert "1 of 2 runs submitted in 1 jobs" in submit(slurm)
    assert job_ids(slurm) == {"small.LN.0": "1_0", "small.DyT.0": "2"}


def test_needs_become_dependencies(slurm):
    slurm.recipe(CHAIN.replace("@", "1"))
    submit(slurm)
    first, *others = scripts(slurm)
    assert "dependency" not in first and first["array"].startswith("0-1")
    assert [script["dependency"] for script in others] == ["afterany:1_0", "afterany:1_1"]


def test_dependencies_keep_the_other_options_of_the_site(slurm):
    slurm.site('[slurm.options]\nexclude = "node7"\n')
    slurm.recipe(CHAIN.replace("@", "2"))
    submit(slurm)
    first, second = scripts(slurm)
    assert (first["exclude"], second["exclude"]) == ("node7", "node7")
    assert second["dependency"] == "afterany:1"


def test_a_refusal_is_quoted_in_one_line_and_leaves_the_runs_new(slurm):
    words = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    slurm.program(
        "sbatch",
        f"echo 'sbatch: error: invalid partition specified' >&2\necho '{words}' >&2; exit 1",
    )
    line = slurm.mistake("submit", "table1", "--cluster", "slurm")
    assert line == f"Slurm refused the job: {words}"
    assert set(slurm.states().values()) == {"new"}


def test_what_was_accepted_before_a_refusal_is_remembered(slurm):
    slurm.recipe(CHAIN.replace("@", "2"))
    slurm.program(
        "sbatch", f"[ -e $HOME/sbatch.1 ] && {{ echo 'no more jobs' >&2; exit 1; }}\n{SBATCH}"
    )
    assert "no more jobs" in slurm.mistake("submit", "table1", "--cluster", "slurm")
    queue(slurm, "1_N/A|1|PENDING|Priority")
    states = [str(planned.status.state) for planned in slurm.plan().runs]
    assert states == ["queued", "new", "queued", "new"]


@pytest.mark.parametrize("per_job", ["1", "2"])
def test_the_plan_shows_what_sbatch_will_be_told_and_asks_nothing(slurm, per_job):
    slurm.site('[slurm]\npartition = "gpu"\nparallel = 1\n[slurm.options]\nexclude = "node7"\n')
    slurm.recipe(CHAIN.replace("@", per_job))
    told = slurm.cli("plan", "table1", "--cluster", "slurm")
    assert scripts(slurm) == []
    assert not (slurm.root / "runs").exists()
    shown = [dict(re.findall(OPTION, part)) for part in told.split("Slurm is asked for")[1:]]
    submit(slurm)
    sent = scripts(slurm)
    for script in sent[1:]:  # on the id of a job that was not there yet
        assert script.pop("dependency") and script.pop("kill-on-invalid-dep") == "yes"
    assert shown == sent
