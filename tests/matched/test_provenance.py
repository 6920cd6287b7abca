"""Provenance: the commit and uncommitted changes of a submission, and code snapshots."""

import re
import shutil
import subprocess

import pytest

from matched import provenance

NAMES = ["small.LN.0", "small.DyT.0"]
# A task of the project's own code, which a job imports when its first run starts.
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
    """The project's folder as a git repository that contains a task."""

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
        author = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
        command = ["git", *author, *arguments]
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
    """Return the folder of the only submission."""
    (folder,) = (project.root / "runs/.jobs/submissions").iterdir()
    return folder


def submit_debug(project):
    return project.compute("submit", "table1", "--cluster", "debug")


def record(project):
    """Record a submission as ``submit`` does, without its runs; return the content of code.json."""
    folder = project.root / "runs/.jobs/submissions"
    return provenance.record_submission(folder, project.root, snapshot=False)


# --- records


def test_submission_records_the_commit(repository):
    project = repository.project
    commit = repository.git("rev-parse", "HEAD").strip()
    submit_debug(project)
    folder = submission(project)
    code = project.json(folder / "code.json")
    assert code == {
        "commit": commit,
        "submission": str(folder),
        "uncommitted": False,
        "left_out": [],
    }
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{8}", folder.name)
    assert [path.name for path in folder.iterdir()] == ["code.json"]
    environment = project.json(project.directory(NAMES[0]) / "environment.json")
    assert environment["submitted"] == code
    job = project.json(project.directory(NAMES[0]) / "job.json")
    assert job["submission"] == str(folder)


def test_uncommitted_changes_can_be_restored(repository):
    """Changed, new, deleted, staged or not: commit and diff give the same files."""
    project = repository.project
    project.write("code/deleted.py", "")
    project.write("code/staged.py", "old")
    commit = repository.commit()
    changed = project.write("code/own.py", TASK + "# changed ±\n")
    new = project.write("code/deep/a new file.py", "NEW = 1\n")
    binary = project.root / "code" / "weights.bin"
    binary.write_bytes(bytes(range(256)))
    (project.root / "code/deleted.py").unlink()
    staged = project.write("code/staged.py", "new")
    repository.git("add", "code/staged.py")
    files = {path: path.read_bytes() for path in (changed, new, binary, staged)}
    index = (project.root / ".git/index").read_bytes()
    status = repository.git("status", "--porcelain")
    record(project)
    assert (project.root / ".git/index").read_bytes() == index
    assert repository.git("status", "--porcelain", "--", "code", "recipes") in status
    code = project.json(submission(project) / "code.json")
    assert (code["commit"], code["uncommitted"]) == (commit, True)

    worktree = project.root / "runs" / "worktree"
    repository.git("worktree", "add", "--quiet", "--detach", str(worktree), commit)
    diff = submission(project) / "uncommitted.diff"
    subprocess.run(["git", "apply", str(diff)], cwd=worktree, check=True)
    restored = {path: worktree / path.relative_to(project.root) for path in files}
    assert {path: copy.read_bytes() for path, copy in restored.items()} == files
    assert not (worktree / "code/deleted.py").exists()


def test_large_untracked_files_are_named_but_not_kept(repository):
    project = repository.project
    with project.write("code/images.tar", "").open("r+b") as file:
        file.truncate(10_000_001)
    record(project)
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


@pytest.mark.parametrize(
    ("remove", "problem"),
    [
        (no_git, "git is not installed; install it"),
        (no_repository, "not a git repository"),
        (no_commit, "has no commit; make one"),
    ],
)
def test_without_a_commit_a_snapshot_is_refused(repository, remove, problem):
    project = repository.project
    remove(project)
    line = project.mistake("submit", "table1", "--snapshot")
    assert line.startswith("a snapshot copies the files that git tracks, but ")
    assert problem in line
    assert set(project.states().values()) == {"new"}
    assert not list(project.root.glob("runs/.jobs/submissions/*"))
    submit_debug(project)
    assert project.json(submission(project) / "code.json")["commit"] is None


def test_snapshot_with_cluster_debug_is_refused(repository):
    line = repository.project.mistake("submit", "table1", "--cluster", "debug", "--snapshot")
    assert line == (
        "--snapshot cannot be used with --cluster debug, which runs in this process; "
        "use --cluster local or slurm"
    )
    assert not list(repository.project.root.glob("runs/.jobs/submissions/*"))


# --- snapshots


@pytest.mark.parametrize("snapshot", [True, False], ids=["snapshot", "plain"])
def test_code_edited_after_a_submission(repository, snapshot):
    """Queued runs use the edited code, unless they run from a snapshot."""
    project = repository.project
    project.trouble("wait", "small.LN.0")
    options = ["--snapshot"] if snapshot else []
    process = project.start("submit", "table1", "--wait", *options)
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


def test_snapshot_has_uncommitted_files_but_no_ignored_ones(repository):
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


# --- settings of git


GIT_SETTINGS = {
    "external": {"diff.external": "echo"},
    "color": {"color.ui": "always"},
    "noprefix": {"diff.noprefix": "true"},
    "mnemonic": {"diff.mnemonicPrefix": "true"},
    "context": {"diff.context": "0"},
    "relative": {"diff.relative": "true"},
    "order": {"diff.orderFile": "no such file"},
    "textconv": {"diff.upper.textconv": "tr a-z A-Z <"},
    "copies": {"diff.renames": "copies"},
    "names": {"core.quotePath": "false"},
}


def restored_files(project, repository, commit):
    """Return the files below code/ after ``git apply`` of the kept diff to the commit."""
    worktree = project.root / "runs" / "worktree"
    repository.git("worktree", "add", "--quiet", "--detach", str(worktree), commit)
    diff = submission(project) / "uncommitted.diff"
    subprocess.run(["git", "apply", str(diff)], cwd=worktree, check=True)
    return files_of(worktree / "code")


def files_of(folder):
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix == ".py"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def change_code(repository):
    """Commit a long file, change it and others; return the commit."""
    project = repository.project
    lines = [f"LINE_{n} = {n}\n" for n in range(40)]
    project.write("code/long.py", "".join(lines))
    project.write(".gitattributes", "*.py diff=upper\n")
    commit = repository.commit()
    project.write("code/long.py", "".join([*lines[:20], "changed = 1\n", *lines[21:], "\n"]))
    project.write("code/copy ä.py", "".join(lines))
    return commit


@pytest.mark.parametrize("settings", GIT_SETTINGS.values(), ids=GIT_SETTINGS)
def test_kept_diff_can_be_applied_whatever_the_git_settings(repository, settings):
    project = repository.project
    commit = change_code(repository)
    for name, value in settings.items():
        repository.git("config", name, value)
    record(project)
    for name in settings:  # they are those of the submitter, not of whoever applies the diff
        repository.git("config", "--unset", name)
    assert restored_files(project, repository, commit) == files_of(project.root / "code")


@pytest.mark.parametrize("variable", ["GIT_EXTERNAL_DIFF", "GIT_DIR", "GIT_INDEX_FILE"])
def test_kept_diff_ignores_git_variables_of_the_surroundings(repository, monkeypatch, variable):
    """GIT_DIR and GIT_INDEX_FILE are set in hooks, of another repository perhaps."""
    project = repository.project
    commit = change_code(repository)
    with monkeypatch.context() as hook:
        hook.setenv(variable, "true" if variable == "GIT_EXTERNAL_DIFF" else "/elsewhere")
        record(project)
    assert project.json(submission(project) / "code.json")["commit"] == commit
    assert restored_files(project, repository, commit) == files_of(project.root / "code")


def test_failing_git_diff_is_not_taken_for_no_changes(repository, monkeypatch):
    """A clone that uses git-lfs, on a host without git-lfs."""
    project = repository.project
    project.write("code/weights.bin", "one\n")
    commit = repository.commit()
    project.write("code/.gitattributes", "*.bin filter=absent\n")
    project.write("code/weights.bin", "other\n")
    for key, value in (("clean", "absent-filter"), ("required", "true")):
        repository.git("config", f"filter.absent.{key}", value)
    warnings = []
    monkeypatch.setattr(
        provenance.log, "warning", lambda text, *words: warnings.append(text % words)
    )
    code = record(project)
    assert code == project.json(submission(project) / "code.json")
    problem = "git diff failed, so uncommitted changes are not recorded"
    assert (code["commit"], code["uncommitted"], code["commit_problem"]) == (commit, None, problem)
    assert warnings == [f"{problem} in {project.root}"]


def test_submission_from_a_clone_without_an_index_is_recorded(repository):
    project = repository.project
    (project.root / ".git/index").unlink()
    code = record(project)
    assert code["commit"] == repository.git("rev-parse", "HEAD").strip()
    assert "commit_problem" not in code and not (project.root / ".git/index").exists()


def test_edit_of_equal_size_just_after_a_commit_is_kept(repository):
    """git compares times in seconds, those of the files and of the index."""
    project = repository.project
    project.write("code/number.py", "NUMBER = 1\n")
    repository.commit()
    project.write("code/number.py", "NUMBER = 2\n")
    record(project)
    diff = (submission(project) / "uncommitted.diff").read_text(encoding="utf-8")
    assert "+NUMBER = 2" in diff


@pytest.fixture
def foreign(repository, monkeypatch):
    """The repository as that of another user."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    repository.project.environment["GIT_TEST_ASSUME_DIFFERENT_OWNER"] = "1"
    return repository.project


def test_checkout_of_another_user_is_named_with_the_remedy(foreign):
    problem = (
        f"git cannot use {foreign.root} (detected dubious ownership in repository at "
        f"'{foreign.root}'); if you trust its owner, run "
        f"`git config --global --add safe.directory {foreign.root}`"
    )
    line = foreign.mistake("submit", "table1", "--snapshot", "--cluster", "local")
    assert line == (
        f"a snapshot copies the files that git tracks, but {problem}; or submit without SNAPSHOT=1"
    )
    output = submit_debug(foreign)
    assert f"the submitted code is not recorded: {problem}" in output
    code = foreign.json(submission(foreign) / "code.json")
    assert (code["commit"], code["commit_problem"]) == (None, problem)


def test_folder_without_git_is_submitted_without_a_warning(repository):
    no_repository(repository.project)
    output = submit_debug(repository.project)
    assert "not recorded" not in output
    code = repository.project.json(submission(repository.project) / "code.json")
    assert "not a git repository" in code["commit_problem"]
