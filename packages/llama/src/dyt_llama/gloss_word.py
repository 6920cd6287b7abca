"""Multiple-choice task on WordNet: which word follows in a gloss, among four lemmas.

The text of the smoke scale, timm's ImageNet synsets, as a task of lm-eval (tasks/gloss_word.yaml).
A question is the beginning of a gloss that the tokenization holds out; the answer is its next word,
which is the lemma of another synset. The other choices are lemmas that answer other questions, so
that no choice is likelier than the others because of its frequency alone.
"""

from __future__ import annotations

import hashlib
import random
import re
from typing import TYPE_CHECKING, Any

from dyt_llama.glosses import glosses, lemmas
from dyt_llama.text_files import is_held_out

if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT = 0.05
"""Fraction of the glosses that the smoke scale holds out of training."""
QUESTIONS = 687
CHOICES = 4
MIN_WORDS, MAX_WORDS = 4, 24
"""Words of a gloss before the answer, which fit into the 64 positions of the smoke scale."""
MIN_LETTERS = 4
SEED = "gloss_word 1"
"""Of the draws of wrong choices; the number is the version in tasks/gloss_word.yaml."""


def rows() -> list[dict[str, Any]]:
    """Return the questions: {"gloss": beginning, "choices": four words, "label": the right one}."""
    known = {word for names in lemmas() for word in names if re.fullmatch(r"[a-z]+", word)}
    questions = []
    for gloss in glosses():
        if is_held_out(gloss, HELD_OUT) and (question := _question(gloss, known)):
            questions.append(question)
    answers = [answer for _, answer in questions]
    return [_with_choices(beginning, answer, answers) for beginning, answer in questions]


def _question(gloss: str, known: set[str]) -> tuple[str, str] | None:
    """Return the beginning of a gloss and its last word that is a lemma, if there is one."""
    words = list(re.finditer(r"\S+", gloss))
    for word in reversed(words[MIN_WORDS : MAX_WORDS + 1]):
        text = word.group().rstrip(",;.)")
        if len(text) >= MIN_LETTERS and text in known:
            return gloss[: word.start()].rstrip(), text
    return None


def _with_choices(beginning: str, answer: str, answers: list[str]) -> dict[str, Any]:
    digest = hashlib.sha256(f"{SEED} {beginning}".encode()).digest()
    draw = random.Random(digest)  # a generator of its own
    choices = [answer]
    while len(choices) < CHOICES:
        other = answers[draw.randrange(len(answers))]
        if other not in choices:
            choices.append(other)
    draw.shuffle(choices)
    return {"gloss": beginning, "choices": choices, "label": choices.index(answer)}


def splits(**metadata: Any) -> dict[str, Dataset]:
    """Return the questions as lm-eval calls for them.

    Args:
        metadata: of the task's definition; not used.
    """
    from datasets import Dataset

    return {"test": Dataset.from_list(rows())}
