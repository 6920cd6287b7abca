"""fairseq is imported on a Python that refuses it, and nothing else notices."""

import importlib.metadata
import subprocess
import sys

import pytest

from dyt_wav2vec import fairseq_compat

PROBE = """
import dataclasses, logging, sys
before = dataclasses.dataclass
root = logging.getLogger()
was = (root.handlers[:], root.level, root.manager.disable)
from dyt_wav2vec import fairseq_compat
assert "fairseq" not in sys.modules and "torch" not in sys.modules
fairseq = fairseq_compat.load()
assert fairseq.__version__ == "0.12.2"

# The shim is undone, in the modules that were loaded meanwhile too.
assert dataclasses.dataclass is before
taken = {n for n, m in list(sys.modules.items()) for v in list(getattr(m, "__dict__", {}).values())
         if getattr(v, "__module__", None) == fairseq_compat.__name__
         and getattr(v, "__name__", None) == "dataclass"}
assert not taken, taken
assert (root.handlers[:], root.level, root.manager.disable) == was

# Dataclasses of others are as they would have been, those of fairseq are there.
import hydra.conf, omegaconf.base
assert hydra.conf.HydraConf.__hash__ is None
@dataclasses.dataclass
class Mine: x: int = 0
assert Mine.__hash__ is None and Mine() == Mine()
from fairseq.dataclass.configs import FairseqConfig
config = FairseqConfig()
assert hash(config.common) is not None and config.common == FairseqConfig().common

# Once is enough, and what is imported later works without the shim.
assert fairseq_compat.load() is fairseq
import fairseq_cli.hydra_train, fairseq_cli.train, fairseq.tasks.audio_pretraining
import fairseq.criterions.wav2vec_criterion, fairseq.data.data_utils_fast
"""


def test_it_is_imported_and_everything_else_is_as_it_was():
    answer = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (0, ""), answer.stderr
    assert "tensorboard" not in answer.stderr


@pytest.fixture
def not_imported(monkeypatch):
    """As if fairseq had not been imported yet, whatever other tests have done."""
    monkeypatch.delitem(sys.modules, "fairseq", raising=False)


def test_a_missing_fairseq_is_named(not_imported, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ValueError, match=r"^fairseq is not installed; expected 0\.12\.2\. Run `m"):
        fairseq_compat.load()


def test_another_version_is_refused(not_imported, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0.0a0")
    with pytest.raises(ValueError, match=r"^fairseq is 1\.0\.0a0; expected 0\.12\.2\. Run `make"):
        fairseq_compat.load()


def test_something_that_it_misses_is_named(not_imported, monkeypatch):
    import dataclasses

    before = dataclasses.dataclass

    def broken(name):
        raise ModuleNotFoundError("No module named 'omegaconf'")

    monkeypatch.setattr(fairseq_compat.importlib, "import_module", broken)
    with pytest.raises(ValueError, match=r"cannot be imported: No module named 'omegaconf'\. Run"):
        fairseq_compat.load()
    assert dataclasses.dataclass is before
