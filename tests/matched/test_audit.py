"""Whether a pair is matched: by its configs before it runs, by its fingerprints after."""

import pytest

from matched import audit
from matched.files import write_json
from matched.summary_table import summary_table

PRINT = {"weights": "aaaa", "batches": ["b1", "b2", "b3", "b4"]}


def finish(project, dyt, ln=PRINT, models=("small",)):
    """One finished pair per model, with these fingerprints."""
    for model in models:
        for norm, found in (("LN", ln), ("DyT", dyt)):
            directory = project.finish(f"{model}.{norm}.0", prints=False, top1=80.0)
            if found is not None:
                write_json(directory / "fingerprint.json", found)


def judged(project):
    (pair,) = audit.pairs(project.plan())
    return pair.verdict, pair.reason


def test_equal_fingerprints_match(one_row):
    finish(one_row, dyt=dict(PRINT))
    assert judged(one_row) == ("matched", "")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weights": "cccc"}, "fingerprint: weights"),
        ({"batches": ["b1", "b2", "b3", "x"]}, "fingerprint: batches"),
        ({"weights": "cccc", "batches": ["x"]}, "fingerprint: weights, batches"),
    ],
    ids=str,
)
def test_other_fingerprints_do_not(one_row, changes, why):
    finish(one_row, dyt={**PRINT, **changes})
    assert judged(one_row) == ("not matched", why)
    table = summary_table(one_row.plan())
    assert table.rows[0][-1] == "no"
    one = dict(zip(table.header, table.rows[0], strict=True))
    assert (one["LN"], one["DyT"], one["Δ"]) == ("80.0", "80.0", "—")
    assert table.records[1]["delta"] is None
    one_row.cli("table", "table1", code=1)
    assert f"NOT MATCHED: small, DyT, seed 0: {why}." in table.notes
    told = one_row.cli("audit", "table1", code=1)
    assert "not matched" in told and "weights" in told + why


def test_a_run_that_has_seen_fewer_batches_is_compared_by_those(one_row):
    """It is at work still, or diverged in its first steps."""
    finish(one_row, dyt={**PRINT, "batches": ["b1", "b2"]})
    assert judged(one_row) == ("matched", "")


def test_a_missing_fingerprint_is_no_match_and_no_mismatch(one_row):
    finish(one_row, dyt=None)
    assert judged(one_row) == ("unknown", "ended without a fingerprint")
    table = summary_table(one_row.plan())
    one = dict(zip(table.header, table.rows[0], strict=True))
    assert (one["LN"], one["DyT"], one["Δ"], one["matched"]) == ("80.0", "80.0", "—", "—")


def test_a_run_that_is_to_come_has_no_fingerprint_yet(one_row):
    one_row.finish("small.LN.0", top1=80.0)
    assert judged(one_row) == ("unknown", "no fingerprint yet")


def test_fingerprints_of_no_batch_prove_nothing(one_row):
    finish(one_row, ln={**PRINT, "batches": []}, dyt={**PRINT, "batches": []})
    assert judged(one_row)[0] == "unknown"


@pytest.mark.parametrize("text", ["{", "{}", '{"weights": "aaaa"}'])
def test_a_damaged_fingerprint_is_named(one_row, text):
    finish(one_row, dyt=PRINT)
    path = one_row.directory("small.DyT.0") / "fingerprint.json"
    path.write_text(text, encoding="utf-8")
    verdict, reason = judged(one_row)
    assert verdict == "not matched" and str(path) in reason
    assert "damaged" in one_row.cli("audit", "table1", code=1)


@pytest.mark.parametrize("part", ["weights", "batches"])
def test_an_exception_frees_a_part_of_the_fingerprint(project, part):
    project.recipe(
        f"TABLE = Table(arms=ARMS, allowed_differences={{'{part}': 'for a reason'}},"
        " scales=(scale(seeds=(0,), small=SMALL),))"
    )
    finish(project, dyt={**PRINT, part: ["x"]})
    assert judged(project) == ("matched", "")
    other = {"weights": "batches", "batches": "weights"}[part]
    finish(project, dyt={**PRINT, other: ["x"]})
    assert judged(project) == ("not matched", f"fingerprint: {other}")


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
    ids=["as it should be", "another arm", "another part"],
)
def test_an_exception_of_an_arm_frees_a_part_of_its_fingerprints_alone(
    project, dyt, fixup, verdicts
):
    project.recipe(FIXUP)
    finish(project, dyt={**PRINT, **dyt})
    directory = project.finish("small.own.0", prints=False, top1=80.0)
    write_json(directory / "fingerprint.json", {**PRINT, **fixup})
    assert {pair.arm: pair.verdict for pair in audit.pairs(project.plan())} == verdicts


def test_an_exception_of_an_arm_is_said_with_its_name(project):
    project.recipe(FIXUP)
    notes = summary_table(project.plan()).notes
    assert "Not matched in weights (Fixup), on purpose: it changes them." in notes
    told = project.cli("audit", "table1")
    assert "Allowed to differ: weights (Fixup), because it changes them." in told


NEEDY = (
    "START = Run(task='tiny:train', config=Config(model='start'))\n"
    "MIDDLE = Run(task='tiny:train', config=Config(model='middle'), needs={'start': START})\n"
    "TOP = Run(task='tiny:train', config=SMALL.config, needs={'middle': MIDDLE})\n"
    "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=TOP),))"
)


@pytest.mark.parametrize(
    ("model", "found", "verdict"),
    [
        ("start", PRINT, ("matched", "")),
        ("start", {**PRINT, "weights": "x"}, ("not matched", "start: fingerprint: weights")),
        ("middle", {**PRINT, "batches": ["x"]}, ("not matched", "middle: fingerprint: batches")),
        ("small", {**PRINT, "weights": "x"}, ("not matched", "fingerprint: weights")),
        ("middle", None, ("unknown", "middle: ended without a fingerprint")),
    ],
)
def test_a_pair_is_matched_when_what_it_needs_is_matched_too(project, model, found, verdict):
    project.recipe(NEEDY)
    finish(project, dyt=PRINT, models=("start", "middle", "small"))
    path = project.directory(f"{model}.DyT.0") / "fingerprint.json"
    path.unlink() if found is None else write_json(path, found)
    assert judged(project) == verdict


def test_a_run_that_others_need_is_called_by_the_cell_that_needs_it(project):
    project.recipe(NEEDY)
    assert [planned.title for planned in project.plan().runs][:3] == [
        "small · LN · seed 0 · middle · start",
        "small · LN · seed 0 · middle",
        "small · LN · seed 0",
    ]


def test_one_bad_seed_spoils_the_row_and_no_other(project):
    for model in ("small", "large"):
        for norm in ("LN", "DyT"):
            for seed in (0, 1):
                directory = project.finish(f"{model}.{norm}.{seed}", prints=False, top1=80.0)
                odd = (model, norm, seed) == ("small", "DyT", 1)
                write_json(directory / "fingerprint.json", {**PRINT, "weights": f"w{odd}"})
    table = summary_table(project.plan())
    assert [row[-1] for row in table.rows] == ["no", "yes"]
    (note,) = (note for note in table.notes if note.startswith("NOT MATCHED"))
    assert note == "NOT MATCHED: small, DyT, seed 1: fingerprint: weights."


def test_the_fingerprints_of_computed_runs_are_compared(one_row):
    one_row.trouble("other weights", "small.DyT.0")
    one_row.compute("submit", "table1", "--cluster", "debug")
    assert judged(one_row) == ("not matched", "fingerprint: weights")


def test_audit_shows_what_differs(one_row):
    finish(one_row, dyt=PRINT)
    told = one_row.cli("audit", "table1")
    assert "small, seed 0" in told and "LN / DyT" in told
    assert "config.norm: 'LN' → 'DyT'" in told
    assert told.count("aaaa") == 2 and "b1 b2 b3 b4" in told


def test_audit_names_the_exceptions(project):
    project.recipe(
        "OTHER = Run(task=SMALL.task, config=replace(SMALL.config, lr=0.2))\n"
        "TABLE = Table(arms=ARMS, allowed_differences={'lr': 'tuned for each'},"
        " scales=(scale(seeds=(0,), small={'LN': SMALL, 'DyT': OTHER}),))"
    )
    told = project.cli("audit", "table1")
    assert "config.lr: 0.1 → 0.2" in told
    assert "Allowed to differ: lr, because tuned for each" in told
