"""wav2vec 2.0: losses and gradient norms of our training and of fairseq's own command.

The cases are those of tests/wav2vec/test_parity.py: fairseq's command with its own task, and with
our plugins, whose random numbers are seeded by address; zero or one loading process, one or two
micro-batches, post-norm and pre-norm blocks.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from claims import Claim

from dyt_wav2vec import fairseq_plugin
from dyt_wav2vec.preparation import prepare
from matched.task import Context

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from wav2vec import problem, stock, test_parity

LOSS = 1e-12
"""Relative: our lines are means over an update, multiplied and divided by its size."""
NUMBERS = ("loss", "contrastive", "gradient_norm")


def claims(checkout: Path) -> Iterator[Claim]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speech = folder / "speech"
        speech.mkdir()
        prepare(Context(directory=speech, signature="speech"), problem.SPEECH)
        cases = test_parity.CASES
        records = stock.run(folder / "stock", test_parity.commands(cases, speech))
        for case in cases:
            yield case_claim(case, records[case.name], speech, folder / case.name)


def case_claim(case: test_parity.Case, record: stock.Stock, speech: Path, directory: Path) -> Claim:
    """Return the claim that our training and fairseq's command give the same numbers."""
    task = fairseq_plugin.TASK if case.plugin else "audio_pretraining"
    with mock.patch.object(fairseq_plugin, "TASK", task):
        run = problem.pretrained(directory, speech, case.config, num_workers=case.num_workers)
    ours = np.array([[step[key] for key in NUMBERS] for step in run.steps])
    theirs = np.array(record.numbers)
    assert ours.shape == theirs.shape == (case.updates, len(NUMBERS))
    kind = "with our plugins" if case.plugin else "as it is"
    blocks = "pre-norm" if case.pre_norm else "post-norm"
    return Claim(
        text=f"fairseq's command {kind}: loss, contrastive loss and gradient norm of "
        f"{case.updates} updates ({blocks}, workers: {case.num_workers}, micro-batches: "
        f"{case.micro_batches}), relative",
        bound=LOSS,
        measured=float(np.max(np.abs(ours - theirs) / np.abs(theirs))),
        note=f"last loss {theirs[-1, 0]:.4f}",
    )
