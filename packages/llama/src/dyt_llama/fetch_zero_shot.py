"""Download of the zero-shot tasks' data: ``python -m dyt_llama.fetch_zero_shot FOLDER``.

Writes one .parquet file per task, which runs read without a network; see
``dyt_llama.zero_shot_data``. Files that are there are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dyt_llama.zero_shot_data import check_columns, locate
from dyt_llama.zero_shot_tasks import FIFTEEN
from matched.errors import one_line
from matched.files import atomic_write


def fetch(folder: Path) -> list[str]:
    """Write the data of the tasks that have none in ``folder``; return their names.

    Raises:
        ValueError: naming the first data set that cannot be downloaded, and why; or that is of
            another version.
    """
    from datasets import load_dataset

    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in FIFTEEN if not locate(folder, name)]
    for name in missing:
        task = FIFTEEN[name]
        try:
            rows = load_dataset(task.dataset, task.subset or None, split=task.split)
        except Exception as error:  # of the network, of the Hub, or of the library's formats
            raise ValueError(f"cannot download {task.source}: {one_line(error)}") from None
        if len(rows) != task.rows:
            raise ValueError(
                f"{task.source} has {len(rows):,} rows instead of {task.rows:,}: the Hub has "
                "another version now; scores on it cannot be compared"
            )
        check_columns(name, rows.column_names, task.source)
        with atomic_write(folder / f"{name}.parquet") as temporary:
            rows.to_parquet(str(temporary))
    return missing


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m dyt_llama.fetch_zero_shot FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        written = fetch(folder)
    except (ValueError, OSError) as error:  # OSError: of the folder
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} of {len(FIFTEEN)} tasks fetched; set zero-shot in site.toml to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
