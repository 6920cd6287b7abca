"""examples/: the recipe that users copy computes a matched table, outside of the repository too."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHORT = ("epochs=2", "width=16")


def test_example_table_compares_three_matched_arms(tmp_path):
    shutil.copy(ROOT / "examples" / "my_table.py", tmp_path)
    changes = [word for change in SHORT for word in ("--set", change)]
    options = ["--wait", "--cluster", "debug"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MATCHED_")}
    process = subprocess.run(
        [sys.executable, "-m", "matched", "submit", "my_table.py", *options, *changes],
        cwd=tmp_path,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    name = f"my_table.smoke.{','.join(sorted(SHORT))}.csv"
    with (tmp_path / "results" / name).open(encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    assert [record["arm"] for record in records] == ["LN", "DyT", "Derf"]
    assert [record["matched"] for record in records] == ["", "yes", "yes"]
    assert all(float(record["mean"]) > 30 for record in records), "chance level is 10 %"
