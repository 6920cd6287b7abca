"""Data of the zero-shot tasks: files, the cache of datasets, the download, and what is refused."""

import json
from dataclasses import replace

import pytest
from datasets import Dataset

from dyt_llama import fetch_zero_shot, sources, zero_shot_data
from dyt_llama.zero_shot_tasks import FIFTEEN
from matched.data import registered_sources

from ..messages import refused
from .miniature_tasks import ROWS, write_cache, write_files


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path / "zero-shot")


@pytest.fixture
def miniature_counts(monkeypatch):
    """The fifteen tasks with the numbers of rows of the miniature data."""
    for name, rows in ROWS.items():
        monkeypatch.setitem(FIFTEEN, name, replace(FIFTEEN[name], rows=len(rows)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache"))


def test_check_names_tasks_without_data_and_the_command(folder):
    (folder / "boolq.jsonl").unlink()
    (folder / "wic.jsonl").unlink()
    assert refused(sources.ZERO_SHOT.check, folder) == (
        f"{folder} has no data for boolq, wic: expected boolq.parquet or boolq.jsonl there, or the "
        "cache of aps/super_glue (boolq), validation, and likewise for the others; where there is "
        f"a network, run `python -m dyt_llama.fetch_zero_shot {folder}`"
    )


def test_check_accepts_files_and_survey_refuses_another_version(folder):
    zero_shot_data.check(folder)
    wrong = "; ".join(
        f"{name} has {len(ROWS[name])} rows instead of the {task.rows:,} of {task.source}"
        for name, task in FIFTEEN.items()
    )
    assert refused(zero_shot_data.survey, folder) == (
        f"{folder} has data of another version: {wrong}; scores on it cannot be compared: fetch it "
        "again with `python -m dyt_llama.fetch_zero_shot` into an empty folder"
    )


def test_survey_accepts_the_known_numbers_of_rows(folder, miniature_counts):
    zero_shot_data.survey(folder)


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"question": "?", "answer": 1}\n', "has no column passage, label, but answer, question"),
        ("not json\n", "line 1, is not JSON: Expecting value"),
        ("[1]\n", "line 1, is not an object with columns"),
        ("", "has no column question, passage, label, but no rows; expected aps/super_glue"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs"),
    ],
)
def test_check_refuses_damaged_files_and_other_columns(folder, content, message):
    (folder / "boolq.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        zero_shot_data.check(folder)
    assert str(folder / "boolq.jsonl") in str(error.value)


@pytest.mark.parametrize("label", [-1, "1", True, None])
def test_labels_that_are_no_choices_are_refused(folder, label):
    """lm-eval would count them as mistakes of the network."""
    rows = [{**row, "label": label} for row in ROWS["boolq"]]
    (folder / "boolq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"row 1, has the label .*; expected the number"):
        zero_shot_data.read_rows(folder, "boolq")


@pytest.mark.parametrize(
    ("task", "column", "answer", "valid"),
    [
        ("boolq", "label", 2, "0, 1"),
        ("anli_r1", "label", 3, "0, 1, 2"),
        ("hellaswag", "label", "9", "'0', '1', '2', '3'"),
        ("arc_easy", "answerKey", "", "'A', 'B', 'C', 'D'"),
        ("winogrande", "answer", "", "'1', '2'"),
    ],
)
def test_answers_that_no_choice_has_are_refused(folder, task, column, answer, valid):
    """lm-eval would stop in the middle of the run."""
    rows = [{**ROWS[task][0], column: answer}]
    (folder / f"{task}.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(ValueError, match=rf"row 1, has the {column} .*, one of {valid}, as in"):
        zero_shot_data.read_rows(folder, task)


@pytest.mark.parametrize(
    ("task", "column", "value", "message"),
    [
        ("record", "answers", [], r"answers \[\]; expected a list of texts"),
        ("record", "entities", None, "entities None; expected a list of texts"),
        ("truthfulqa_mc1", "mc1_targets", {"choices": [], "labels": []}, "'choices' with a list"),
        ("truthfulqa_mc2", "mc2_targets", {"choices": ["a", "b"], "labels": [1]}, "as many labels"),
        ("truthfulqa_mc2", "mc2_targets", {"labels": [1]}, "'choices' with a list of texts"),
        ("openbookqa", "choices", None, "choices None; expected 'text' with a list of texts"),
        ("arc_easy", "choices", {"text": ["a"], "label": []}, "'label' with as many labels"),
        ("hellaswag", "endings", None, "endings None; expected a list of texts"),
        ("wic", "end1", None, "end1 None; expected a whole number"),
        ("winogrande", "sentence", "No gap.", "expected a text with _ in place of the option"),
        ("boolq", "passage", None, "passage None; expected text"),
    ],
)
def test_rows_that_lm_eval_cannot_score_are_refused(folder, task, column, value, message):
    """lm-eval would fail in the middle of the run, with a traceback."""
    rows = [ROWS[task][0], {**ROWS[task][1], column: value}]
    file = folder / f"{task}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message) as error:
        zero_shot_data.read_rows(folder, task)
    assert str(error.value).startswith(f"{task}: {file}, row 2, has the {column} ")


def test_damaged_parquet_is_refused(folder):
    file = folder / "boolq.parquet"
    file.write_bytes(b"PAR1 broken")
    for refuse in (zero_shot_data.check, lambda f: zero_shot_data.read_rows(f, "boolq")):
        message = refused(refuse, folder)
        assert message.startswith(f"{file} is damaged (")
        assert message.endswith("); fetch it again")


def test_check_columns_names_what_is_absent():
    assert refused(zero_shot_data.check_columns, "rte", ["sentence1", "idx"], "x.parquet") == (
        "x.parquet has no column sentence2, label, but idx, sentence1; expected nyu-mll/glue (rte),"
        " validation, as `python -m dyt_llama.fetch_zero_shot` writes it"
    )


def test_rows_of_a_task_without_data_are_refused(tmp_path):
    assert refused(zero_shot_data.read_rows, tmp_path, "rte") == (
        f"{tmp_path} has no data for rte; run `python -m dyt_llama.fetch_zero_shot {tmp_path}`"
    )


def test_parquet_without_rows_is_refused(folder):
    file = folder / "rte.parquet"
    Dataset.from_list(ROWS["rte"]).select([]).to_parquet(str(file))
    assert refused(zero_shot_data.read_rows, folder, "rte") == (
        f"{file} has no rows; expected nyu-mll/glue (rte), validation"
    )


def test_parquet_comes_before_jsonl(folder):
    assert zero_shot_data.locate(folder, "rte") == [folder / "rte.jsonl"]
    Dataset.from_list(ROWS["rte"][:1]).to_parquet(str(folder / "rte.parquet"))
    assert zero_shot_data.locate(folder, "rte") == [folder / "rte.parquet"]
    splits = zero_shot_data.splits(task="rte", folder=str(folder), version=1.0)
    assert list(splits) == ["validation"] and len(splits["validation"]) == 1


def test_digest_of_rows_ignores_the_order_of_columns():
    digest = zero_shot_data.rows_digest([{"b": "ü", "a": 1}, {"a": 2}])
    assert digest == "8036a57a8013d399"
    assert digest == zero_shot_data.rows_digest([{"a": 1, "b": "ü"}, {"a": 2}])
    assert digest != zero_shot_data.rows_digest([{"a": 2}, {"a": 1, "b": "ü"}])


def test_cache_has_the_rows_of_the_files(folder, cache):
    zero_shot_data.check(cache)
    for name in FIFTEEN:
        assert zero_shot_data.locate(cache, name)[0].suffix == ".arrow"
        digests = {
            zero_shot_data.rows_digest(zero_shot_data.read_rows(place, name))
            for place in (folder, cache)
        }
        assert len(digests) == 1, name


def test_two_versions_in_the_cache_are_refused(tmp_path):
    cache = write_cache(tmp_path, tasks=("rte",))
    write_cache(tmp_path, tasks=("rte",), commit="1" * 40)
    assert refused(zero_shot_data.locate, cache, "rte") == (
        f"{cache / 'nyu-mll___glue'} has 2 versions of nyu-mll/glue (rte), validation "
        f"({'0' * 40}, {'1' * 40}); remove all but one"
    )


class TestFetch:
    def test_fetch_writes_what_is_missing(self, tmp_path, cache, monkeypatch, miniature_counts):
        """The library finds the data sets in its cache, as it does without a network."""
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
        folder = write_files(tmp_path)
        for name in ("boolq", "anli_r2"):
            (folder / f"{name}.jsonl").unlink()
        assert fetch_zero_shot.fetch(folder) == ["anli_r2", "boolq"]
        zero_shot_data.survey(folder)
        assert json.loads(json.dumps(zero_shot_data.read_rows(folder, "boolq")[:])) == {
            column: [row[column] for row in ROWS["boolq"]] for column in ROWS["boolq"][0]
        }
        assert fetch_zero_shot.fetch(folder) == []

    def test_fetch_refuses_another_version(self, tmp_path, cache, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
        assert refused(fetch_zero_shot.fetch, tmp_path) == (
            "facebook/anli, test_r1 has 3 rows instead of 1,000: the Hub has another version now; "
            "scores on it cannot be compared"
        )
        assert not list(tmp_path.iterdir())

    def test_fetch_refuses_more_rows_than_published(
        self, tmp_path, cache, monkeypatch, miniature_counts
    ):
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
        fewer = replace(FIFTEEN["boolq"], rows=len(ROWS["boolq"]) - 1)
        monkeypatch.setattr(fetch_zero_shot, "FIFTEEN", {"boolq": fewer})
        with pytest.raises(ValueError, match="the Hub has another version now"):
            fetch_zero_shot.fetch(tmp_path)

    def test_fetch_without_network_names_the_data_set(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "empty")
        assert fetch_zero_shot.main([str(tmp_path)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: cannot download facebook/anli")

    def test_fetch_into_a_file_ends_in_one_line(self, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert fetch_zero_shot.main([str(tmp_path / "file")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and str(tmp_path / "file") in line

    @pytest.mark.parametrize("arguments", [[], ["--help"], ["one", "two"]], ids=str)
    def test_fetch_without_a_folder_prints_its_usage(self, capsys, arguments):
        assert fetch_zero_shot.main(arguments) == 2
        assert capsys.readouterr().err == "usage: python -m dyt_llama.fetch_zero_shot FOLDER\n"

    def test_fetch_prints_what_to_do_next(self, capsys, folder):
        assert fetch_zero_shot.main([str(folder)]) == 0
        assert capsys.readouterr().out == (
            f"0 of 15 tasks fetched; set zero-shot in site.toml to {folder}\n"
        )


def test_zero_shot_is_a_registered_source():
    assert registered_sources()["zero-shot"].load() is sources.ZERO_SHOT
