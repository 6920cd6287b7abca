"""Formats of a table: columns of text and numbers, escapes, pictures, and headers."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from matched import table_formats
from matched.gallery import NO_PICTURES
from matched.summary_table import _Columns, _header
from matched.table import Metric

LOSS = Metric(key="loss", label="loss", direction="lower")
TOP1 = Metric(key="top1", label="top-1", unit="%", direction="higher")


@pytest.mark.parametrize(
    ("metrics", "arms", "columns", "header"),
    [
        ((TOP1,), ["LN"], (False, False), "top-1 %|LN|runs"),
        ((TOP1,), ["LN", "DyT"], (False, False), "top-1 %|LN|DyT|Δ|runs|matched"),
        (
            (TOP1, LOSS),
            ["LN", "DyT"],
            (True, True),
            "model|metric|LN|DyT|Δ|paper LN|paper DyT|paper Δ|runs|matched",
        ),
        (
            (TOP1,),
            ["LN", "DyT", "BN"],
            (False, True),
            "top-1 %|arm|ours|Δ|paper|paper Δ|runs|matched",
        ),
        (
            (TOP1, LOSS),
            ["LN", "DyT", "BN"],
            (True, False),
            "model|metric|arm|result|Δ|runs|matched",
        ),
    ],
)
def test_header_names_metrics_arms_and_the_papers_columns(metrics, arms, columns, header):
    metric, paper = columns
    assert "|".join(_header(metrics, arms, _Columns(metric=metric, paper=paper))) == header


TABLE = SimpleNamespace(
    title="Table 1 · smoke scale",
    caption="Top-1 of α & β",
    header=("model", "metric", "LN", "Δ"),
    rows=(("ViT_B", "top-1 %", "82.3 ± 0.1", "—"),),
    notes=("50% of {x}",),
    tried=None,
    gallery=NO_PICTURES,
)


def test_markdown_aligns_text_left_and_numbers_right():
    assert table_formats.to_markdown(TABLE).splitlines() == [
        "### Table 1 · smoke scale",
        "",
        "Top-1 of α & β.",
        "",
        "| model | metric | LN | Δ |",
        "| :--- | :--- | ---: | ---: |",
        "| ViT_B | top-1 % | 82.3 ± 0.1 | — |",
        "",
        "- 50% of {x}",
    ]


def test_latex_has_aligned_columns_and_a_caption():
    lines = table_formats.to_latex(TABLE).splitlines()
    assert lines[2] == r"\begin{tabular}{llrr}"
    assert lines[4] == r"model & metric & LN & $\Delta$ \\"
    assert lines[6] == r"ViT\_B & top-1 \% & 82.3 $\pm$ 0.1 & --- \\"
    assert lines[-2] == r"\caption{Top-1 of $\alpha$ \& $\beta$. 50\% of \{x\}}"


def test_terminal_has_table_values_tried_and_coloured_notes():
    table = SimpleNamespace(**vars(TABLE), warnings=("NOT MATCHED: a",))
    table.header, table.rows = ("model", "arm", "Δ", "paper Δ"), (("ViT", "LN", "+0.1", "—"),)
    table.notes = ("Scale: smoke.", "NOT MATCHED: a")
    table.tried = SimpleNamespace(header=("model", "α0: loss"), rows=(("ViT", "1: 2 best"),))
    out = io.StringIO()
    console = Console(file=out, width=40, force_terminal=True, color_system="standard")
    table_formats.print_table(table, console)
    dim, red, reset = "\x1b[2m", "\x1b[1;31m", "\x1b[0m"
    lines = out.getvalue().splitlines()
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in lines]
    assert plain == [
        "Table 1 · smoke scale",
        "",
        "                   paper",
        " model  arm     Δ      Δ",
        " ───────────────────────",
        " ViT    LN   +0.1      —",
        "",
        "Values tried",
        "",
        "  model   α0: loss",
        " ───────────────────",
        "  ViT     1: 2 best",
        "",
        "Scale: smoke.",
        "NOT MATCHED: a",
    ]
    assert lines[-2:] == [f"{dim}Scale: smoke.{reset}", f"{red}NOT MATCHED: a{reset}"]
    ours, _, printed = lines[5].partition("+0.1")
    assert dim in printed and dim not in ours


def test_pictures_of_missing_arms_are_dashes():
    row = SimpleNamespace(title="A|B", paths={"LN": "t/a.LN.png"})
    gallery = SimpleNamespace(arms=["LN", "DyT"], rows=[row])
    assert table_formats._pictures(gallery) == [
        "",
        "#### Pictures",
        "",
        "| model | LN | DyT |",
        "| :--- | :---: | :---: |",
        r"| A\|B | ![A\|B, LN](t/a.LN.png) | — |",
    ]


def test_values_tried_are_text():
    tried = SimpleNamespace(header=("model", "α0: loss"), rows=(("a", "1: 2 best"), ("b", "")))
    assert table_formats._tried(tried)[3:] == [
        "| model | α0: loss |",
        "| :--- | :--- |",
        "| a | 1: 2 best |",
        "| b |  |",
    ]
    assert table_formats._tried(None) == []


@pytest.mark.parametrize("character", table_formats.LATEX)
def test_latex_escapes_every_special_character_alone(character):
    escaped = f"a{chr(character)}b".translate(table_formats.LATEX)
    assert escaped.startswith("a") and escaped.endswith("b") and escaped.isascii()
    assert escaped != f"a{chr(character)}b" and escaped.count("$") in (0, 1, 2)


def test_latex_of_each_special_character():
    characters = "\\{}$^~&%_#<>|×·βγ±Δ→—ασ≈"
    expected = [
        *(r"\textbackslash{}", r"\{", r"\}", r"\$", r"\textasciicircum{}", r"\textasciitilde{}"),
        *(r"\&", r"\%", r"\_", r"\#", r"\textless{}", r"\textgreater{}", r"\textbar{}"),
        *(r"$\times$", r"$\cdot$", r"$\beta$", r"$\gamma$", r"$\pm$", r"$\Delta$"),
        *(r"$\rightarrow$", "---", r"$\alpha$", r"$\sigma$", r"$\approx$"),
    ]
    assert [character.translate(table_formats.LATEX) for character in characters] == expected


def test_files_have_the_suffix_of_their_format(tmp_path):
    records = ({"table": "t", "value": 1}, {"table": "t", "value": None})
    table = SimpleNamespace(**vars(TABLE), records=records)
    paths = table_formats.write_files(table, tmp_path / "table1.smoke")
    assert [path.name for path in paths] == [
        "table1.smoke.md",
        "table1.smoke.csv",
        "table1.smoke.tex",
    ]
    assert paths[1].read_text() == "table,value\nt,1\nt,\n"
    table.tried = SimpleNamespace(header=("a",), rows=(), records=({"x": 2},))
    paths = table_formats.write_files(table, tmp_path / "table1.smoke")
    assert paths[3].name == "table1.smoke.tried.csv" and paths[3].read_text() == "x\n2\n"
