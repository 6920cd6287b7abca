"""Arms added by --with: derived from an arm that the table has, matched, and named in results."""

import pytest

from matched import extra_arms, recipes

EXTRA = '''
"""Extra arms of the tests."""

from matched.extra_arms import ExtraArm

EXTRA_ARMS = (ExtraArm(name="Derf", like=("DyT", "tanh"), derive_norm=lambda norm: f"{norm}+erf"),)
'''


@pytest.fixture
def extra(one_row):
    one_row.write("recipes/extra_arms.py", EXTRA.lstrip())
    return one_row


def added(table="table1"):
    recipe = recipes.load(table)
    return extra_arms.with_arms(recipe, recipe.scale("smoke"), ["derf"])


def norms(recipe, scale):
    return {cell.arm: cell.run.config.norm for cell in recipe.table.cells(scale)}


def test_with_adds_the_last_arm_and_keeps_other_signatures(extra):
    recipe = recipes.load("table1")
    before = [cell.run.signature for cell in recipe.table.cells(recipe.scale("smoke"))]
    recipe, scale = added()
    assert norms(recipe, scale) == {"LN": "LN", "DyT": "DyT", "Derf": "DyT+erf"}
    assert [cell.run.signature for cell in recipe.table.cells(scale)][:2] == before
    assert recipe.printed_cell("small", "Derf") == {}


def test_with_derives_the_norm_of_the_scale(extra):
    extra.recipe(
        "TABLE = Table(arms=ARMS, scales=(replace(scale(seeds=(0,), small=SMALL), arm_norms="
        "ArmNorms(norms={'DyT': 'wide DyT'}, reason='it is small')),))"
    )
    assert norms(*added())["Derf"] == "wide DyT+erf"


def test_with_derives_the_norm_of_a_row(extra):
    extra.recipe(
        "NORMS = ArmNorms(by_row={'small': {'DyT': 'narrow DyT'}}, reason='it is small')\n"
        "TABLE = Table(arms=ARMS,"
        " scales=(replace(scale(seeds=(0,), small=SMALL), arm_norms=NORMS),))"
    )
    assert norms(*added())["Derf"] == "narrow DyT+erf"


def test_with_derives_runs_of_rows_that_give_each_arm_its_run(extra):
    extra.recipe(
        "NEED = {'pretrained': Run(task='tiny:train', config=Config(norm='tanh'))}\n"
        "RUN = Run(task='tiny:train', config=Config(norm='tanh'), needs=NEED)\n"
        "TABLE = Table(arms=(Arm(name='LN'), Arm(name='tanh')), scales=(scale(seeds=(0,),"
        " small={'LN': SMALL, 'tanh': RUN} | {'LN': replace(SMALL, needs=NEED)}),),"
        " allowed_differences={'norm': 'all'})"
    )
    recipe, scale = added()
    (cell,) = (cell for cell in recipe.table.cells(scale) if cell.arm == "Derf")
    assert cell.run.config.norm == "tanh+erf"
    assert cell.run.needs["pretrained"].config.norm == "tanh+erf"


def test_with_keeps_allowed_differences_of_the_model(extra):
    extra.recipe(
        "ARMS = (ARMS[0], replace(ARMS[1], allowed_differences={'lr': 'tuned'}))\n"
        "TUNED = {'LN': SMALL, 'DyT': replace(SMALL, config=Config(lr=0.2))}\n"
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=TUNED),))"
    )
    recipe, scale = added()
    (cell,) = (cell for cell in recipe.table.cells(scale) if cell.arm == "Derf")
    assert (cell.run.config.lr, cell.run.config.norm) == (0.2, "DyT+erf")


def test_with_writes_results_under_another_name(extra):
    output = extra.cli("table", "table1", "--with", "Derf")
    assert "results/table1+Derf.smoke.{md, csv, tex}" in output
    assert "Derf" in output
    output = extra.cli("plan", "table1", "--with", "derf", "--set", "lr=0.5")
    assert "3 of 3 runs to do" in output


def test_with_runs_of_the_arm_are_matched(extra):
    extra.compute("submit", "table1", "--cluster", "debug", "--with", "Derf")
    output = extra.cli("table", "table1", "--with", "Derf")
    assert output.count("yes") == 2


def test_report_with_shows_the_arm_where_a_table_can_have_it(extra):
    extra.recipe("ARMS = (Arm(name='x', norm='x'),)\n" + "TABLE = Table(arms=ARMS, scales=(scale("
                 "seeds=(0,), small=SMALL),))", name="second/table01")  # fmt: skip
    extra.finish("small.LN.0", top1=80.0)
    extra.cli("report", "--with", "Derf")
    page = (extra.root / "results/report/index.html").read_text(encoding="utf-8")
    assert ">Derf<" in page
    assert "matched table table1 --scale smoke --with Derf" in page


def test_report_with_keeps_a_table_that_has_the_arm(extra):
    extra.recipe(
        "ARMS = (*ARMS, Arm(name='Derf', norm='own'))\n"
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))"
    )
    extra.finish("small.own.0", top1=80.0)
    extra.cli("report", "--with", "Derf", "--tables", "table1")
    page = (extra.root / "results/report/index.html").read_text(encoding="utf-8")
    assert ">Derf<" in page and "--with Derf" not in page


def test_with_refuses_unknown_repeated_and_impossible_arms(extra):
    assert extra.mistake("plan", "table1", "--with", "x") == (
        "unknown arm for --with: 'x'; known, nearest first: Derf"
    )
    repeated = extra.mistake("plan", "table1", "--with", "Derf", "--with", "derf")
    assert repeated == "--with Derf: table1 has the arm Derf already"
    extra.recipe(
        "ARMS = (ARMS[0], Arm(name='BN', norm='BN'))\n"
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))"
    )
    assert extra.mistake("plan", "table1", "--with", "Derf") == (
        "--with Derf: table1 has no arm DyT or tanh to derive it from; its arms are LN, BN"
    )


def test_with_refuses_arms_whose_runs_are_not_matched(extra, monkeypatch):
    checked = []

    def check_matched(table, scale):
        checked.append((table, scale))
        raise ValueError("small: Derf differs in config.lr")

    recipe = recipes.load("table1")
    monkeypatch.setattr(extra_arms, "check_matched", check_matched)
    scale = recipe.scale("smoke")
    assert extra_arms.with_arms(recipe, scale, []) == (recipe, scale) and checked == []
    with pytest.raises(ValueError) as refusal:
        extra_arms.with_arms(recipe, scale, ["derf"])
    assert str(refusal.value) == "--with derf: table1, small: Derf differs in config.lr"
    ((table, scale),) = checked
    assert [arm.name for arm in table.arms] == ["LN", "DyT", "Derf"]
    assert {cell.arm for cell in table.cells(scale)} == {"LN", "DyT", "Derf"}


def test_with_several_arms_keeps_their_order_and_names(extra):
    extra.write(
        "recipes/extra_arms.py",
        EXTRA.lstrip() + "EXTRA_ARMS += (ExtraArm(name='own', like=('none', 'LN', 'DyT'),"
        " derive_norm=lambda norm: f'own {norm}'),)\n",
    )
    recipe = recipes.load("table1")
    both = ["own", "DERF"]
    recipe, scale = extra_arms.with_arms(recipe, recipe.scale("smoke"), both)
    assert norms(recipe, scale) == {
        "LN": "LN",
        "DyT": "DyT",
        "own": "own LN",  # the first of the arms that it may be derived from
        "Derf": "DyT+erf",
    }
    assert recipe.extra_arms == ("own", "Derf")
    assert recipe.table.scales == (scale,)


def test_with_possible_arms_leaves_out_impossible_ones(extra):
    extra.recipe(
        "ARMS = (Arm(name='x', norm='x'), Arm(name='y', norm='y'))\n"
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))"
    )
    recipe = recipes.load("table1")
    scale = recipe.scale("smoke")
    assert extra_arms.with_possible_arms(recipe, scale, ["Derf"]) == (recipe, scale)
    with pytest.raises(ValueError, match="unknown arm for --with: 'z'"):
        extra_arms.with_possible_arms(recipe, scale, ["Derf", "z"])


def test_with_leaves_out_rows_that_lack_the_model(extra):
    """Such a row has no run of the arm; norms by row apply to rows that name the model."""
    extra.recipe(
        "NORMS = ArmNorms(norms={'LN': 'wide LN'}, by_row={'large': {'LN': 'narrow LN'}},"
        " reason='it is small')\n"
        "TABLE = Table(arms=ARMS, scales=(replace(scale(seeds=(0,), small=SMALL, large={'LN': "
        "LARGE}), arm_norms=NORMS),))"
    )
    recipe, scale = added()
    cells = recipe.table.cells(scale)
    assert [(cell.row, cell.arm, cell.run.config.norm) for cell in cells] == [
        ("small", "LN", "wide LN"),
        ("small", "DyT", "DyT"),
        ("small", "Derf", "DyT+erf"),
        ("large", "LN", "narrow LN"),
    ]
