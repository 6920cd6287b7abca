"""Audit: verdicts on pairs from the fingerprints of their runs, and of the runs they need.

The comparison of configs is in test_matching.py.
"""

from dataclasses import replace

import pytest

from matched import audit
from matched.audit import AuditedPair, differ, matched_mark, matched_seeds
from matched.files import write_json
from matched.summary_table import summary_table

FINGERPRINT = {"weights": "aaaa", "batches": ["b1", "b2", "b3", "b4"]}


def finish(project, dyt, ln=FINGERPRINT, models=("small",)):
    """Write one finished pair per model with these fingerprints."""
    for model in models:
        for norm, fingerprint in (("LN", ln), ("DyT", dyt)):
            directory = project.finish(f"{model}.{norm}.0", prints=False, top1=80.0)
            if fingerprint is not None:
                write_json(directory / "fingerprint.json", fingerprint)


def verdict_and_reason(project):
    (pair,) = audit.audit_pairs(project.plan())
    return pair.verdict, pair.reason


def test_audit_matches_equal_fingerprints(one_row):
    finish(one_row, dyt=dict(FINGERPRINT))
    assert verdict_and_reason(one_row) == ("matched", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": "cccc"}, "fingerprints differ in weights"),
        ({"batches": ["b1", "b2", "b3", "x"]}, "fingerprints differ in batches"),
        ({"weights": "cccc", "batches": ["x"]}, "fingerprints differ in weights, batches"),
    ],
    ids=str,
)
def test_audit_and_table_report_different_fingerprints(one_row, changes, reason):
    finish(one_row, dyt={**FINGERPRINT, **changes})
    assert verdict_and_reason(one_row) == ("not matched", reason)
    table = summary_table(one_row.plan())
    assert table.rows[0][-1] == "no"
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert (row["LN"], row["DyT"], row["Δ"]) == ("80.0", "80.0", "—")
    assert table.records[1]["delta"] is None
    one_row.cli("table", "table1", code=1)
    assert f"NOT MATCHED: small, DyT, seed 0: {reason}." in table.notes
    output = one_row.cli("audit", "table1", code=1)
    assert "not matched" in output and "weights" in output + reason


def test_audit_compares_the_batches_that_both_runs_hashed(one_row):
    """The other run is still running, or diverged in its first steps."""
    finish(one_row, dyt={**FINGERPRINT, "batches": ["b1", "b2"]})
    assert verdict_and_reason(one_row) == ("matched", "")


def test_audit_verdict_is_unknown_without_a_fingerprint(one_row):
    finish(one_row, dyt=None)
    assert verdict_and_reason(one_row) == ("unknown", "ended without a fingerprint")
    table = summary_table(one_row.plan())
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert (row["LN"], row["DyT"], row["Δ"], row["matched"]) == ("80.0", "80.0", "—", "—")


def test_audit_verdict_is_unknown_before_a_run_starts(one_row):
    one_row.finish("small.LN.0", top1=80.0)
    assert verdict_and_reason(one_row) == ("unknown", "no fingerprint yet")


def test_audit_verdict_is_unknown_without_a_batch(one_row):
    finish(one_row, ln={**FINGERPRINT, "batches": []}, dyt={**FINGERPRINT, "batches": []})
    assert verdict_and_reason(one_row) == ("unknown", "no batch in the fingerprint yet")


def test_audit_needs_no_batch_where_batches_may_differ(project):
    project.recipe(
        "TABLE = Table(arms=ARMS, allowed_differences={'batches': 'for a reason'},"
        " scales=(scale(seeds=(0,), small=SMALL),))"
    )
    finish(project, ln={**FINGERPRINT, "batches": []}, dyt={**FINGERPRINT, "batches": []})
    assert verdict_and_reason(project) == ("matched", "")


@pytest.mark.parametrize("text", ["{", "{}", '{"weights": "aaaa"}'])
def test_audit_names_a_damaged_fingerprint(one_row, text):
    finish(one_row, dyt=FINGERPRINT)
    path = one_row.directory("small.DyT.0") / "fingerprint.json"
    path.write_text(text, encoding="utf-8")
    verdict, reason = verdict_and_reason(one_row)
    assert verdict == "not matched" and str(path) in reason
    assert "damaged" in one_row.cli("audit", "table1", code=1)


@pytest.mark.parametrize("part", ["weights", "batches"])
def test_allowed_differences_may_name_a_part_of_the_fingerprint(project, part):
    project.recipe(
        f"TABLE = Table(arms=ARMS, allowed_differences={{'{part}': 'for a reason'}},"
        " scales=(scale(seeds=(0,), small=SMALL),))"
    )
    finish(project, dyt={**FINGERPRINT, part: ["x"]})
    assert verdict_and_reason(project) == ("matched", "")
    other = {"weights": "batches", "batches": "weights"}[part]
    finish(project, dyt={**FINGERPRINT, other: ["x"]})
    assert verdict_and_reason(project) == ("not matched", f"fingerprints differ in {other}")


FIXUP = (
    "FIXUP = Arm(name='Fixup', norm='own', allowed_differences={'weights': 'it changes them.'})\n"
    "TABLE = Table(arms=(*ARMS, FIXUP), scales=(scale(seeds=(0,), small=SMALL),))"
)


@pytest.mark.parametrize(
    ("dyt", "fixup", "verdicts"),
    [
        ({}, {"weights": "x"}, {"DyT": "matched", "Fixup": "matched"}),
        ({"weights": "x"}, {"weights": "x"}, {"DyT": "not matched", "Fixup": "matched"}),
        ({}, {"weights": "x", "batches": ["x"]}, {"DyT": "matched", "Fixup": "not matched"}),
    ],
    ids=["allowed", "another arm", "another part"],
)
def test_an_arm_may_allow_differences_in_its_own_fingerprints(project, dyt, fixup, verdicts):
    project.recipe(FIXUP)
    finish(project, dyt={**FINGERPRINT, **dyt})
    directory = project.finish("small.own.0", prints=False, top1=80.0)
    write_json(directory / "fingerprint.json", {**FINGERPRINT, **fixup})
    assert {pair.arm: pair.verdict for pair in audit.audit_pairs(project.plan())} == verdicts


def test_allowed_differences_of_an_arm_are_shown_with_its_name(project):
    project.recipe(FIXUP)
    notes = summary_table(project.plan()).notes
    assert "Allowed to differ: weights (Fixup), because it changes them." in notes
    output = project.cli("audit", "table1")
    assert "Allowed to differ: weights (Fixup), because it changes them." in output


WITH_NEEDS = (
    "START = Run(task='tiny:train', config=Config(model='start'))\n"
    "MIDDLE = Run(task='tiny:train', config=Config(model='middle'), needs={'start': START})\n"
    "TOP = Run(task='tiny:train', config=SMALL.config, needs={'middle': MIDDLE})\n"
    "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=TOP),))"
)


@pytest.mark.parametrize(
    ("model", "fingerprint", "verdict"),
    [
        ("start", FINGERPRINT, ("matched", "")),
        (
            "start",
            {**FINGERPRINT, "weights": "x"},
            ("not matched", "start: fingerprints differ in weights"),
        ),
        (
            "middle",
            {**FINGERPRINT, "batches": ["x"]},
            ("not matched", "middle: fingerprints differ in batches"),
        ),
        (
            "small",
            {**FINGERPRINT, "weights": "x"},
            ("not matched", "fingerprints differ in weights"),
        ),
        ("middle", None, ("unknown", "middle: ended without a fingerprint")),
    ],
)
def test_audit_requires_the_needs_of_a_pair_to_match(project, model, fingerprint, verdict):
    project.recipe(WITH_NEEDS)
    finish(project, dyt=FINGERPRINT, models=("start", "middle", "small"))
    path = project.directory(f"{model}.DyT.0") / "fingerprint.json"
    path.unlink() if fingerprint is None else write_json(path, fingerprint)
    assert verdict_and_reason(project) == verdict


def test_a_need_is_titled_by_the_cell_that_needs_it(project):
    project.recipe(WITH_NEEDS)
    assert [planned.title for planned in project.plan().runs][:3] == [
        "small · LN · seed 0 · middle · start",
        "small · LN · seed 0 · middle",
        "small · LN · seed 0",
    ]


def test_an_unmatched_seed_marks_its_row_only(project):
    for model in ("small", "large"):
        for norm in ("LN", "DyT"):
            for seed in (0, 1):
                directory = project.finish(f"{model}.{norm}.{seed}", prints=False, top1=80.0)
                differs = (model, norm, seed) == ("small", "DyT", 1)
                write_json(
                    directory / "fingerprint.json", {**FINGERPRINT, "weights": f"w{differs}"}
                )
    table = summary_table(project.plan())
    assert [row[-1] for row in table.rows] == ["no", "yes"]
    (note,) = (note for note in table.notes if note.startswith("NOT MATCHED"))
    assert note == "NOT MATCHED: small, DyT, seed 1: fingerprints differ in weights."


def test_audit_compares_fingerprints_of_computed_runs(one_row):
    one_row.trouble("other weights", "small.DyT.0")
    one_row.compute("submit", "table1", "--cluster", "debug")
    assert verdict_and_reason(one_row) == ("not matched", "fingerprints differ in weights")


def test_audit_prints_differences_and_fingerprints(one_row):
    finish(one_row, dyt=FINGERPRINT)
    output = one_row.cli("audit", "table1")
    assert "small, seed 0" in output and "LN / DyT" in output
    assert "config.norm: 'LN' → 'DyT'" in output
    assert output.count("aaaa") == 2 and "b1 b2 b3 b4" in output


def test_audit_prints_the_allowed_differences(project):
    project.recipe(
        "OTHER = Run(task=SMALL.task, config=replace(SMALL.config, lr=0.2))\n"
        "TABLE = Table(arms=ARMS, allowed_differences={'lr': 'tuned for each'},"
        " scales=(scale(seeds=(0,), small={'LN': SMALL, 'DyT': OTHER}),))"
    )
    output = project.cli("audit", "table1")
    first, second = (line for line in output.splitlines() if "config." in line)
    assert "config.norm: 'LN' → 'DyT' " in first
    assert second.split() == ["LN", "/", "DyT", "config.lr:", "0.1", "→", "0.2", "—", "—"]
    assert "Allowed to differ: lr, because tuned for each" in output


# --- pairs


def test_audited_pair_names_its_cells_and_hardware(one_row):
    for norm, hardware in (("LN", "A100"), ("DyT", "H100")):
        one_row.finish(f"small.{norm}.0", hardware=hardware, top1=80.0)
    plan = one_row.plan()
    base, other = plan.runs
    (pair,) = audit.audit_pairs(plan)
    assert pair == AuditedPair(
        row="small",
        arm="DyT",
        seed=0,
        base=base,
        other=other,
        differences={"config.norm": ("LN", "DyT")},
        verdict="matched",
        base_column="LN",
        column="DyT",
        hardware=("A100", "H100"),
    )
    assert pair.different_hardware


def test_audit_names_config_fields_that_may_not_differ(one_row, monkeypatch):
    """A recipe with such runs is refused when it is loaded; the audit does not rely on that."""
    finish(one_row, dyt={**FINGERPRINT, "weights": "x"})
    plan, asked = one_row.plan(), []

    def disallowed_differences(differences, allowed):
        asked.append((differences, allowed))
        return ["config.lr", "config.epochs"]

    monkeypatch.setattr(audit, "disallowed_differences", disallowed_differences)
    (pair,) = audit.audit_pairs(plan)
    assert (pair.verdict, pair.reason) == (
        "not matched",
        "configs differ in config.lr, config.epochs",
    )
    assert asked == [
        ({"config.norm": ("LN", "DyT")}, plan.recipe.table.allowed_differences_of("DyT"))
    ]


def test_audit_of_one_run_for_both_arms_needs_its_result(project):
    project.recipe(
        "TABLE = Table(arms=(Arm(name='a'), Arm(name='b')),"
        " scales=(scale(seeds=(0,), small={'a': SMALL, 'b': SMALL}),))"
    )
    assert verdict_and_reason(project) == ("unknown", "no result yet")
    project.finish("small.LN.0", prints=False, top1=80.0)
    assert verdict_and_reason(project) == ("matched", "")


def test_hardware_of_a_run_includes_that_of_its_needs(project):
    project.recipe(WITH_NEEDS)
    for model, hardware in (("start", "H100"), ("middle", ""), ("small", "A100")):
        project.finish(f"{model}.LN.0", hardware=hardware, top1=80.0)
    plan = project.plan()
    names = {p.run.config.model: audit.hardware_of(plan, p.run) for p in plan.runs[:3]}
    assert names == {"start": "H100", "middle": "H100", "small": "A100, H100"}
    project.finish("start.LN.0", hardware="A100", top1=80.0)
    plan = project.plan()
    assert audit.hardware_of(plan, plan.runs[2].run) == "A100"
    assert audit.hardware_of(plan, plan.runs[5].run) == "", "none of its runs has finished"


@pytest.mark.parametrize(
    ("hardware", "other", "different"),
    [("A", "B", True), ("A", "A", False), ("", "B", False), ("A", "", False), ("", "", False)],
)
def test_unknown_hardware_is_not_different(hardware, other, different):
    assert differ(hardware, other) is different


def test_matched_seeds_and_mark_of_a_cell(one_row):
    """Marks are of all values of a search; seeds of one."""
    one_row.finish("small.LN.0", top1=80.0)
    one_row.finish("small.DyT.0", top1=80.0)
    (pair,) = audit.audit_pairs(one_row.plan())
    pairs = [
        pair,
        replace(pair, seed=1, verdict="unknown"),
        replace(pair, seed=2, hardware=("A100", "H100")),
        replace(pair, seed=3, hardware=("A100", "")),
        replace(pair, seed=4, value="0.5"),
        replace(pair, seed=5, row="large"),
        replace(pair, seed=6, arm="own", verdict="not matched"),
        replace(pair, seed=7, arm="own", verdict="unknown"),
    ]
    assert matched_seeds(pairs, "small", "DyT") == {0, 3}
    assert matched_seeds(pairs, "small", "DyT", "0.5") == {4}
    assert matched_seeds(pairs, "small", "own") == set()
    marks = [matched_mark(pairs, *cell) for cell in
             (("small", "DyT"), ("large", "DyT"), ("small", "own"), ("none", "DyT"))]  # fmt: skip
    assert marks == ["—", "yes", "no", "—"]
