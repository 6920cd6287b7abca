"""lm-eval's task definitions with the rows of the user, or of the glosses, as their data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dyt_llama import squad_metrics
from dyt_llama.zero_shot_tasks import FIFTEEN

OWN_TASKS = Path(__file__).with_name("tasks")
"""Folder of the definitions of this package, for lm-eval's ``--include_path`` too."""
FEWSHOT_SEED = 1234
"""As lm-eval's command; no task here draws examples."""


def load_tasks(names: Iterable[str], folder: Path | None) -> dict[str, Any]:
    """Return name → lm-eval's task, in the order of the names.

    Definitions are lm-eval's own files; only their data and their few-shot examples, which no task
    uses, are replaced. Not all 14,000 definitions are read, which takes 9 seconds.

    Args:
        folder: with the data of the fifteen tasks; see ``dyt_llama.zero_shot_data``.

    Raises:
        ValueError: if a task has no data, or it is damaged.
    """
    from lm_eval.tasks import TaskManager

    squad_metrics.install()
    with TemporaryDirectory() as changed:
        for name in names:
            if name in FIFTEEN:
                text = _with_rows(name, folder)
                Path(changed, f"{name}.yaml").write_text(text, encoding="utf-8")
        manager = TaskManager(include_path=[OWN_TASKS, changed], include_defaults=False)
        tasks = {name: manager.load([name])["tasks"][name] for name in names}
    for task in tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return tasks


def _with_rows(name: str, folder: Path | None) -> str:
    """Return a definition in YAML that includes lm-eval's and reads the rows of ``folder``."""
    assert folder is not None, "the fifteen tasks need the data source zero-shot"
    data = {"task": name, "folder": str(folder)}
    return "\n".join(
        (
            f"include: {json.dumps(str(_definition(name)))}",
            f"task: {name}",
            "custom_dataset: !function dyt_llama.zero_shot_data.splits",
            f"dataset_kwargs: {json.dumps(data)}",
            "fewshot_config: {samples: []}",
            "",
        )
    )


def _definition(name: str) -> Path:
    """Return lm-eval's file of a task: named after it, or the folder's default."""
    folder = Path(str(files("lm_eval"))) / "tasks" / FIFTEEN[name].folder
    own = folder / f"{name}.yaml"
    return own if own.is_file() else folder / "default.yaml"
