"""Import of fairseq on Python 3.11 and later, without side effects."""

import importlib.metadata
import subprocess
import sys

import pytest

from dyt_wav2vec import fairseq_compat

from ..messages import refused

PROBE = """
import dataclasses, logging, sys
before = dataclasses.dataclass
root = logging.getLogger()
logging_before = (root.handlers[:], root.level, root.manager.disable)
from dyt_wav2vec import fairseq_compat
assert "fairseq" not in sys.modules and "torch" not in sys.modules
fairseq = fairseq_compat.load()
assert fairseq.__version__ == "0.12.2"

# The shim is undone, also in the modules that were imported in the meantime.
assert dataclasses.dataclass is before
leaked = {n for n, m in list(sys.modules.items()) for v in list(getattr(m, "__dict__", {}).values())
          if getattr(v, "__module__", None) == fairseq_compat.__name__
          and getattr(v, "__name__", None) == "dataclass"}
assert not leaked, leaked
assert (root.handlers[:], root.level, root.manager.disable) == logging_before

# Dataclasses of other packages are unaffected, and those of fairseq work.
import hydra.conf, omegaconf.base
assert hydra.conf.HydraConf.__hash__ is None
@dataclasses.dataclass
class Mine: x: int = 0
assert Mine.__hash__ is None and Mine() == Mine()
from fairseq.dataclass.configs import FairseqConfig
config = FairseqConfig()
assert hash(config.common) is not None and config.common == FairseqConfig().common

# A second call returns the same module, and later imports work without the shim.
assert fairseq_compat.load() is fairseq
import fairseq_cli.hydra_train, fairseq_cli.train, fairseq.tasks.audio_pretraining
import fairseq.criterions.wav2vec_criterion, fairseq.data.data_utils_fast
"""


def test_load_imports_fairseq_and_leaves_no_trace():
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert "tensorboard" not in result.stderr


@pytest.fixture
def not_imported(monkeypatch):
    """Pretend that fairseq has not been imported yet, whatever other tests did."""
    monkeypatch.delitem(sys.modules, "fairseq", raising=False)


def test_load_reports_missing_fairseq(not_imported, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert refused(fairseq_compat.load) == (
        "fairseq is not installed; expected 0.12.2. Run `make setup`"
    )


def test_load_refuses_another_fairseq_version(not_imported, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0.0a0")
    assert refused(fairseq_compat.load) == ("fairseq is 1.0.0a0; expected 0.12.2. Run `make setup`")


def test_load_refuses_a_newer_python(not_imported, monkeypatch):
    assert fairseq_compat.python_refusal((3, 13, 1)) == ""
    refusal = fairseq_compat.python_refusal((3, 14, 2))
    assert "types of its configs in 3.14; everything else runs" in refusal
    monkeypatch.setattr(fairseq_compat, "python_refusal", lambda: refusal)
    with pytest.raises(ValueError, match=r"^wav2vec 2\.0 needs Python 3\.11 to 3\.13"):
        fairseq_compat.load()


def test_load_reports_missing_dependency(not_imported, monkeypatch):
    import dataclasses

    before = dataclasses.dataclass

    def broken(name):
        raise ModuleNotFoundError("No module named 'omegaconf'")

    monkeypatch.setattr(fairseq_compat.importlib, "import_module", broken)
    assert refused(fairseq_compat.load) == (
        "fairseq 0.12.2 cannot be imported: No module named 'omegaconf'. Run `make setup`, which "
        "installs compatible versions of its dependencies"
    )
    assert dataclasses.dataclass is before
