"""The fifteen tasks and both averages, SQuAD's metrics, and the questions of gloss_word."""

import importlib
import sys
from collections import Counter

import pytest

from dyt_llama import gloss_word, squad_metrics
from dyt_llama.config import ZeroShot
from dyt_llama.glosses import glosses, lemmas
from dyt_llama.text_files import is_held_out
from dyt_llama.zero_shot_data import rows_digest
from dyt_llama.zero_shot_tasks import FIFTEEN, METRICS, averages, metric_keys

NAMED = {
    "anli_r1": ("anli", "facebook/anli, test_r1", 1000, "premise hypothesis label"),
    "anli_r2": ("anli", "facebook/anli, test_r2", 1000, "premise hypothesis label"),
    "anli_r3": ("anli", "facebook/anli, test_r3", 1200, "premise hypothesis label"),
    "arc_challenge": (
        "arc",
        "allenai/ai2_arc (ARC-Challenge), test",
        1172,
        "question choices answerKey",
    ),
    "arc_easy": ("arc", "allenai/ai2_arc (ARC-Easy), test", 2376, "question choices answerKey"),
    "boolq": (
        "super_glue/boolq",
        "aps/super_glue (boolq), validation",
        3270,
        "question passage label",
    ),
    "hellaswag": (
        "hellaswag",
        "Rowan/hellaswag, validation",
        10_042,
        "activity_label ctx_a ctx_b endings label",
    ),
    "openbookqa": (
        "openbookqa",
        "allenai/openbookqa (main), test",
        500,
        "question_stem choices answerKey",
    ),
    "piqa": ("piqa", "baber/piqa, validation", 1838, "goal sol1 sol2 label"),
    "record": (
        "super_glue/record",
        "aps/super_glue (record), validation",
        10_000,
        "passage query entities answers",
    ),
    "rte": ("glue/rte", "nyu-mll/glue (rte), validation", 277, "sentence1 sentence2 label"),
    "truthfulqa_mc1": (
        "truthfulqa",
        "truthfulqa/truthful_qa (multiple_choice), validation",
        817,
        "question mc1_targets mc2_targets",
    ),
    "truthfulqa_mc2": (
        "truthfulqa",
        "truthfulqa/truthful_qa (multiple_choice), validation",
        817,
        "question mc1_targets mc2_targets",
    ),
    "wic": (
        "super_glue/wic",
        "aps/super_glue (wic), validation",
        638,
        "sentence1 sentence2 start1 end1 label",
    ),
    "winogrande": (
        "winogrande",
        "allenai/winogrande (winogrande_xl), validation",
        1267,
        "sentence option1 option2 answer",
    ),
}
"""Task → folder in lm-eval, data set on the Hub with its split, rows and columns."""


def test_tasks_are_those_of_openllama_s_table():
    found = {
        name: (task.folder, task.source, task.rows, " ".join(task.columns))
        for name, task in FIFTEEN.items()
    }
    assert found == NAMED and list(found) == list(NAMED)
    normalized = {name for name, metrics in METRICS.items() if metrics == ("acc", "acc_norm")}
    assert normalized == {
        "arc_challenge",
        "arc_easy",
        "gloss_word",
        "hellaswag",
        "openbookqa",
        "piqa",
    }
    others = {name: METRICS[name] for name in METRICS.keys() - normalized}
    assert others.pop("record") == ("em", "f1") and set(others.values()) == {("acc",)}


def test_metric_keys_are_21_of_15_tasks():
    keys = metric_keys(FIFTEEN)
    assert len(FIFTEEN) == 15 and len(set(keys)) == 21
    assert {METRICS[task][0] for task in FIFTEEN} == {"acc", "em"}
    assert Counter(key.partition(".")[2] for key in keys) == {
        "acc": 14,
        "acc_norm": 5,
        "em": 1,
        "f1": 1,
    }


def test_averages_differ_as_the_papers_do():
    """GPT-J's row of OpenLLaMA's table, whose printed average is the mean of 21 numbers."""
    gpt_j = [
        *(0.32, 0.34, 0.35, 0.34, 0.37, 0.67, 0.62, 0.66, 0.50, 0.66, 0.29, 0.38, 0.75, 0.76),
        *(0.88, 0.89, 0.54, 0.20, 0.36, 0.50, 0.64),
    ]
    values = dict(zip(metric_keys(FIFTEEN), gpt_j, strict=True))
    found = averages(values, tuple(FIFTEEN))
    assert found["score"] == pytest.approx(0.525, abs=1e-3)
    assert found["accuracy"] == pytest.approx(48.9, abs=0.1)


@pytest.mark.parametrize(
    "gold, predicted, exact, f1",
    [
        ("The Blue Team", "blue team.", 1, 1.0),
        ("Maria Silva", "Maria", 0, 2 / 3),
        ("Lisbon", "Oslo", 0, 0.0),
        ("the", "a", 1, 1.0),
        ("the", "Oslo", 0, 0.0),
        ("Maria Maria", "Maria", 0, 2 / 3),
    ],
)
def test_squad_metrics_ignore_case_articles_and_punctuation(gold, predicted, exact, f1):
    assert squad_metrics.compute_exact(gold, predicted) == exact
    assert squad_metrics.compute_f1(gold, predicted) == pytest.approx(f1)


def test_squad_metrics_install_makes_the_removed_module_importable(monkeypatch):
    for name in (squad_metrics.REPLACED, squad_metrics.REPLACED.rpartition(".")[0]):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"transformers\.data\.metrics"):
        importlib.import_module(squad_metrics.REPLACED)
    squad_metrics.install()
    import transformers.data.metrics.squad_metrics as replaced

    assert replaced.compute_f1 is squad_metrics.compute_f1
    assert replaced.__name__ == squad_metrics.REPLACED == "transformers.data.metrics.squad_metrics"


class TestGlossWord:
    def test_rows_are_held_out_glosses_with_lemmas(self):
        rows = gloss_word.rows()
        words = {word for names in lemmas() for word in names}
        held_out = [gloss for gloss in glosses() if is_held_out(gloss, gloss_word.HELD_OUT)]
        text = "\n" + "\n".join(held_out)
        for row in rows:
            assert f"\n{row['gloss']} {row['choices'][row['label']]}" in text
            assert len(set(row["choices"])) == 4 and words.issuperset(row["choices"])
        labels = Counter(row["label"] for row in rows)
        assert set(labels) == {0, 1, 2, 3} and min(labels.values()) > 0.2 * len(rows)

    def test_rows_are_the_same_everywhere(self):
        """Guards the numbers of the smoke scale, and the number that its note has."""
        rows = gloss_word.rows()
        assert rows == gloss_word.rows()
        assert (len(rows), rows[3]) == (
            gloss_word.QUESTIONS,
            {
                "gloss": "the act of jumping as far as possible from a",
                "choices": ["ship", "running", "race", "person"],
                "label": 1,
            },
        )
        assert rows_digest(rows) == "184054adc3e9137d"

    def test_the_most_frequent_answer_wins_rarely(self):
        """A model of word frequencies alone is near chance."""
        rows = gloss_word.rows()
        counts = Counter(row["choices"][row["label"]] for row in rows)
        right = [
            max(row["choices"], key=lambda word: counts[word]) == row["choices"][row["label"]]
            for row in rows
        ]
        assert sum(right) / len(rows) < 0.33


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tasks": ("boolq", "mmlu")}, "tasks is .*; expected some of anli_r1"),
        ({"tasks": ()}, "tasks is .*; expected some of"),
        ({"tasks": ("boolq", "boolq")}, "tasks is .*; expected some of"),
        ({"data": ("glosses",)}, "data is .*; expected 'zero-shot' in it"),
        ({"batch": 0}, "batch is 0; expected"),
        ({"precision": "fp16"}, "precision is 'fp16'; expected 'fp32' or 'bf16'"),
    ],
)
def test_zero_shot_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        ZeroShot(**changes)
