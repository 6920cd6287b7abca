"""Failure reasons of errors in data-loading processes: the original message without torch's."""

import gc
import sys
import types

import pytest
from torch.utils.data import DataLoader, Dataset, _utils

from matched import Run, TrainConfig, provenance, run_execution, site
from matched.job_status import job_record
from matched.peers import Peers


class Unreadable(OSError):
    def __init__(self, path, reason):
        super().__init__(f"{path}: {reason}")


class Broken(Dataset):
    """A data set that raises an error for every sample."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if self.error == "chained":
            try:
                int("x")
            except ValueError as error:
                raise ValueError("the label is no number") from error
        raise self.error


CASES = {
    "a user's mistake": (ValueError("a.jpeg is empty"), "a.jpeg is empty"),
    "of several lines": (ValueError("a.jpeg:\n  no image\nat all"), "a.jpeg: no image at all"),
    "with colons": (ValueError("[data] x: here: nothing"), "[data] x: here: nothing"),
    "raised from another": ("chained", "the label is no number"),
    "without words": (ValueError(), "ValueError"),
    "a programmer's mistake": (TypeError("int + str"), "TypeError: int + str"),
    "a key": (KeyError("label"), "KeyError: 'label'"),
    "a file": (
        FileNotFoundError(2, "No such file or directory", "a.jpeg"),
        "FileNotFoundError: [Errno 2] No such file or directory: 'a.jpeg'",
    ),
    "of a module": (Unreadable("a.jpeg", "cut"), "Unreadable: a.jpeg: cut"),
}


@pytest.fixture(autouse=True, scope="module")
def _no_waiting():
    """Shorten the interval at which torch checks whether a data-loading process has ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
        yield
        gc.collect()  # loaders kept alive by the tracebacks of their errors


@pytest.fixture
def fails(tmp_path, monkeypatch):
    """Execute a run that reads a data set, and return the reason of its failure."""

    def fails(dataset, num_workers):
        def train(context, config):
            list(DataLoader(dataset, num_workers=num_workers))

        task = types.ModuleType("reads")
        task.train = train
        monkeypatch.setitem(sys.modules, "reads", task)
        monkeypatch.setattr(provenance, "environment", lambda code: {})
        here = site.Site(file=tmp_path / "site.toml", runs=site.Runs(folder=str(tmp_path)))
        run = Run(task="reads:train", config=TrainConfig(epochs=1, batch=1, micro_batch=1, lr=0.1))
        job = job_record("here", "1", "t1", tmp_path)
        result = run_execution.execute(run, here, job, Peers(), threads=1, num_workers=num_workers)
        failure = run_execution.RunDirectory(here.runs_folder, run).failure()
        assert failure.reason == result.reason
        return result.reason

    return fails


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(("error", "reason"), CASES.values(), ids=CASES)
def test_failure_reason_does_not_depend_on_num_workers(fails, error, reason, num_workers):
    assert fails(Broken(error), num_workers) == reason


def test_log_has_the_traceback_of_the_data_loading_process(fails, tmp_path):
    fails(Broken("chained"), 1)
    (log,) = tmp_path.glob("reads.train/*/log.txt")
    text = log.read_text(encoding="utf-8")
    assert "in __getitem__" in text and "invalid literal for int" in text
