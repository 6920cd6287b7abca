"""Images that cannot be decoded: replaced in training and named, never passed over elsewhere."""

import errno
import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dyt_vision import images, mae

from .tiny import DYT, TINY_MAE, fingerprint, run


def cut_jpeg(path):
    noise = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-200])


def gigapixels(path):
    """The header of a bitmap that promises more than anybody wants to decode."""
    header = struct.pack("<IiiHHIIiiII", 40, 90_000, 90_000, 1, 24, 0, 0, 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header)


DAMAGE = {
    "a JPEG cut short": cut_jpeg,
    "an empty file": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("<html>404 Not Found</html>"),
    "a PNG with a broken end": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "a broken header": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "gigapixels": gigapixels,
}


@pytest.fixture
def folder(small, tmp_path):
    """A copy to break."""
    return shutil.copytree(small, tmp_path / "images")


def training(folder):
    return loaded(folder).train


def loaded(folder):
    return images.load(TINY_MAE, folder, train=np.asarray, held_out=np.asarray)


def equal(one, other):
    return np.array_equal(one[0], other[0]) and one[1] == other[1]


class TestTraining:
    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
    def test_the_next_image_takes_its_place_and_it_is_named_once(self, folder, caplog, damage):
        broken = folder / "train" / "n01" / "7.png"
        damage(broken)
        data = training(folder)
        for _ in range(3):
            item = data[7]
            assert equal(item, data[8]) and item[1] == 1  # with the label of its own class
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        text = record.getMessage()
        assert text.startswith(f"{broken} cannot be read as an image and is left out: ")

    def test_after_the_last_comes_the_first(self, folder):
        (folder / "train" / "n02" / "7.png").write_bytes(b"")
        data = training(folder)
        assert equal(data[15], data[0])

    def test_all_others_are_themselves(self, folder):
        whole = [training(folder)[i] for i in range(16)]
        (folder / "train" / "n01" / "3.png").write_bytes(b"")
        data = training(folder)
        assert len(data) == 16
        assert [i for i in range(16) if not equal(data[i], whole[i])] == [3]

    def test_too_many_stop_the_run_and_are_named(self, folder):
        broken = [folder / "train" / "n01" / f"{i}.png" for i in (2, 5)]
        for file in broken:
            file.write_bytes(b"")
        data = training(folder)
        with pytest.raises(ValueError) as refusal:
            list(data)
        assert str(refusal.value) == (
            f"2 files under {folder / 'train'} cannot be read as images, of 7 that this process "
            f"has read; 1 may be: {broken[0]}, {broken[1]}. Replace them, or delete them"
        )

    def test_two_in_a_row_stop_it_too(self, folder):
        for i in (2, 3):
            (folder / "train" / "n01" / f"{i}.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"2 files under .* cannot be read as images, of 2"):
            training(folder)[2]

    def test_as_many_as_the_share_says_may_be(self, folder, monkeypatch):
        monkeypatch.setattr(images, "UNREADABLE", 3 / 16)
        for i in (2, 3, 4):
            (folder / "train" / "n01" / f"{i}.png").write_bytes(b"")
        data = training(folder)
        assert equal(data[2], data[5])
        (folder / "train" / "n01" / "6.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"4 files .*; 3 may be: "):
            data[6]

    def test_a_process_that_sees_a_part_of_a_large_set_judges_by_that(self, folder):
        """Sixteen of 16,000 files may be broken, but not the first four of five."""
        for i in (2, 3, 4, 5):
            (folder / "train" / "n01" / f"{i}.png").write_bytes(b"")
        data = training(folder)
        data.samples = data.samples * 1000
        data[0], data[1]
        with pytest.raises(ValueError, match=r"4 files .*, of 6 that .*; 3 may be: "):
            data[2]
        patient = training(folder)
        patient.samples = patient.samples * 1000
        for i in range(16, 16 + 500 * 16):
            if i % 16 not in (2, 3, 4, 5):
                patient[i]
        assert equal(patient[2], patient[6])

    def test_both_arms_of_a_pair_see_the_same(self, folder, tmp_path, caplog):
        (folder / "train" / "n01" / "3.png").write_bytes(b"")
        found = [
            fingerprint(run(mae.pretrain, tmp_path / str(i), config, images=folder)[1])
            for i, config in enumerate((TINY_MAE, replace(TINY_MAE, norm=DYT)))
        ]
        assert found[0] == found[1]
        assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 2  # one a run

    def test_a_loop_over_the_set_ends(self, folder):
        assert len(list(training(folder))) == 16


class TestEvaluation:
    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
    def test_the_first_one_stops_the_run_and_is_named(self, folder, damage):
        broken = folder / "val" / "n02" / "1.png"
        damage(broken)
        data = loaded(folder).held_out
        for i in (*range(6), *range(7, 10)):
            data[i]
        message = (
            f"1 files under {folder / 'val'} cannot be read as images, of 10 that this process has "
            "read; 0 may be: "
        )
        with pytest.raises(ValueError) as refusal:
            data[6]
        assert str(refusal.value) == f"{message}{broken}. Replace them, or delete them"

    def test_so_does_it_in_a_run(self, folder, tmp_path):
        (folder / "val" / "n02" / "1.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"val/?.* cannot be read as images.*; 0 may be"):
            run(mae.pretrain, tmp_path / "run", TINY_MAE, images=folder)


class TestWhatTheSystemCannotGive:
    def test_a_file_that_is_gone(self, folder):
        data = training(folder)
        (folder / "train" / "n01" / "3.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"n01/3\.png"):
            data[3]
        assert not data.unreadable

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
    def test_a_file_that_cannot_be_opened(self, folder, monkeypatch, code):
        data = training(folder)

        def refuse(path):
            raise OSError(code, "no", path)

        monkeypatch.setattr(data, "loader", refuse)
        with pytest.raises(OSError) as refusal:
            data[3]
        assert refusal.value.errno == code
        assert not data.unreadable


def test_an_error_of_the_augmentation_is_not_taken_for_a_broken_file(folder):
    def wrong(image):
        raise ValueError("wrong scale")

    data = images.load(TINY_MAE, folder, train=wrong).train
    with pytest.raises(ValueError, match="wrong scale"):
        data[0]
    assert not data.unreadable
