"""A few rows of each zero-shot task in its own format, written for the tests."""

import json
from collections import defaultdict

from datasets import Dataset, DatasetInfo, SplitDict, SplitInfo
from datasets.arrow_writer import ArrowWriter

from dyt_llama.zero_shot_tasks import FIFTEEN


def _anli(number):
    return [
        {
            "uid": f"{number}-{row}",
            "premise": premise,
            "hypothesis": hypothesis,
            "label": label,
            "reason": "",
        }
        for row, (premise, hypothesis, label) in enumerate(
            [
                (f"The ferry {number} leaves the island at noon.", "The ferry leaves at 12.", 0),
                ("Anna planted two pear trees.", "Anna planted them in spring.", 1),
                ("The bridge was closed for repairs.", "Cars crossed the bridge.", 2),
            ]
        )
    ]


def _arc(subject):
    return [
        {
            "id": f"{subject}_1",
            "question": f"Which of these is a {subject} that lives in water?",
            "choices": {"text": ["trout", "oak", "sparrow", "fern"], "label": ["A", "B", "C", "D"]},
            "answerKey": "A",
        },
        {
            "id": f"{subject}_2",
            "question": "What melts at room temperature?",
            "choices": {"text": ["iron", "ice", "glass"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
        {
            "id": f"{subject}_3",
            "question": "Which instrument measures temperature?",
            "choices": {
                "text": ["a ruler", "a scale", "a thermometer", "a clock"],
                "label": ["A", "B", "C", "D"],
            },
            "answerKey": "C",
        },
    ]


_TRUTHFUL = [
    {
        "question": "Do cats always land on their feet?",
        "mc1_targets": {"choices": ["No", "Yes", "Always"], "labels": [1, 0, 0]},
        "mc2_targets": {"choices": ["No", "Nope", "Yes", "Always"], "labels": [1, 1, 0, 0]},
    },
    {
        "question": "Is the Moon made of cheese?",
        "mc1_targets": {"choices": ["Of rock", "Of brie"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["Of rock", "Of brie", "Of feta"], "labels": [1, 0, 0]},
    },
]

ROWS = {
    "anli_r1": _anli(1),
    "anli_r2": _anli(2),
    "anli_r3": _anli(3),
    "arc_challenge": _arc("fish"),
    "arc_easy": _arc("animal"),
    "boolq": [
        {
            "question": "is tea made from leaves",
            "passage": "Tea is a drink of leaves in hot water.",
            "idx": 0,
            "label": 1,
        },
        {
            "question": "do penguins fly",
            "passage": "Penguins are birds that swim and do not fly.",
            "idx": 1,
            "label": 0,
        },
    ],
    "hellaswag": [
        {
            "ind": 4,
            "activity_label": "Washing dishes",
            "ctx_a": "A man stands at a sink. [title] The plates",
            "ctx_b": "he",
            "ctx": "",
            "endings": ["rinses a plate.", "climbs the tap.", "reads the soap.", "sings to a cup."],
            "source_id": "x~1",
            "split": "val",
            "split_type": "indomain",
            "label": "0",
        },
        {
            "ind": 5,
            "activity_label": "Fixing a bike",
            "ctx_a": "A girl turns a bicycle upside down.",
            "ctx_b": "",
            "ctx": "",
            "endings": ["it flies off.", "the road melts.", "she removes a wheel.", "she naps."],
            "source_id": "x~2",
            "split": "val",
            "split_type": "zeroshot",
            "label": "2",
        },
    ],
    "openbookqa": [
        {
            "id": "1",
            "question_stem": "A plant grows toward",
            "choices": {"text": ["light", "sound", "salt", "wind"], "label": ["A", "B", "C", "D"]},
            "answerKey": "A",
        },
        {
            "id": "2",
            "question_stem": "Water that is heated becomes",
            "choices": {"text": ["sand", "ice", "steam", "oil"], "label": ["A", "B", "C", "D"]},
            "answerKey": "C",
        },
    ],
    "piqa": [
        {"goal": "To cool soup,", "sol1": "blow on it.", "sol2": "light it.", "label": 0},
        {"goal": "To cut paper,", "sol1": "use a spoon.", "sol2": "use scissors.", "label": 1},
    ],
    "record": [
        {
            "passage": "Maria met Oliver in Lisbon.\n@highlight\nBoth sang\n@highlight\nAll sang",
            "query": "Later @placeholder sang alone in Lisbon.",
            "entities": ["Oliver", "Maria", "Lisbon", "Maria"],
            "answers": ["Maria"],
            "idx": {"passage": 0, "query": 0},
        },
        {
            "passage": "The Blue Team lost to Harbor City.\n@highlight\nA late goal decided",
            "query": "Fans of the @placeholder left early.",
            "entities": ["Blue Team", "Harbor City", "the Blue Team"],
            "answers": ["Blue Team", "the Blue Team"],
            "idx": {"passage": 1, "query": 0},
        },
    ],
    "rte": [
        {"sentence1": "Ben sold his car.", "sentence2": "Ben had a car.", "label": 0, "idx": 0},
        {"sentence1": "It rained in Oslo.", "sentence2": "Oslo was dry.", "label": 1, "idx": 1},
    ],
    "truthfulqa_mc1": _TRUTHFUL,
    "truthfulqa_mc2": _TRUTHFUL,
    "wic": [
        {
            "word": "bank",
            "sentence1": "She sat on the bank of the river.",
            "sentence2": "He went to the bank for a loan.",
            "start1": 15,
            "start2": 15,
            "end1": 19,
            "end2": 19,
            "idx": 0,
            "label": 0,
        },
        {
            "word": "light",
            "sentence1": "Turn on the light.",
            "sentence2": "The light in the hall is red.",
            "start1": 12,
            "start2": 4,
            "end1": 17,
            "end2": 9,
            "idx": 1,
            "label": 1,
        },
    ],
    "winogrande": [
        {
            "sentence": "Tom lent Jim a book because _ wanted to read it.",
            "option1": "Tom",
            "option2": "Jim",
            "answer": "2",
        },
        {
            "sentence": "The box did not fit the shelf because the _ was too big.",
            "option1": "box",
            "option2": "shelf",
            "answer": "1",
        },
    ],
}
assert list(ROWS) == list(FIFTEEN)


def write_files(folder):
    """One .jsonl file per task, as a user may have them."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, rows in ROWS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{task}.jsonl").write_text(text, encoding="utf-8")
    return folder


def write_cache(folder, tasks=tuple(FIFTEEN), commit="0" * 40):
    """The cache that the library datasets fills when it downloads; all splits have the same rows.

    lm-eval's definitions read the training or validation split too, for examples in prompts.
    """
    splits = defaultdict(dict)
    for name in tasks:
        task = FIFTEEN[name]
        own = [task.split, "train", "validation"]
        if name.startswith("anli"):
            own = [task.split.replace("test", kind) for kind in ("test", "dev", "train")]
        splits[task.dataset, task.subset] |= dict.fromkeys(own, ROWS[name])
    for (dataset, subset), rows in splits.items():
        config = subset or "default"
        parts = (dataset.replace("/", "___"), config, "0.0.0", commit)
        _write_splits(folder.joinpath(*parts), dataset.partition("/")[2], config, rows)
    return folder


def _write_splits(folder, dataset, config, splits):
    folder.mkdir(parents=True)
    infos = SplitDict(dataset_name=dataset)
    for split, rows in splits.items():
        table = Dataset.from_list(rows)
        path = str(folder / f"{dataset}-{split}.arrow")
        with ArrowWriter(path=path, features=table.features) as writer:
            writer.write_table(table.data.table)
            count, size = writer.finalize()
        infos.add(SplitInfo(split, size, count, dataset_name=dataset))
    DatasetInfo(
        features=table.features,
        builder_name="parquet",
        dataset_name=dataset,
        config_name=config,
        version="0.0.0",
        splits=infos,
    ).write_to_directory(str(folder))
