"""Gallery: pictures of runs in the Markdown of a table, and the folder of their copies."""

import os
import re
import struct
import zlib

import pytest

DYT = "small.DyT.0"
ARMS = (
    "(Arm(name='LN', norm='LN'), Arm(name='DyT (tuned)', norm='DyT'),"
    " Arm(name='DyT [tuned|', norm='own'))"
)


def png(shade):
    """Return a PNG of one pixel."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes([0, shade])))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def finish(project, name, shade=None, picture="samples.png", outcome="done"):
    """Write a finished run that names its picture, of this shade if one is given."""
    directory = project.finish(name, top1=80.0)
    details = {} if picture is None else {"picture": picture}
    result = {"outcome": outcome, "metrics": {"top1": 80.0}, "details": details}
    directory.write_result(result)
    if shade is not None:
        path = directory / picture
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(shade))
    return directory


def table(project):
    """Return the output of `matched table`, and the lines of the Markdown's pictures."""
    output = project.cli("table", "table1")
    text = (project.root / "results/table1.smoke.md").read_text(encoding="utf-8")
    return output, text.partition("\n#### Pictures\n\n")[2].splitlines()


def folder(project):
    return project.root / "results" / "table1.smoke"


def copies(project):
    """Return name → content of every file in the folder of pictures."""
    return {path.name: path.read_bytes() for path in folder(project).iterdir()}


# --- pictures that are shown


def test_gallery_shows_both_arms_side_by_side(one_row):
    finish(one_row, "small.LN.0", 1)
    finish(one_row, DYT, 2, picture="more/grid 1.png", outcome="diverged")
    output, lines = table(one_row)
    assert lines == [
        "| model | LN | DyT |",
        "| :--- | :---: | :---: |",
        "| Small_1 | ![Small_1, LN](table1.smoke/small.LN.seed0.png) "
        "| ![Small_1, DyT](table1.smoke/small.DyT.seed0.png) |",
    ]
    assert copies(one_row) == {"small.LN.seed0.png": png(1), "small.DyT.seed0.png": png(2)}
    (line,) = (line for line in output.splitlines() if "Pictures" in line)
    assert f"{folder(one_row)}/ (2;" in line


def test_gallery_has_a_row_per_seed_with_pictures(project):
    finish(project, "small.LN.1", 1)
    finish(project, "large.DyT.0", 2)
    finish(project, "large.DyT.1", 3)
    finish(project, "small.DyT.1", picture=None)
    _, lines = table(project)
    assert [re.sub(r"!\[.*?\]", "", line) for line in lines[2:]] == [
        "| Small_1, seed 1 | (table1.smoke/small.LN.seed1.png) | — |",
        "| Large, seed 0 | — | (table1.smoke/large.DyT.seed0.png) |",
        "| Large, seed 1 | — | (table1.smoke/large.DyT.seed1.png) |",
    ]


def test_gallery_file_names_are_safe_and_distinct(project):
    project.recipe(f"TABLE = Table(arms={ARMS}, scales=(scale(seeds=(0,), small=SMALL),))")
    for shade, norm in enumerate(("LN", "DyT", "own")):
        finish(project, f"small.{norm}.0", shade)
    _, lines = table(project)
    assert lines[0] == r"| model | LN | DyT (tuned) | DyT \[tuned\| |"
    assert re.findall(r"(?<!\\)\]\((.*?)\)", lines[2]) == [
        "table1.smoke/small.LN.seed0.png",
        "table1.smoke/small.DyT-tuned.seed0.png",
        "table1.smoke/small.DyT-tuned-2.seed0.png",
    ]
    assert copies(project)["small.DyT-tuned-2.seed0.png"] == png(2)


def test_a_table_without_pictures_has_no_gallery(one_row):
    finish(one_row, "small.LN.0", picture=None)
    output, lines = table(one_row)
    assert lines == [] and "Picture" not in output
    assert not folder(one_row).exists()


def test_submit_wait_copies_pictures(one_row):
    finish(one_row, "small.LN.0", 1)
    finish(one_row, DYT, 2)
    output = one_row.compute("submit", "table1", "--cluster", "debug", "--wait")
    assert f"Pictures: {folder(one_row)}/ (2;" in output


WITH_NEEDS = (
    "START = Run(task='tiny:train', config=Config(model='start'))\n"
    "MIDDLE = Run(task='tiny:train', config=Config(model='middle'), needs={'start': START})\n"
    "TOP = Run(task='tiny:train', config=SMALL.config, needs={'middle': MIDDLE})\n"
    "TABLE = Table(arms=ARMS[1:], scales=(scale(seeds=(0,), small=TOP),))"
)


@pytest.mark.parametrize(
    ("models", "shade"),
    [
        (("start", "middle", "small"), 3),
        (("start", "middle"), 2),
        (("start",), 1),
        ((), None),
    ],
)
def test_gallery_shows_the_picture_of_the_nearest_need(project, models, shade):
    project.recipe(WITH_NEEDS)
    for number, model in enumerate(("start", "middle", "small"), start=1):
        has_picture = model in models
        picture = "samples.png" if has_picture else None
        finish(project, f"{model}.DyT.0", number if has_picture else None, picture=picture)
    _, lines = table(project)
    if shade is None:
        assert lines == []
    else:
        assert copies(project) == {"small.DyT.seed0.png": png(shade)}


def test_gallery_shows_no_need_for_an_unusable_picture(project):
    project.recipe(WITH_NEEDS)
    finish(project, "start.DyT.0", 1)
    finish(project, "middle.DyT.0", picture=None)
    finish(project, DYT, picture="gone.png")
    output, lines = table(project)
    assert lines == []
    assert "Picture left out: small · DyT · seed 0: 'gone.png' is missing or not a file" in output


def test_gallery_has_seeds_in_the_order_of_the_scale(project):
    project.recipe("TABLE = Table(arms=ARMS, scales=(scale(seeds=(3, 1), small=SMALL),))")
    for name in ("small.LN.3", "small.LN.1", "small.DyT.1"):
        finish(project, name, 1)
    _, lines = table(project)
    assert lines[2:] == [
        "| Small_1, seed 3 | ![Small_1, seed 3, LN](table1.smoke/small.LN.seed3.png) | — |",
        "| Small_1, seed 1 | ![Small_1, seed 1, LN](table1.smoke/small.LN.seed1.png) "
        "| ![Small_1, seed 1, DyT](table1.smoke/small.DyT.seed1.png) |",
    ]


def test_gallery_shows_pictures_of_a_runs_folder_that_is_a_link(one_row):
    """As to a larger disk."""
    (one_row.root / "disk").mkdir()
    (one_row.root / "runs").symlink_to("disk")
    finish(one_row, DYT, 2)
    table(one_row)
    assert copies(one_row) == {"small.DyT.seed0.png": png(2)}


def test_gallery_leaves_out_the_runs_of_searches(grid):
    finish(grid, "small.LN.0", 1)
    output, lines = table(grid)
    assert lines == [] and not folder(grid).exists()
    assert "Pictures" not in output


# --- pictures that cannot be shown


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        ("gone.png", "'gone.png' is missing or not a file"),
        ("checkpoints", "'checkpoints' is missing or not a file"),
        ("", "'' is missing or not a file"),
        ("pipe.png", "'pipe.png' is missing or not a file"),
        ("../other/samples.png", "is not in the run's directory"),
        ("checkpoints/../whole.png", "is not in the run's directory"),
        ("/@/whole.png", "is not in the run's directory"),
        ("elsewhere.png", "'elsewhere.png' is not in the run's directory"),
        ("circle.png", "circle.png"),
        ("cut.png", "'cut.png' is not a complete PNG"),
        ("config.json", "'config.json' is not a complete PNG"),
        ("x" * 300, "cannot be read: File name too long"),
        ("a\0b.png", "embedded null"),
        (7, "7 is not a file name"),
        ({}, "{} is not a file name"),
    ],
    ids=str,
)
def test_an_unusable_picture_is_named_in_the_notes(one_row, picture, reason):
    finish(one_row, "small.LN.0", 1)
    directory = one_row.directory(DYT)
    if isinstance(picture, str):
        picture = picture.replace("/@", str(directory.path))
    finish(one_row, DYT, picture=picture)
    other = directory.path.parent / "other" / "samples.png"
    other.parent.mkdir()
    other.write_bytes(png(9))
    (directory / "whole.png").write_bytes(png(9))
    (directory / "cut.png").write_bytes(png(9)[:-4])
    (directory / "elsewhere.png").symlink_to(other)
    (directory / "circle.png").symlink_to("circle.png")
    os.mkfifo(directory / "pipe.png")
    output, lines = table(one_row)
    assert set(copies(one_row)) == {"small.LN.seed0.png"}
    assert lines[-1].endswith("| — |")
    note = r"Picture left out: small · DyT · seed 0: .*" + re.escape(reason)
    assert re.search(note, output)
    text = (one_row.root / "results/table1.smoke.md").read_text(encoding="utf-8")
    assert re.search("^- " + note, text, re.MULTILINE)


def test_unusable_pictures_alone_make_no_gallery(one_row):
    finish(one_row, DYT)
    output, lines = table(one_row)
    assert "Picture left out" in output and "Pictures:" not in output
    assert lines == [] and not folder(one_row).exists()


# --- the folder of copies


def test_an_unchanged_picture_is_not_written_again(one_row):
    directory = finish(one_row, DYT, 1)
    table(one_row)
    path = folder(one_row) / "small.DyT.seed0.png"
    before = path.stat().st_ino
    table(one_row)
    assert path.stat().st_ino == before
    (directory / "samples.png").write_bytes(png(2))
    table(one_row)
    assert copies(one_row) == {path.name: png(2)}


def test_stale_copies_are_deleted_and_other_files_kept(project):
    for name in ("small.LN.0", "small.LN.1", "large.DyT.0"):
        finish(project, name, 1)
    table(project)
    other_files = [
        "notes.txt",
        "poster.png",
        "small.LN.seed9.jpg",
        "a b.LN.seed0.png",
        "x.LN.seed1.png",
    ]
    for name in other_files[:-1]:
        (folder(project) / name).write_text("kept", encoding="utf-8")
    (folder(project) / other_files[-1]).symlink_to("notes.txt")
    (folder(project) / "y.LN.seed0.png").mkdir()
    # Runs with other signatures, and without results.
    project.recipe(
        "SMALL = replace(SMALL, config=Config(lr=0.2))\n"
        "TABLE = Table(arms=ARMS, scales=(scale(small=SMALL, large=LARGE),))"
    )
    _, lines = table(project)
    assert len(lines) == 3 and "large.DyT.seed0.png" in lines[-1]
    remaining = {path.name for path in folder(project).iterdir()}
    assert remaining == {*other_files, "y.LN.seed0.png", "large.DyT.seed0.png"}


def test_the_folder_is_deleted_with_its_last_picture(one_row):
    finish(one_row, DYT, 1)
    table(one_row)
    finish(one_row, DYT, picture=None)
    _, lines = table(one_row)
    assert lines == [] and not folder(one_row).exists()
    folder(one_row).mkdir()
    table(one_row)
    assert folder(one_row).exists(), "an empty folder without copies is somebody else's"


def test_table_is_printed_if_pictures_cannot_be_copied(one_row, read_only):
    finish(one_row, DYT, shade=1)
    results = one_row.root / "results"
    results.mkdir()
    read_only(results)
    output = one_row.cli("table", "table1", code=2)
    assert "Small_1" in output and "80.0" in output
    (line,) = (line for line in output.splitlines() if line.startswith("matched: error:"))
    assert line.startswith(f"matched: error: {results}/")
