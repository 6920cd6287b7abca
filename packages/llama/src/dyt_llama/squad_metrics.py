"""Stand-in for ``transformers.data.metrics.squad_metrics``, which transformers 5 has removed.

lm-eval's task record imports it for two functions: exact match and F1 of SQuAD's evaluation
(Rajpurkar et al. 2016, arXiv 1606.05250), in lower case without punctuation and articles.
"""

from __future__ import annotations

import importlib.util
import re
import string
import sys
from collections import Counter
from types import ModuleType

REPLACED = "transformers.data.metrics.squad_metrics"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _words(answer: str) -> list[str]:
    plain = answer.lower().translate(_PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def compute_exact(gold: str, predicted: str) -> int:
    """Return 1 if two answers have the same words in the same order, else 0."""
    return int(_words(gold) == _words(predicted))


def compute_f1(gold: str, predicted: str) -> float:
    """Return F1 of the words that two answers share; of answers without words, 1 if both are."""
    expected, found = _words(gold), _words(predicted)
    if not expected or not found:
        return float(expected == found)
    shared = sum((Counter(expected) & Counter(found)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(found), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def install() -> None:
    """Make the module importable by its old name, unless transformers has it."""
    if REPLACED in sys.modules or _has_module():
        return
    module = ModuleType(REPLACED, __doc__)
    module.__dict__.update(compute_exact=compute_exact, compute_f1=compute_f1)
    parent, _, name = REPLACED.rpartition(".")
    setattr(sys.modules.setdefault(parent, ModuleType(parent)), name, module)
    sys.modules[REPLACED] = module


def _has_module() -> bool:
    try:
        return importlib.util.find_spec(REPLACED) is not None
    except ModuleNotFoundError:  # its package has been removed too
        return False
