"""Parser of docs/SETTINGS*.md and comparison of its rows with the recipes at paper scale.

A row whose first column is a config field in backticks is checked for all runs of its column: those
that the column's header names in backticks, otherwise those of the "Runs:" line above the table. A
run is named ``table/row/arm``, a run that it needs ``table/need/row/arm``, and so on; a trial of a
search has its value appended: ``iclr-table7/width_1024/8/0.5``. A field of a nested config is named
with its path: ``network.width``.
"""

import ast
import math
import re
from dataclasses import fields, is_dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from matched import TrainConfig, projects, recipes
from matched.table import runs_with_needs

ROOT = Path(__file__).parents[2]

PAGES = {
    "dyt_vision": ROOT / "docs" / "SETTINGS.md",
    "dyt_dit": ROOT / "docs" / "SETTINGS-DIT.md",
    "dyt_wav2vec": ROOT / "docs" / "SETTINGS-WAV2VEC.md",
    "dyt_hyenadna": ROOT / "docs" / "SETTINGS-DNA.md",
    "dyt_llama": ROOT / "docs" / "SETTINGS-LLAMA.md",
}
"""Package of the configs → page of their runs."""

TUNING_TABLES = ("table13", "table14")
"""Tables whose runs are those of other tables, but for the value that is tuned."""

SAME_PAGE = {"dyt_caduceus": "dyt_hyenadna"}
"""Package → the package on whose page its runs are described."""

RESOURCE_FIELDS = {"gpus", "shard_degree"}
"""Resources that rows may name in addition to config fields."""


@cache
def every_run():
    """Address → (config, resources) of every run of the recipes, at paper scale."""
    for cached in (projects.root, recipes.paper_numbers, recipes.available):
        cached.cache_clear()  # they may hold another test's project
    found = {}
    for name in recipes.available():
        if name in TUNING_TABLES:
            continue
        recipe = recipes.load(name)
        scale = recipe.scale("paper")
        for cell in recipe.table.cells(scale):
            value = [cell.value] if cell.value else []
            for place, run in runs_with_needs(cell.run, cell.row):
                row, *needs = place.split("/")
                address = "/".join([name, *needs, row, cell.arm, *value])
                resources = scale.resource_overrides.get(place, scale.resources)
                search = scale.search(cell.row, cell.arm)
                if search and search.minutes and run == cell.run:
                    resources = replace(resources, minutes=search.minutes)
                found[address] = (run.config, resources)
    return found


@cache
def runs_of(package):
    """The runs of ``every_run`` that the package's page describes."""

    def package_of(config):
        name = type(config).__module__.partition(".")[0]
        return SAME_PAGE.get(name, name)

    return {a: run for a, run in every_run().items() if package_of(run[0]) == package}


def named(patterns, runs):
    """Pattern → the addresses that match it; rows and arms may be omitted."""
    return {
        pattern: [a for a in runs if fnmatchcase(a, pattern) or fnmatchcase(a, f"{pattern}/*")]
        for pattern in patterns
    }


def read(text):
    """[(field, patterns, cell)] of all rows to check."""
    found, above, header = [], [], None
    for line in text.splitlines():
        if line.startswith("Runs:"):
            above = re.findall(r"`([^`]+)`", line)
        if not line.startswith("|"):
            above, header = ([] if line.startswith("#") else above), None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
            continue
        name = re.fullmatch(r"`([\w.]+)`", cells[0])
        if not name:
            continue
        assert len(cells) == len(header), f"{line}\nhas {len(cells)} cells, not {len(header)}"
        for head, cell in zip(header[1:-1], cells[1:-1], strict=True):
            found.append((name[1], tuple(re.findall(r"`([^`]+)`", head) or above), cell))
    return found


def value(field, cell):
    """The value of a cell as a config holds it; a rule after " = " must give the same value."""
    cell, _, rule = cell.partition(" = ")
    if field == "model_args":
        pairs = [] if cell == "none" else [pair.partition(": ") for pair in cell.split(", ")]
        return tuple((name, literal(text)) for name, _, text in pairs)
    if rule:
        product = eval(rule.replace("×", "*"), {"__builtins__": {}})
        assert math.isclose(product, literal(cell)), f"{field}: {cell} = {rule} is {product}"
    return literal(cell)


def literal(text):
    """A number, a keyword (none, yes, no, empty), a tuple "(a, b)", or the text itself."""
    known = {"none": None, "yes": True, "no": False, "empty": ""}
    if text in known:
        return known[text]
    if fraction := re.fullmatch(r"(\d+)/(\d+)", text):  # crop aspects are fractions
        return int(fraction[1]) / int(fraction[2])
    try:
        return ast.literal_eval(text)  # including nested tuples
    except (SyntaxError, ValueError):
        if text.startswith("("):
            return tuple(literal(part) for part in text.strip("()").split(", "))
        return text


def same(written, actual):
    if isinstance(actual, tuple) and isinstance(written, tuple):
        return len(written) == len(actual) and all(map(same, written, actual))
    if all(type(v) in (int, float) for v in (written, actual)):
        return math.isclose(written, actual, rel_tol=1e-9)
    return written == actual and type(written) is type(actual)


@cache
def settings(config):
    """Name → value of every field of a config, nested ones included."""
    found = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "norm":
            found["norm"] = str(value)
        elif is_dataclass(value):
            found |= {f"{field.name}.{name}": inner for name, inner in settings(value).items()}
        else:
            found[field.name] = value
    return found


def held(field, address, runs):
    config, resources = runs[address]
    if field in RESOURCE_FIELDS:
        return getattr(resources, field)
    values = settings(config)
    assert field in values, f"{address} has no setting {field!r}"
    return values[field]


def mistakes(text, runs):
    """One line for each cell that differs from a run that it describes."""
    rows = read(text)
    addresses = named({pattern for _, patterns, _ in rows for pattern in patterns}, runs)
    found = []
    for field, patterns, cell in rows:
        assert patterns, f"the row of {field} has neither a Runs: line nor runs in its header"
        written = value(field, cell)
        for pattern in patterns:
            described = addresses[pattern]
            assert described, f"{pattern} (row {field}) is not a run of this page at paper scale"
            found += [
                f"{field} of {a}: {cell} in the text, {held(field, a, runs)} in the recipe"
                for a in described
                if not same(written, held(field, a, runs))
            ]
    return found


def page(row, run):
    """A page with one row."""
    return f"Runs: `{run}`\n\n| setting | value here | source |\n|---|---|---|\n{row}"


def unused_fields(config):
    """Fields without effect given the other fields, which the page need not list."""
    schedule = getattr(config, "schedule", None)
    off = set() if schedule in ("cosine", "fms-fsdp") else {"min_lr"}
    off |= unused_train_fields(config) if isinstance(config, TrainConfig) else set()
    off |= set() if schedule == "step" else {"decay_epochs", "decay_factor"}
    sgd = type(config).__name__ == "Probing" or getattr(config, "optimizer", "") == "sgd"
    off |= {"betas"} if sgd else {"momentum"}
    if not getattr(config, "mixup", 0) and not getattr(config, "cutmix", 0):
        off |= {"mixup_prob", "mixup_switch"}
    if type(config).__module__ == "dyt_wav2vec.config" and config.data != "synthetic-speech":
        off |= {"train", "valid", "voices"}
    if type(config).__module__ == "dyt_hyenadna.preparation_config" and config.data != "genome":
        off |= {f"held_out.{field.name}" for field in fields(config.held_out)}
    return off


def unused_train_fields(config):
    """Lengths in the unit that the run does not use, and the form of a warm-up that it lacks."""
    in_steps = config.steps is not None
    off = {"epochs", "warmup_epochs"} if in_steps else {"steps", "warmup_steps"}
    off -= {name for name in ("warmup_epochs", "warmup_steps") if getattr(config, name)}
    off.add("eval_steps" if config.eval_steps is None else "eval_epochs")
    if config.schedule_steps is None:
        off.add("schedule_steps")
    if config.schedule == "fms-fsdp":
        off.add("warmup_steps")
    if not config.warmup_epochs and not config.warmup_steps:
        off |= {"warmup_lr", "warmup_prefix"}
    if config.warmup_lr == 0:
        off.add("warmup_lr")
    if config.schedule != "cosine" or config.warmup_prefix:
        off.add("warmup_prefix")
    return off


def unwritten(text, runs):
    """One line for each setting of a run that no row describes."""
    rows = read(text)
    addresses = named({pattern for _, patterns, _ in rows for pattern in patterns}, runs)
    written = {(f, a) for f, patterns, _ in rows for p in patterns for a in addresses[p]}
    return [
        f"{name} of {address}"
        for address, (config, _) in runs.items()
        for name in settings(config)
        if name not in unused_fields(config) and (name, address) not in written
    ]
