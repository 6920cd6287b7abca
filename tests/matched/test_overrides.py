"""overrides: config fields changed on the command line, their types, and the names of results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from matched import Arm, Metric, Resources, Run, Scale, Table
from matched.overrides import on_data, parse_value, with_changes
from matched.recipes import Recipe
from matched.summary_table import summary_table


@dataclass(frozen=True, kw_only=True)
class Network:
    width: int = 8
    depth: int = 2


# --- types


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("1e-3", float, 0.001),
        ("1", float, 1.0),
        ("16", int, 16),
        ("true", bool, True),
        ("False", bool, False),
        ("16", str, "16"),
        ("None", str, "None"),
        ("'a b'", str, "a b"),
        ("vit_base", str, "vit_base"),
        ("none", float | None, None),
        ("3", float | None, 3.0),
        ("0.9, 0.95", tuple[float, float], (0.9, 0.95)),
        ("(1, 0.95)", tuple[float, float], (1.0, 0.95)),
        ("[1, 2, 3]", tuple[int, ...], (1, 2, 3)),
        ("(('depth', 2),)", tuple[tuple[str, int], ...], (("depth", 2),)),
        ("cosine", Literal["cosine", "step"], "cosine"),
        ("{'a': 1.0}", Mapping[str, float], {"a": 1.0}),
        ("{'a': 1}", Mapping[str, float], {"a": 1.0}),
        ("{'a': (1, 2)}", dict[str, tuple[float, ...]], {"a": (1.0, 2.0)}),
        ("(1, 2)", list[float], [1.0, 2.0]),
        ("[1, 2]", Sequence[float], (1.0, 2.0)),
        ("{1, 2}", set[int], {1, 2}),
        ("[1, 'a']", tuple, (1, "a")),
    ],
)
def test_parse_value_reads_the_annotated_type(text, annotation, value):
    parsed = parse_value(text, annotation, "field")
    assert repr(parsed) == repr(value), "equal, and of the same types"


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("fast", float, "float"),
        ("1.5", int, "int"),
        ("True", int, "int"),
        ("1", bool, "bool"),
        ("0.9", tuple[float, float], "tuple[float, float]"),
        ("(1, 2, 3)", tuple[float, float], "tuple[float, float]"),
        ("cosin", Literal["cosine", "step"], "Literal['cosine', 'step']"),
        ("x", float | None, "float | None"),
        ("__import__('os')", float, "float"),
        ("[1, 'x']", list[int], "list[int]"),
        ("(1, 2.5)", Sequence[int], "Sequence[int]"),
        ("{'a': 'x'}", dict[str, float], "dict[str, float]"),
        ("{1: 2.0}", Mapping[str, float], "Mapping[str, float]"),
        ("{'a': [1, 'x']}", dict[str, list[int]], "dict[str, list[int]]"),
        ("3", list[int], "list[int]"),
        ("inf", float, "float"),
        ("nan", float | None, "float | None"),
    ],
)
def test_parse_value_refuses_another_type(text, annotation, expected):
    with pytest.raises(ValueError) as error:
        parse_value(text, annotation, "field")
    shown = str(error.value).replace("collections.abc.", "")
    assert shown == f"field is {text!r}; expected {expected}"


@pytest.mark.parametrize(
    ("text", "annotation"),
    [
        ("1e999", float),
        ("-1e999", float | None),
        ("0.9, 1e999", tuple[float, float]),
        ("[1e999]", list[float]),
        ("{'a': 1e999}", Mapping[str, float]),
        ("{'a': 0.5, 'b': (0.5, 1e999)}", Mapping[str, Any]),
        ("1e999", Any),
    ],
)
def test_parse_value_refuses_numbers_that_are_not_finite(text, annotation):
    with pytest.raises(ValueError, match=r"^field is .*, which is not finite; expected finite"):
        parse_value(text, annotation, "field")


# --- changes of runs


@dataclass(frozen=True, kw_only=True)
class Config:
    lr: float = 0.1
    min_lr: float = 0.05
    network: Network = Network()
    norm: str = "LN"
    seed: int = 0

    def __post_init__(self):
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")


@dataclass(frozen=True, kw_only=True)
class OnImages(Config):
    data: str = "digits"
    size: int = 16


IMAGES = Run(task="a:train", config=OnImages())
ENCODE = Run(task="a:encode", config=Network())
PRETRAIN = Run(task="a:pretrain", config=Config(lr=0.2), needs={"data": ENCODE})
RUN = Run(task="a:train", config=Config(), needs={"pretrained": PRETRAIN})
ARMS = (Arm(name="LN", norm="LN"), Arm(name="DyT", norm="DyT"))


def changed(tmp_path, *texts, on=None, **runs):
    """Return the recipe and the cells of a table after the changes.

    Args:
        on: the runs of the scale on the data "folder".
    """
    scale = Scale(
        name="smoke",
        seeds=(0,),
        runs=runs or {"row": RUN},
        resources=Resources(minutes=1),
        metrics=(Metric(key="m", label="m", direction="higher"),),
    )
    if on is not None:
        other = replace(scale, runs=on, resources=Resources(minutes=7))
        scale = replace(scale, on_data={"folder": other})
    recipe = Recipe(
        name="own",
        path=tmp_path / "own.py",
        table=Table(arms=ARMS, scales=(scale,)),
        paper=None,
        project=tmp_path,
    )
    recipe, scale = with_changes(recipe, scale, texts)
    return recipe, scale, [cell.run for cell in recipe.table.cells(scale)]


def test_with_changes_applies_to_all_arms(tmp_path):
    recipe, _, runs = changed(tmp_path, "lr=1")
    assert [(run.config.norm, run.config.lr) for run in runs] == [("LN", 1.0), ("DyT", 1.0)]
    assert recipe.changes == {"lr": 1.0}
    assert runs[0].needs["pretrained"].config.lr == 0.2
    before = changed(tmp_path)[2]
    assert not {run.signature for run in runs} & {run.signature for run in before}


def test_spaces_around_a_change_do_not_count(tmp_path):
    recipe, _, runs = changed(tmp_path, " lr = 1 ")
    assert recipe.changes == {"lr": 1.0} and runs[0].config.lr == 1.0


def test_with_changes_applies_to_runs_given_per_arm(tmp_path):
    runs = changed(tmp_path, "lr=1", row={"LN": RUN, "DyT": RUN})[2]
    assert [run.config.lr for run in runs] == [1.0, 1.0]


def test_with_changes_reaches_nested_fields_and_needs(tmp_path):
    texts = ("network.width=16", "pretrained.lr=0.3", "pretrained.data.depth=4")
    recipe, _, runs = changed(tmp_path, *texts)
    for run in runs:
        assert run.config.network == Network(width=16)
        pretrained = run.needs["pretrained"]
        assert (run.config.lr, pretrained.config.lr) == (0.1, 0.3)
        assert pretrained.needs["data"].config.depth == 4
    assert recipe.change_texts == sorted(texts)


def test_with_changes_changes_fields_of_a_config_at_once(tmp_path):
    """Either order of single changes would pass through a config that is refused."""
    config = changed(tmp_path, "min_lr=0.01", "lr=0.02")[2][0].config
    assert (config.lr, config.min_lr) == (0.02, 0.01)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lrr=1"], "row row of own: Config has no field lrr; known, nearest first: lr, "),
        (["network.with=1"], "Network has no field network.with; known, nearest first: width"),
        (["pretraned.lr=1"], "Config has no field pretraned; known, nearest first: pretrained"),
        (["pretrained.lrr=1"], "Config has no field pretrained.lrr"),
        (["lr.x=1"], "lr is 0.1, which has no fields to change"),
        (["network=3"], "network is a Network; change its fields: network.width, network.depth"),
        (["lr=0.01"], "min_lr 0.05 is above lr 0.01"),
        (["lr"], "--set lr: expected field=value"),
        (["=1"], "expected field=value"),
        (["lr=1", "lr=2"], "--set lr=2: lr is changed twice"),
        (["network.width=1", "network=2"], "changed twice"),
        (["network=2", "network.width=1"], "changed twice"),
        (["seed=3"], "seed is set by the table's arms and seeds"),
        (["pretrained.norm=DyT"], "pretrained.norm is set by the table's arms and seeds"),
    ],
)
def test_with_changes_refuses(tmp_path, texts, message):
    with pytest.raises(ValueError) as error:
        changed(tmp_path, *texts)
    assert message in str(error.value)
    assert str(error.value).startswith("--set")


def test_with_changes_refuses_a_field_that_one_row_lacks(tmp_path):
    with pytest.raises(ValueError, match="row other of own: Network has no field lr"):
        changed(tmp_path, "lr=1", row=RUN, other={"LN": ENCODE, "DyT": ENCODE})


def test_with_changes_names_annotations_that_cannot_be_read(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Unreadable(Config):
        kind: "NoSuchType" = None  # noqa: F821

    run = Run(task="a:train", config=Unreadable())
    with pytest.raises(ValueError) as error:
        changed(tmp_path, "kind=1", row=run)
    assert str(error.value) == (
        "--set: row row of own: the annotations of Unreadable cannot be read (name 'NoSuchType' is "
        "not defined); import the types they name in its module"
    )
    needing = replace(run, needs={"pretrained": PRETRAIN})
    (changed_run, _) = changed(tmp_path, "pretrained.lr=1", row=needing)[2]
    assert changed_run.needs["pretrained"].config.lr == 1.0, "its own config is not changed"


@pytest.mark.parametrize("text", ["-" * 5000 + "1", "(" * 500, "[" * 300, "a b", "1 +", "0x"])
def test_text_that_python_cannot_parse_is_itself(text):
    assert parse_value(text, str, "field") == text


# --- names and output


def test_set_data_takes_the_scale_of_that_data(tmp_path):
    other = Run(task="a:train", config=OnImages(data="folder", size=32))
    _, scale, runs = changed(tmp_path, "data=folder", "lr=1", row=IMAGES, on={"row": other})
    assert [(run.config.size, run.config.lr) for run in runs] == [(32, 1.0)] * 2
    assert scale.resources.minutes == 7
    runs = changed(tmp_path, "data=unfitted", row=IMAGES, on={"row": other})[2]
    assert {(run.config.data, run.config.size) for run in runs} == {("unfitted", 16)}


def test_on_data_is_none_without_that_data_and_refuses_other_changes(tmp_path):
    recipe, scale, _ = changed(tmp_path, row=IMAGES, on={"row": IMAGES})
    assert on_data(recipe, scale, ()) == (recipe, scale)
    assert on_data(recipe, scale, ("data=elsewhere",)) is None
    changed_recipe, taken = on_data(recipe, scale, ("data=folder",))
    assert changed_recipe.changes == {"data": "folder"} and taken.resources.minutes == 7
    for texts in (("lr=1",), ("data=folder", "lr=1"), ("data.name=x",)):
        with pytest.raises(ValueError) as error:
            on_data(recipe, scale, texts)
        assert str(error.value) == (
            f"--set {' '.join(texts)}: over all tables only data=name can be changed, such as "
            "data=cifar100; change other fields of single tables"
        )


def test_results_name_of_a_try_differs_from_the_tables(tmp_path):
    recipe, scale, _ = changed(tmp_path)
    assert recipe.results_name(scale) == "own.smoke"
    recipe, scale, _ = changed(tmp_path, "network.width=16", "lr=1e-1")
    assert recipe.results_name(scale) == "own.smoke.lr=0.1,network.width=16"


def test_results_name_is_a_file_name_and_unique():
    def name(value):
        recipe = Recipe(
            name="own", path=None, table=None, paper=None, project=None, changes={"model": value}
        )
        return recipe.results_name(
            Scale(name="smoke", runs={}, seeds=(0,), resources=Resources(minutes=1))
        )

    names = [name("a/b"), name("a b"), name("x" * 300), name("x" * 301)]
    assert len(set(names)) == 4
    assert all("/" not in name and len(name) < 120 for name in names)
    assert names[0].startswith("own.smoke.model=a_b-")


def test_set_on_the_command_line_changes_the_plan(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=SMALL),))")
    before = {planned.run.signature for planned in project.plan().runs}
    for command in ("plan", "status"):
        out = project.cli(command, "table1", "--set", "lr=1e-3", "--set", "clip_norm=1")
        assert "Changed on the command line: clip_norm=1.0, lr=0.001" in out
        assert not [signature for signature in before if signature in out]
    assert "Changed" not in project.cli("plan", "table1")


def test_set_appears_below_the_table_and_in_its_name(project):
    project.cli("table", "table1")
    table = (project.root / "results/table1.smoke.md").read_text(encoding="utf-8")
    out = project.cli("table", "table1", "--set", "lr=1e-3")
    assert "Changed on the command line: lr=0.001." in out
    changed_table = project.root / "results/table1.smoke.lr=0.001.md"
    assert "- Changed on the command line: lr=0.001." in changed_table.read_text(encoding="utf-8")
    assert (project.root / "results/table1.smoke.md").read_text(encoding="utf-8") == table


def test_set_selects_the_runs_of_other_commands(one_row):
    one_row.compute("run", "table1", "--row", "small", "--arm", "DyT", "--set", "lr=1e-3")
    assert one_row.computed() == ["small.DyT.0"]
    assert "done" in one_row.cli("status", "table1", "--set", "lr=0.001")
    assert "done" not in one_row.cli("status", "table1")
    assert "small" in one_row.cli("audit", "table1", "--set", "lr=0.001")


def test_damaged_run_names_the_command_with_its_changes(one_row):
    one_row.compute("run", "table1", "--row", "small", "--arm", "DyT", "--set", "lr=1e-3")
    (path,) = one_row.root.glob("runs/*/*/result.json")
    path.write_text("{", encoding="utf-8")
    out = one_row.cli("status", "table1", "--set", "lr=1e-3", code=2)
    assert "`matched retry table1 --scale smoke --set lr=0.001` sets it aside" in out


def test_summary_table_without_changes_has_no_note(project):
    assert not [note for note in summary_table(project.plan()).notes if "Changed" in note]
