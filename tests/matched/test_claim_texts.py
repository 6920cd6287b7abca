"""Lines of ``matched claims``: tables with their hours, arguments for make, and verdicts."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from matched.claims import Claim
from matched.report.claim_texts import make_arguments, part_text, plan_lines, verdict_lines
from matched.report.verdicts import Judged, Part, Verdict


def table(name, hours, missing=1, runs=2, gpus=0, minutes=30):
    """A table with so many runs, of which some are missing; this machine has one GPU."""
    planned = SimpleNamespace(resources=SimpleNamespace(gpus=gpus, minutes=minutes))
    plan = SimpleNamespace(
        recipe=SimpleNamespace(name=name),
        runs=[planned] * runs,
        missing=[planned] * missing,
        site=SimpleNamespace(
            file="site.toml", local=SimpleNamespace(usable_gpus=lambda: ("0",), gpus=1)
        ),
    )
    return SimpleNamespace(plan=plan, hours=hours)


ONE = "table1: 1 of 2 runs to do, 1.5 h"
TWO = "table2: 1 of 1 run to do, 1,022.5 h"
TOO_BIG = (
    "table3: 2 of 2 runs to do, but it asks for 4 GPUs per run and this machine has 1 (`gpus` under"
    " [local] in site.toml is 1)"
)
SHARED = "one table after the other; shared runs count once"
LONG = (
    "That is more than a day. It can be interrupted at any time and continues where it was; faster "
    "are `gpus` or `workers` under [local] in site.toml, and --cluster slurm"
)


@pytest.mark.parametrize(
    ("tables", "cluster", "lines"),
    [
        ([], "local", []),
        ([table("table1", 1.0, missing=0)], "local", []),
        (
            [table("table1", 1.5), table("table0", 9.0, missing=0)],
            "local",
            [ONE, f"Expected: 1.5 h here, {SHARED}"],
        ),
        (
            [table("table1", 1.5), table("table2", 1022.5, runs=1, minutes=1)],
            "local",
            [
                *(ONE, TWO),
                f"Expected: 1,024.0 h here, {SHARED}; runs of seconds count as a minute",
                LONG,
            ],
        ),
        (
            [table("table1", 1.5), table("table2", 1022.5, runs=1)],
            "slurm",
            [ONE, TWO, f"Expected: 1,024.0 h on the cluster, without queueing, {SHARED}"],
        ),
        ([table("table3", 9.0, missing=2, gpus=4)], "local", [TOO_BIG]),
        (
            [table("table3", 9.0, missing=2, gpus=4), table("table1", 1.5)],
            "local",
            [TOO_BIG, ONE, f"Expected: 1.5 h here, {SHARED}"],
        ),
        (
            [table("table1", 24.0)],
            "local",
            ["table1: 1 of 2 runs to do, 24.0 h", f"Expected: 24.0 h here, {SHARED}"],
        ),
    ],
)
def test_plan_lines_give_the_hours_of_tables_with_missing_runs(tables, cluster, lines):
    assert list(plan_lines(tables, cluster)) == lines


@pytest.mark.parametrize(
    ("paper", "extra_arms", "arms", "arguments"),
    [
        (True, (), (), "table1"),
        (True, (), ("Derf",), "table1 WITH="),
        (True, ("Derf",), ("Derf",), "table1"),
        (False, (), (), "table FILE=recipes/own.py"),
        (False, (), ("Derf",), "table FILE=recipes/own.py WITH="),
    ],
)
def test_make_arguments_name_a_table_or_its_file(paper, extra_arms, arms, arguments):
    recipe = SimpleNamespace(
        name="table1" if paper else "own",
        path=Path("/here/recipes/own.py"),
        paper=object() if paper else None,
        extra_arms=extra_arms,
    )
    claimed = SimpleNamespace(plan=SimpleNamespace(recipe=recipe))
    assert make_arguments(claimed, Path("/here"), arms) == arguments


def part(label, verdict, detail, **more):
    return Part(label=label, verdict=verdict, detail=detail, **more)


UNDECIDED = part("ViT", Verdict.UNDECIDED, "0.1 %", more_seeds=3)
OPEN = part("CNN", Verdict.UNDECIDED, "0.2 %")
AT_LEAST = part("DiT", Verdict.UNDECIDED, "0.3 %", more_seeds=1, at_least=True)
SUPPORTED = part("", Verdict.SUPPORTED, "0.4 %")


def judged(verdict, *parts):
    claim = Claim(statement="It holds", source="here", test=None, missing="nothing")
    return Judged(claim=claim, scale="smoke", verdict=verdict, parts=parts)


@pytest.mark.parametrize(
    ("verdict", "parts", "needed"),
    [
        (Verdict.UNDECIDED, (UNDECIDED, SUPPORTED), "3 more seeds"),
        (Verdict.UNDECIDED, (UNDECIDED, OPEN), "at least 3 more seeds"),
        (Verdict.UNDECIDED, (AT_LEAST,), "at least 1 more seed"),
        (Verdict.UNDECIDED, (AT_LEAST, UNDECIDED), "at least 3 more seeds"),
        (Verdict.UNDECIDED, (OPEN,), ""),
        (Verdict.REFUTED, (UNDECIDED,), ""),
    ],
)
def test_seeds_needed_are_the_most_of_all_undecided_parts(verdict, parts, needed):
    assert judged(verdict, *parts).seeds_needed == needed


def test_verdict_lines_have_the_parts_of_claims_that_have_run():
    scorecard = [
        [judged(Verdict.UNDECIDED, UNDECIDED, SUPPORTED), judged(Verdict.SUPPORTED, SUPPORTED)],
        [judged(Verdict.NOT_RUN, part("ViT", Verdict.NOT_RUN, "no runs"))],
    ]
    assert list(verdict_lines(scorecard)) == [
        "undecided: It holds (3 more seeds)",
        "    ViT: undecided, 0.1 %",
        "    supported, 0.4 %",
        "supported: It holds",
        "    supported, 0.4 %",
        "not run: It holds",
    ]
    assert part_text(UNDECIDED) == "ViT: undecided, 0.1 %"
