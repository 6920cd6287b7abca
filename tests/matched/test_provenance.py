"""Which code a run was computed with: what is written down, and the copy that jobs can run from."""

import shutil
import subprocess

import pytest

NAMES = ["small.LN.0", "small.DyT.0"]
# Run by a task of the project's own code, which is imported when the first run begins.
TASK = """
import tiny
from matched import Outcome
from tiny import root

def train(context, config):
    tiny.train(context, config)
    return Outcome(metrics={"top1": 1.0}, steps=1)
"""
RECIPE = """
SMALL = Run(task="tiny:train", config=Config(model="small"))
LARGE = Run(task="own:train", config=Config(model="large"))
TABLE = Table(arms=ARMS[:1], scales=(scale(seeds=(0,), small=SMALL, large=LARGE),))
"""


class Repository:
    """The project's folder, as a git repository with code of its own."""

    def __init__(self, project):
        self.project = project
        project.write("code/own.py", TASK)
        project.write(".gitignore", "runs/\nresults/\nbin/\ntrouble/\n__pycache__/\n/started\n")
        path = f"{project.root / 'code'}:{project.environment['PYTHONPATH']}"
        project.environment["PYTHONPATH"] = path
        project.recipe(RECIPE)
        self.git("init", "--quiet")
        self.commit()

    def git(self, *arguments):
        who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
        command = ["git", *who, *arguments]
        return subprocess.run(
            command, cwd=self.project.root, capture_output=True, text=True, check=True
        ).stdout

    def commit(self):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "All")
        return self.git("rev-parse", "HEAD").strip()


@pytest.fixture
def repository(project):
    return Repository(project)


def submission(project):
    """The folder of the only submission."""
    (folder,) = (project.root / "runs/.jobs/submissions").iterdir()
    return folder


def debug(project, *more, **keywords):
    return project.compute("submit", "table1", "--cluster", "debug", *more, **keywords)


# --- what is written down


def test_the_commit_is_written_down(repository):
    project = repository.project
    commit = repository.git("rev-parse", "HEAD").strip()
    debug(project)
    folder = submission(project)
    code = project.json(folder / "code.json")
    assert (code["commit"], code["uncommitted"], code["left_out"]) == (commit, False, [])
    assert [path.name for path in folder.iterdir()] == ["code.json"]
    environment = project.json(project.directory(NAMES[0]) / "environment.json")
    assert environment["submitted"] == code
    job = project.json(project.directory(NAMES[0]) / "job.json")
    assert job["submission"] == str(folder)


def test_what_is_not_committed_can_be_restored(repository):
    """Changed, new, deleted, staged or not: the commit and the difference give the same files."""
    project = repository.project
    project.write("code/gone.py", "")
    project.write("code/staged.py", "old")
    commit = repository.commit()
    own = project.write("code/own.py", TASK + "# changed ±\n")
    new = project.write("code/deep/a new file.py", "NEW = 1\n")
    binary = project.root / "code" / "weights.bin"
    binary.write_bytes(bytes(range(256)))
    (project.root / "code/gone.py").unlink()
    staged = project.write("code/staged.py", "new")
    repository.git("add", "code/staged.py")
    files = {path: path.read_bytes() for path in (own, new, binary, staged)}
    index = (project.root / ".git/index").read_bytes()
    status = repository.git("status", "--porcelain")
    debug(project)
    assert (project.root / ".git/index").read_bytes() == index
    assert repository.git("status", "--porcelain", "--", "code", "recipes") in status
    code = project.json(submission(project) / "code.json")
    assert (code["commit"], code["uncommitted"]) == (commit, True)

    elsewhere = project.root / "runs" / "elsewhere"
    repository.git("worktree", "add", "--quiet", "--detach", str(elsewhere), commit)
    difference = submission(project) / "uncommitted.diff"
    subprocess.run(["git", "apply", str(difference)], cwd=elsewhere, check=True)
    restored = {path: elsewhere / path.relative_to(project.root) for path in files}
    assert {path: copy.read_bytes() for path, copy in restored.items()} == files
    assert not (elsewhere / "code/gone.py").exists()


def test_large_files_that_git_does_not_know_are_named_and_not_kept(repository):
    project = repository.project
    with project.write("code/images.tar", "").open("r+b") as file:
        file.truncate(10_000_001)
    debug(project)
    folder = submission(project)
    assert project.json(folder / "code.json")["left_out"] == ["code/images.tar"]
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 100_000


def no_git(project):
    (project.programs / "git").unlink()


def no_repository(project):
    shutil.rmtree(project.root / ".git")


def no_commit(project):
    shutil.rmtree(project.root / ".git")
    subprocess.run(["git", "init", "--quiet"], cwd=project.root, check=True)


@pytest.mark.parametrize("lacking", [no_git, no_repository, no_commit])
def test_without_a_commit_null_is_written_down_and_a_snapshot_refused(repository, lacking):
    project = repository.project
    lacking(project)
    line = project.mistake("submit", "table1", "--snapshot")
    assert line.startswith("a snapshot copies the files that git tracks, but ")
    assert f"{project.root} is not a git repository with a commit" in line
    assert set(project.states().values()) == {"new"}
    assert not list(project.root.glob("runs/.jobs/submissions/*"))
    debug(project)
    assert project.json(submission(project) / "code.json")["commit"] is None


def test_a_snapshot_makes_no_sense_in_the_process_that_submits(repository):
    line = repository.project.mistake("submit", "table1", "--cluster", "debug", "--snapshot")
    assert line == (
        "--snapshot needs jobs of their own, and --cluster debug runs in this process; "
        "use --cluster local or slurm"
    )
    assert not list(repository.project.root.glob("runs/.jobs/submissions/*"))


# --- running from a copy


@pytest.mark.parametrize("snapshot", [True, False], ids=["snapshot", "plain"])
def test_what_is_edited_after_a_submission(repository, snapshot):
    """It changes what is queued, unless that runs from a snapshot."""
    project = repository.project
    project.trouble("wait", "small.LN.0")
    more = ["--snapshot"] if snapshot else []
    process = project.start("submit", "table1", "--wait", *more)
    project.wait_for((project.root / "started").exists, process)
    assert project.states() == {"small.LN.0": "running", "large.LN.0": "queued"}
    own = project.root / "code" / "own.py"
    own.write_text(TASK.replace("1.0", "2.0"), encoding="utf-8")
    (project.root / "go").touch()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, out + err
    result = project.json(project.directory("large.LN.0") / "result.json")
    assert result["metrics"]["top1"] == (1.0 if snapshot else 2.0)
    assert own.read_text(encoding="utf-8").count("2.0") == 1


def test_a_snapshot_has_what_is_not_committed_and_nothing_that_git_ignores(repository):
    project = repository.project
    project.write("code/own.py", TASK.replace("1.0", "3.0"))
    project.write("code/new.py", "")
    project.write("code/__pycache__/own.pyc", "")
    project.compute("submit", "table1", "--wait", "--snapshot")
    folder = submission(project)
    code = project.json(folder / "code.json")
    assert code["snapshot"] == str(folder / "code")
    assert "3.0" in (folder / "code/code/own.py").read_text(encoding="utf-8")
    assert (folder / "code/code/new.py").exists()
    assert not (folder / "code/code/__pycache__/own.pyc").exists()
    assert not (folder / "code/runs").exists() and not (folder / "code/bin").exists()
    environment = project.json(project.directory("large.LN.0") / "environment.json")
    assert environment["commit"] == code["commit"] == repository.git("rev-parse", "HEAD").strip()
    result = project.json(project.directory("large.LN.0") / "result.json")
    assert result["metrics"]["top1"] == 3.0
