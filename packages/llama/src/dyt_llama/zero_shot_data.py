"""Data of the zero-shot tasks on disk: files of the user, or the cache of the library datasets.

The folder in site.toml has for each task a file of the rows that are scored, ``boolq.parquet`` or
``boolq.jsonl``, or it is the cache in which datasets keeps what it has downloaded from the Hub
(``~/.cache/huggingface/datasets``), or both; a file comes first. Nothing is downloaded in a run.
``python -m dyt_llama.fetch_zero_shot FOLDER`` writes the files where there is a network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyt_llama.zero_shot_rows import check_rows
from dyt_llama.zero_shot_tasks import FIFTEEN, ZeroShotTask
from matched.data_files import refuse_pointer

if TYPE_CHECKING:
    from datasets import Dataset

FETCH = "python -m dyt_llama.fetch_zero_shot"
SUFFIXES = (".parquet", ".jsonl")


def locate(folder: Path, task: str) -> list[Path]:
    """Return the files with the rows of a task: one of the user, or those of the cache.

    Raises:
        ValueError: if the cache has several versions of the data set.
    """
    own = [path for suffix in SUFFIXES if (path := folder / f"{task}{suffix}").is_file()]
    return own[:1] or _cached(folder, FIFTEEN[task])


def _cached(folder: Path, task: ZeroShotTask) -> list[Path]:
    """Return the Arrow files of a split in the cache, whose folders are config/version/hash."""
    top = folder / task.dataset.replace("/", "___")
    versions = sorted(top.glob(f"{task.subset or '*'}/*/*/dataset_info.json"))
    if len(versions) > 1:
        found = ", ".join(file.parent.name for file in versions)
        raise ValueError(
            f"{top} has {len(versions)} versions of {task.source} ({found}); remove all but one"
        )
    names = (f"*-{task.split}.arrow", f"*-{task.split}-?????-of-?????.arrow")
    return sorted(path for file in versions for name in names for path in file.parent.glob(name))


def check(folder: Path) -> None:
    """Check that the data of all fifteen tasks is there, with the columns that are read.

    Raises:
        ValueError: naming the tasks without data, where it is expected and the command that
            fetches it; or a file that is damaged or lacks columns.
    """
    missing = [name for name in FIFTEEN if not locate(folder, name)]
    if missing:
        first = FIFTEEN[missing[0]]
        raise ValueError(
            f"{folder} has no data for {', '.join(missing)}: expected {missing[0]}.parquet or "
            f"{missing[0]}.jsonl there, or the cache of {first.source}, and likewise for the "
            f"others; where there is a network, run `{FETCH} {folder}`"
        )
    for name in FIFTEEN:
        file = locate(folder, name)[0]
        check_columns(name, _columns(file), file)


def check_columns(task: str, columns: Collection[str], origin: Path | str) -> None:
    """Check that a task's data has the columns that are read.

    Raises:
        ValueError: naming those that are missing in ``origin``.
    """
    absent = [column for column in FIFTEEN[task].columns if column not in columns]
    if absent:
        found = ", ".join(sorted(columns)) or "no rows"
        raise ValueError(
            f"{origin} has no column {', '.join(absent)}, but {found}; "
            f"expected {FIFTEEN[task].source}, as `{FETCH}` writes it"
        )


def survey(folder: Path) -> None:
    """Check the number of rows of every task; another number is another version of the data.

    Raises:
        ValueError: naming the tasks, with both numbers.
    """
    wrong = []
    for name, task in FIFTEEN.items():
        rows = len(read_rows(folder, name))
        if rows != task.rows:
            wrong.append(f"{name} has {rows:,} rows instead of the {task.rows:,} of {task.source}")
    if wrong:
        raise ValueError(
            f"{folder} has data of another version: {'; '.join(wrong)}; scores on it cannot be "
            f"compared: fetch it again with `{FETCH}` into an empty folder"
        )


def _columns(file: Path) -> set[str]:
    """Return the names of the columns, without reading the rows of binary files."""
    refuse_pointer(file)
    if file.suffix == ".jsonl":
        return set(next(_json_rows(file), {}))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            return set(pq.read_schema(file).names)
        with pa.memory_map(str(file)) as content:
            return set(pa.ipc.open_stream(content).schema.names)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}); fetch it again") from None


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number}, is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number}, is not an object with columns")
            yield row


def read_rows(folder: Path, task: str) -> Dataset:
    """Read the rows of a task into memory.

    Raises:
        ValueError: if there is no data, it is damaged or lacks columns, or a row cannot be scored.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset, concatenate_datasets

    files = locate(folder, task)
    if not files:
        raise ValueError(f"{folder} has no data for {task}; run `{FETCH} {folder}`")
    check_columns(task, _columns(files[0]), files[0])
    try:
        if files[0].suffix == ".jsonl":
            rows = Dataset.from_list(list(_json_rows(files[0])))
        elif files[0].suffix == ".parquet":
            rows = Dataset(pq.read_table(files[0]))
        else:
            rows = concatenate_datasets([Dataset.from_file(str(f), in_memory=True) for f in files])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{files[0]} is damaged ({error}); fetch it again") from None
    if not len(rows):
        raise ValueError(f"{files[0]} has no rows; expected {FIFTEEN[task].source}")
    check_rows(task, rows.select_columns(list(FIFTEEN[task].columns)), files[0])
    return rows


def splits(*, task: str, folder: str, **metadata: Any) -> dict[str, Dataset]:
    """Return split → rows of a task: what lm-eval calls for the data of a ``custom_dataset``.

    Args:
        metadata: of the task's definition; not used.
    """
    return {FIFTEEN[task].split: read_rows(Path(folder), task)}


def rows_digest(rows: Iterable[Any]) -> str:
    """Return a hash of rows, whatever the format of their file."""
    value = hashlib.sha256()
    for row in rows:
        value.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return value.hexdigest()[:16]
