"""Unreadable images: replaced and logged in training, an error in evaluation."""

import errno
import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dyt_vision import image_data, mae

from ..messages import refused
from .tiny import DYT, TINY_MAE, fingerprint, run


def truncated_jpeg(path):
    noise = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-200])


def gigapixels(path):
    """Write the header of a bitmap with 8.1 gigapixels."""
    header = struct.pack("<IiiHHIIiiII", 40, 90_000, 90_000, 1, 24, 0, 0, 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header)


DAMAGE = {
    "truncated JPEG": truncated_jpeg,
    "empty file": lambda path: path.write_bytes(b""),
    "HTML page": lambda path: path.write_text("<html>404 Not Found</html>"),
    "truncated PNG": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "truncated header": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "gigapixels": gigapixels,
}


@pytest.fixture
def folder(small, tmp_path):
    """Return a copy of the images to damage."""
    return shutil.copytree(small, tmp_path / "images")


def training(folder):
    return loaded(folder).train


def loaded(folder):
    return image_data.load(TINY_MAE, folder, train=np.asarray, held_out=np.asarray)


def equal(one, other):
    return np.array_equal(one[0], other[0]) and one[1] == other[1]


class TestTraining:
    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
    def test_unreadable_image_is_replaced_and_logged_once(self, folder, caplog, damage):
        broken = folder / "train" / "n01" / "7.png"
        damage(broken)
        data = training(folder)
        for _ in range(3):
            item = data[7]
            assert equal(item, data[8]) and item[1] == 1  # the label of the replacement
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        text = record.getMessage()
        assert text.startswith(f"{broken} cannot be read as an image: ")
        assert text.endswith("the next readable image of the folder is used instead")

    def test_last_image_is_replaced_by_the_first(self, folder):
        (folder / "train" / "n02" / "7.png").write_bytes(b"")
        data = training(folder)
        assert equal(data[15], data[0])

    def test_readable_images_are_unchanged(self, folder):
        whole = [training(folder)[i] for i in range(16)]
        (folder / "train" / "n01" / "3.png").write_bytes(b"")
        data = training(folder)
        assert len(data) == 16
        assert [i for i in range(16) if not equal(data[i], whole[i])] == [3]

    def test_too_many_unreadable_images_stop_the_run(self, folder):
        broken = [folder / "train" / "n01" / f"{i}.png" for i in (2, 5)]
        for file in broken:
            file.write_bytes(b"")
        data = training(folder)
        with pytest.raises(ValueError) as refusal:
            list(data)
        assert str(refusal.value) == (
            f"2 of the 7 files that this process read under {folder / 'train'} cannot be read as "
            f"images, more than the 1 allowed: {broken[0]}, {broken[1]}. Replace or delete them"
        )

    def test_two_consecutive_unreadable_images_stop_the_run(self, folder):
        for i in (2, 3):
            (folder / "train" / "n01" / f"{i}.png").write_bytes(b"")
        broken = [folder / "train" / "n01" / f"{i}.png" for i in (2, 3)]
        assert refused(lambda: training(folder)[2]) == (
            f"2 of the 2 files that this process read under {folder / 'train'} cannot be read as "
            f"images, more than the 1 allowed: {broken[0]}, {broken[1]}. Replace or delete them"
        )

    def test_max_unreadable_share_is_allowed(self, folder, monkeypatch):
        monkeypatch.setattr(image_data, "MAX_UNREADABLE_SHARE", 3 / 16)
        for i in (2, 3, 4):
            (folder / "train" / "n01" / f"{i}.png").write_bytes(b"")
        data = training(folder)
        assert equal(data[2], data[5])
        (folder / "train" / "n01" / "6.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"4 of the .*, more than the 3 allowed: "):
            data[6]

    @pytest.mark.parametrize(
        ("files", "unreadable"), [(1, 1), (1999, 1), (2000, 2), (2999.9, 2), (1_281_167, 1281)]
    )
    def test_a_thousandth_of_the_files_may_be_unreadable(self, files, unreadable):
        assert image_data.max_unreadable(files) == unreadable

    def test_limit_is_relative_to_what_a_process_has_read(self, folder):
        """16 of 16,000 files may be unreadable, but not 4 of the first 6."""
        for i in (2, 3, 4, 5):
            (folder / "train" / "n01" / f"{i}.png").write_bytes(b"")
        data = training(folder)
        data.samples = data.samples * 1000
        data[0], data[1]
        with pytest.raises(ValueError, match=r"4 of the 6 files .*, more than the 3 allowed: "):
            data[2]
        patient = training(folder)
        patient.samples = patient.samples * 1000
        for i in range(16, 16 + 500 * 16):
            if i % 16 not in (2, 3, 4, 5):
                patient[i]
        assert equal(patient[2], patient[6])

    def test_replacement_is_equal_in_both_arms(self, folder, tmp_path, caplog):
        (folder / "train" / "n01" / "3.png").write_bytes(b"")
        found = [
            fingerprint(run(mae.pretrain, tmp_path / str(i), config, images=folder)[1])
            for i, config in enumerate((TINY_MAE, replace(TINY_MAE, norm=DYT)))
        ]
        assert found[0] == found[1]
        assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 2  # one in each run

    def test_iteration_over_the_set_ends(self, folder):
        assert len(list(training(folder))) == 16


class TestHeldOut:
    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
    def test_first_unreadable_held_out_image_is_an_error(self, folder, damage):
        broken = folder / "val" / "n02" / "1.png"
        damage(broken)
        data = loaded(folder).held_out
        for i in (*range(6), *range(7, 10)):
            data[i]
        message = (
            f"1 of the 10 files that this process read under {folder / 'val'} cannot be read as "
            "images, more than the 0 allowed: "
        )
        with pytest.raises(ValueError) as refusal:
            data[6]
        assert str(refusal.value) == f"{message}{broken}. Replace or delete them"

    def test_unreadable_held_out_image_stops_a_run(self, folder, tmp_path):
        (folder / "val" / "n02" / "1.png").write_bytes(b"")
        with pytest.raises(
            ValueError, match=r"val/?.* cannot be read as images, more than the 0 allowed"
        ):
            run(mae.pretrain, tmp_path / "run", TINY_MAE, images=folder)


class TestFileSystemErrors:
    def test_missing_file_is_an_error(self, folder):
        data = training(folder)
        (folder / "train" / "n01" / "3.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"n01/3\.png"):
            data[3]
        assert not data.unreadable

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
    def test_file_that_cannot_be_opened_is_an_error(self, folder, monkeypatch, code):
        data = training(folder)

        def refuse(path):
            raise OSError(code, "no", path)

        monkeypatch.setattr(data, "loader", refuse)
        with pytest.raises(OSError) as refusal:
            data[3]
        assert refusal.value.errno == code
        assert not data.unreadable


def test_error_of_the_transform_is_not_an_unreadable_image(folder):
    def wrong(image):
        raise ValueError("wrong scale")

    data = image_data.load(TINY_MAE, folder, train=wrong, held_out=wrong).train
    with pytest.raises(ValueError, match="wrong scale"):
        data[0]
    assert not data.unreadable
