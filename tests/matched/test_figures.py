"""Figures drawn from runs: their data, files, and what they refuse."""

import csv
import io
import json

import numpy as np
import pytest

from matched.figure import Source
from matched.report import figures
from matched.report.figure_list import DrawnFigure
from matched.report.figures import norm_layers
from matched.report.figures.canvas import Canvas
from matched.site import Site

FIGURES = '''
"""Figures of the tests."""

from matched.figure import (
    AlphaAgainstStd, AlphaDuringTraining, BlockDiagram, LossCurves, NormShapes, Source, TanhCurves,
    TokensAndChannels,
)

LN = Source(title="Small", recipe="table1", row="small", arms=("LN",))
DYT = Source(title="Small", recipe="table1", row="small", arms=("DyT",))
FIGURES = {
    1: BlockDiagram(caption="A block"),
    2: NormShapes(caption="Shapes", sources=(LN,), layers=3),
    3: TanhCurves(caption="tanh", alphas=(0.5, 2.0)),
    4: TokensAndChannels(caption="Tokens", source=LN, depths=(0.0, 1.0)),
    5: LossCurves(caption="Losses", sources=(Source(title="Small", recipe="table1", row="small"),)),
    7: AlphaDuringTraining(caption="Epochs", source=DYT),
    8: AlphaAgainstStd(caption="Correlation", sources=(DYT,)),
}
'''
NEED = 'row="small", need="trained"),'
PATHS = ["blocks.0.norm1", "blocks.0.norm2", "norm"]


@pytest.fixture
def drawn(one_row, monkeypatch):
    """A project with figures, and a function that draws one and returns the lines of its CSV."""
    one_row.write("recipes/first/figures.py", FIGURES.lstrip())
    for norm in ("LN", "DyT"):
        one_row.finish(f"small.{norm}.0", top1=80.0)

    def draw(name):
        with monkeypatch.context() as without_pictures:
            without_pictures.setattr(Canvas, "save_pictures", lambda canvas, folder: [])
            one_row.cli("figure", name)
        (path,) = (one_row.root / "results/figures").glob(f"{name}*.csv")
        return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))

    one_row.draw = draw
    return one_row


def write_layers(project, norm, alphas=(None,) * 3, last_error=0.3):
    """Write what an analysis run writes; the last layer is tanh(2x), with that error of a line."""
    rng = np.random.default_rng(0)
    arrays = {
        "path": np.array(PATHS),
        "alpha": np.array([np.nan if alpha is None else alpha for alpha in alphas]),
        "input_std": np.array([1.0, 2.0, 4.0]),
        "fit": np.array([[1.0, 2.0, 0.1, 0.0, 0.0]] * 2 + [[1.0, 2.0, 0.1, last_error, 0.01]]),
        "fit_columns": np.array(["scale", "alpha", "tanh_offset", "line_error", "tanh_error"]),
    }
    for index in range(3):
        x = rng.normal(size=(10, 8)).astype(np.float16)
        arrays |= {f"x{index}": x, f"y{index}": np.tanh(2 * x) if index == 2 else x}
    np.savez(project.directory(f"small.{norm}.0") / "norm_layers.npz", **arrays)
    return arrays


def write_metrics(project, norm, lines, model="small"):
    path = project.directory(f"{model}.{norm}.0") / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_figure_of_losses_has_every_arm(drawn):
    write_metrics(drawn, "LN", [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}])
    write_metrics(drawn, "DyT", [{"step": 1, "loss": 3.5}, {"step": 2, "loss": None}])
    assert [tuple(line.values()) for line in drawn.draw("fig5")] == [
        ("Small", "LN", "1", "3.0"),
        ("Small", "LN", "2", "2.5"),
        ("Small", "DyT", "1", "3.5"),
        ("Small", "DyT", "2", "nan"),
    ]


def test_figure_source_need_shows_the_needed_runs(drawn):
    drawn.recipe(
        'NEEDING = replace(SMALL, needs={"trained": LARGE})\n'
        "TABLE = Table(arms=ARMS, scales=(scale(seeds=(0,), small=NEEDING),))"
    )
    drawn.write("recipes/first/figures.py", FIGURES.lstrip().replace('row="small"),', NEED))
    for norm, loss in (("LN", 3.0), ("DyT", 3.5)):
        drawn.finish(f"large.{norm}.0", top1=80.0)
        write_metrics(drawn, norm, [{"step": 1, "loss": loss}], model="large")
    assert [line["loss"] for line in drawn.draw("fig5")] == ["3.0", "3.5"]


def test_figure_files_are_equal_when_drawn_again(drawn):
    write_layers(drawn, "LN")
    drawn.cli("figure", "fig2")
    folder = drawn.root / "results/figures"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == {"fig2.smoke.svg", "fig2.smoke.png", "fig2.smoke.csv"}
    drawn.cli("figure", "fig2")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_figure_svg_has_its_fonts_inside(drawn):
    drawn.cli("figure", "fig1")
    svg = (drawn.root / "results/figures/fig1.svg").read_text(encoding="utf-8")
    assert "<text" not in svg and "font-family" not in svg and "<path" in svg


def test_figure_of_norm_shapes_has_the_recorded_points(drawn):
    arrays = write_layers(drawn, "LN")
    lines = drawn.draw("fig2")
    assert {line["path"] for line in lines} == set(PATHS)
    last = [line for line in lines if line["layer"] == "3"]
    assert len(last) == arrays["x2"].size
    assert [float(line["input"]) for line in last] == pytest.approx(
        arrays["x2"].ravel().astype(float), rel=1e-3
    )


def test_figure_of_norm_shapes_tells_s_shapes_from_lines(drawn, monkeypatch):
    monkeypatch.setattr(Canvas, "save_pictures", lambda canvas, folder: [])
    write_layers(drawn, "LN")
    assert (
        "At smoke scale, deep layers are S-shaped in Small (last third: 1 of 1 layer, first third:"
        " 0). A layer counts" in drawn.cli("figure", "fig2")
    )
    write_layers(drawn, "LN", last_error=0.09)  # a line leaves 0.8 % of the variance
    finding = "At smoke scale, no deep layer is S-shaped; toy networks do not show it: Small"
    assert finding in drawn.cli("figure", "fig2")


def test_figure_of_tokens_and_channels_has_both(drawn):
    write_layers(drawn, "LN")
    lines = drawn.draw("fig4")
    assert len(lines) == 2 * 80
    assert {(line["layer"], line["path"]) for line in lines} == {("1", PATHS[0]), ("3", "norm")}


def test_figure_of_alpha_against_std_has_kinds_of_layers(drawn):
    write_layers(drawn, "DyT", alphas=(0.5, 0.4, 0.25))
    lines = [tuple(line.values())[1:] for line in drawn.draw("fig8")]
    assert lines == [
        (PATHS[0], "attention", "0.5", "1.0"),
        (PATHS[1], "FFN", "0.4", "0.5"),
        ("norm", "other", "0.25", "0.25"),
    ]


def test_figure_of_alpha_during_training_has_each_epoch(drawn):
    lines = [
        {
            "step": 10 * epoch,
            "epoch": epoch,
            "evaluation": {
                "top1": 1.0,
                **{f"alpha/{path}": 0.1 * epoch + i for i, path in enumerate(PATHS)},
                **{f"inverse_std/{path}": 0.2 * epoch for path in PATHS},
            },
        }
        for epoch in (1, 2)
    ]
    write_metrics(drawn, "DyT", lines)
    assert [tuple(line.values()) for line in drawn.draw("fig7")] == [
        (PATHS[0], "1", "0.1", "0.2"),
        (PATHS[0], "2", "0.2", "0.4"),
        (PATHS[2], "1", "2.1", "0.2"),
        (PATHS[2], "2", "2.2", "0.4"),
    ]


def test_figures_without_runs_need_none(drawn):
    assert len(drawn.draw("fig3")) == 2 * 241


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("blocks.3.norm1", "attention"),
        ("encoder.layers.0.self_attn_layer_norm", "attention"),
        ("encoder.layers.0.final_layer_norm", "FFN"),
        ("blocks.3.norm2", "FFN"),
        ("blocks.3.attn.q_norm", "attention"),
        ("layers.3.mlp.norm", "FFN"),
        ("norm", "other"),
    ],
)
def test_layer_kind_follows_the_path(path, kind):
    assert norm_layers.layer_kind(path) == kind


def test_figure_names_missing_runs_and_their_command(project):
    project.write("recipes/first/figures.py", FIGURES.lstrip())
    message = project.mistake("figure", "fig5")
    assert "fig5 at smoke scale needs runs that are not finished: small · LN · seed 0" in message
    assert message.endswith("run `matched submit table1 --scale smoke --wait`")


def test_draw_all_draws_figures_with_runs_at_every_scale(one_row, monkeypatch):
    def draw(self, name, folder):
        if name == "fig5":
            raise figures.MissingRunsError("not finished")
        if name == "fig7":
            raise ValueError("no 1/std")
        return [folder / f"{name}.{self.scale}.svg"]

    monkeypatch.setattr(figures.FigureDrawer, "draw", draw)
    monkeypatch.setattr(figures.FigureDrawer, "finding", lambda self, name: f"{name} bends")
    one_row.write("recipes/first/figures.py", FIGURES.lstrip())
    folder, settings = one_row.root / "figures", Site(file=one_row.root / "site.toml")
    drawn = {
        (one.name, one.scale): one
        for one in figures.draw_all(one_row.root, settings, ["smoke", "paper"], folder)
    }
    with_runs = [(f"fig{n}", scale) for n in (2, 4, 5, 7, 8) for scale in ("smoke", "paper")]
    assert set(drawn) == {("fig1", ""), ("fig3", ""), *with_runs}
    common = {"name": "fig5", "scale": "smoke", "caption": "Losses"}
    assert drawn["fig5", "smoke"] == DrawnFigure(
        **common, paths=(), problem="not finished", missing_runs=True, finding=""
    )
    assert drawn["fig7", "smoke"].problem == "no 1/std" and not drawn["fig7", "smoke"].missing_runs
    path = folder / "fig2.paper.svg"
    assert drawn["fig2", "paper"] == DrawnFigure(
        **common | {"name": "fig2", "scale": "paper", "caption": "Shapes"},
        paths=(path,),
        problem="",
        missing_runs=False,
        finding="fig2 bends",
    )


def test_figure_shows_the_first_seed_of_each_arm(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=(3, 1), small=SMALL),))")
    for planned in project.plan().runs:
        planned.directory.prepare()
        planned.directory.write_result({"outcome": "done", "metrics": {}})
    drawer = figures.FigureDrawer(project.root, project.plan().site, "smoke")
    shown = drawer._runs("fig5", Source(title="Small", recipe="table1", row="small"))
    assert shown.title == "Small"
    assert [(arm, planned.run.config.seed) for arm, planned in shown.runs.items()] == [
        ("LN", 3),
        ("DyT", 3),
    ]


def test_figure_names_eight_missing_runs_and_counts_the_others(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=tuple(range(9)), small=SMALL),))")
    plan = project.plan()
    drawer = figures.FigureDrawer(project.root, plan.site, "smoke")
    source = Source(title="Small", recipe="table1", row="small", arms=("DyT",))
    shown = figures._of_source(plan, source)
    assert {cell.arm for cell, _ in shown} == {"DyT"} and len(shown) == 9
    runs = [planned for _, planned in shown]
    names = ", ".join(f"small · DyT · seed {seed}" for seed in range(8))
    for chosen, text in ((runs, f"{names} and 1 more"), (runs[:8], names), ([], "small")):
        with pytest.raises(figures.MissingRunsError) as error:
            drawer._check_finished("fig5", source, plan, chosen)
        assert str(error.value) == (
            f"fig5 at smoke scale needs runs that are not finished: {text}; "
            "run `matched submit table1 --scale smoke --wait`"
        )


def test_figure_refuses_unknown_names_and_scales(drawn):
    assert "unknown figure: 'fig6'" in drawn.mistake("figure", "fig6")
    assert "unknown scale: 'big'" in drawn.mistake("figure", "fig5", "--scale", "big")
    assert "unknown scale of table1: 'paper'" in drawn.mistake("figure", "fig5", "--scale", "paper")


def test_figure_refuses_missing_and_damaged_data(drawn):
    assert "norm_layers.npz is missing" in drawn.mistake("figure", "fig2")
    (drawn.directory("small.LN.0") / "norm_layers.npz").write_bytes(b"PK\x03\x04 cut")
    assert "norm_layers.npz is damaged" in drawn.mistake("figure", "fig2")
    assert "has no loss" in drawn.mistake("figure", "fig5")
    write_layers(drawn, "DyT")
    assert "has no DyT layers" in drawn.mistake("figure", "fig8")


def test_figure_needs_prints_recipes(drawn):
    assert drawn.cli("figure", "fig5", "--needs") == "table1\n"
    assert drawn.cli("figure", "fig1", "--needs").strip() == ""


def test_report_shows_figures_and_why_others_are_missing(drawn):
    write_layers(drawn, "LN")
    drawn.cli("report")
    page = (drawn.root / "results/report/index.html").read_text(encoding="utf-8")
    assert 'src="figures/fig2.smoke.svg"' in page and 'href="figures/fig2.smoke.csv"' in page
    assert (drawn.root / "results/report/figures/fig2.smoke.svg").is_file()
    assert "has no loss" in page
    assert "deep layers are S-shaped in Small" in page


def test_report_names_missing_runs_of_figures_without_alarm(project):
    project.write("recipes/first/figures.py", FIGURES.lstrip())
    project.finish("small.LN.0", top1=80.0)
    project.cli("report")
    page = (project.root / "results/report/index.html").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if "fig5 at smoke scale needs" in line]
    assert line.startswith('<p class="quiet">')
    assert "run <code>matched submit table1 --scale smoke --wait</code>" in line
