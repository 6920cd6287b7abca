"""Files of images: what ADM's suite and NumPy read, read in parts, and what is refused."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from dyt_dit import image_sets
from dyt_dit.image_sets import ImageFile

from .sets import noise

IMAGES, LABELS = noise(23, side=5)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "set.npz"
    image_sets.write(path, IMAGES.shape, (IMAGES[i : i + 4] for i in range(0, 23, 4)), LABELS)
    return path


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def theirs(request, tmp_path):
    """As NumPy writes it."""
    path = tmp_path / "theirs.npz"
    request.param(path, IMAGES, LABELS)
    return path


def test_numpy_reads_it(file):
    with np.load(file) as arrays:
        assert arrays.files == ["arr_0", "arr_1"]
        assert np.array_equal(arrays["arr_0"], IMAGES) and arrays["arr_0"].dtype == np.uint8
        assert np.array_equal(arrays["arr_1"], LABELS) and arrays["arr_1"].dtype == np.int64


def test_any_part_is_read(file, theirs):
    for path in (file, theirs):
        images = ImageFile(path)
        assert len(images) == 23 and images.shape == IMAGES.shape
        for part in (slice(17, 23), slice(0, 4), slice(5, 6), slice(20, 99)):
            assert np.array_equal(images[part], IMAGES[part])
        assert np.array_equal(images.labels(), LABELS)


def test_the_same_set_has_the_same_bytes(file, tmp_path):
    again = tmp_path / "again.npz"
    image_sets.write(again, IMAGES.shape, iter([IMAGES]), LABELS)
    assert again.read_bytes() == file.read_bytes()


def test_neither_writing_nor_reading_holds_the_set(tmp_path):
    chunk = noise(8, side=64)[0]
    shape = (8 * 400, 64, 64, 3)  # 39 MB
    tracemalloc.start()
    try:
        labels = np.zeros(shape[0], np.int64)
        image_sets.write(tmp_path / "x.npz", shape, (chunk for _ in range(400)), labels)
        images = ImageFile(tmp_path / "x.npz")
        assert np.array_equal(images[3192:3200], chunk)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_what_lies_before_a_part_is_not_read(file, monkeypatch):
    images = ImageFile(file)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", None)
    assert np.array_equal(images[20:22], IMAGES[20:22])


def test_what_is_written_is_whole_or_absent(file, tmp_path):
    before = file.read_bytes()

    def failing():
        yield IMAGES[:4]
        raise OSError("no more")

    for parts in (failing(), [IMAGES[:4]]):
        with pytest.raises((OSError, AssertionError)):
            image_sets.write(file, IMAGES.shape, parts, LABELS)
        assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


class TestWhatIsRefused:
    def refused(self, path, message):
        with pytest.raises(ValueError, match=message) as caught:
            ImageFile(path)
        assert str(path) in str(caught.value) and "expected" in str(caught.value)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (IMAGES / 255.0, r"float64 \(23, 5, 5, 3\).*from 0 to 255"),
            (IMAGES.astype(np.int64), "int64"),
            (IMAGES.transpose(0, 3, 1, 2), r"uint8 \(23, 3, 5, 5\).*channels come last"),
            (IMAGES[..., 0], r"uint8 \(23, 5, 5\).*three channels"),
            (IMAGES[..., :1], r"uint8 \(23, 5, 5, 1\).*three channels"),
            (IMAGES[:0], r"\(0, 5, 5, 3\).*one image or more"),
            (np.asfortranarray(IMAGES), "Fortran order"),
        ],
    )
    def test_other_arrays(self, array, message, tmp_path):
        np.savez(tmp_path / "x.npz", array)
        self.refused(tmp_path / "x.npz", message)

    def test_no_images(self, tmp_path):
        np.savez(tmp_path / "x.npz", mu=np.zeros(3), sigma=np.eye(3))
        self.refused(tmp_path / "x.npz", "holds mu, sigma; expected .* arr_0")

    def test_no_npz(self, tmp_path):
        np.save(tmp_path / "x.npy", IMAGES)
        self.refused(tmp_path / "x.npy", "not a whole .npz file")
        (tmp_path / "x.png").write_bytes(b"")
        self.refused(tmp_path / "x.png", "not a whole .npz file")
        self.refused(tmp_path / "lost.npz", "there is no file")

    def test_no_array(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("arr_0.npy", b"something else entirely")
        self.refused(tmp_path / "x.npz", "not a whole .npz file .*magic")

    def test_an_array_that_is_cut_off(self, tmp_path):
        whole = io.BytesIO()
        np.save(whole, IMAGES)
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("arr_0.npy", whole.getvalue()[:-7])
        self.refused(tmp_path / "x.npz", "not as many bytes")

    def test_truncated(self, file, theirs):
        for path in (file, theirs):
            content = path.read_bytes()
            for end in (len(content) // 2, len(content) - 9):
                path.write_bytes(content[:end])
                self.refused(path, "not a whole .npz file")

    def test_cut_off_after_it_was_opened(self, file):
        images = ImageFile(file)
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(ValueError, match=r"set\.npz is not a whole .* ends before image 22"):
            images[:]

    def test_a_damaged_compressed_one(self, tmp_path):
        path = tmp_path / "x.npz"
        np.savez_compressed(path, IMAGES, LABELS)
        content = bytearray(path.read_bytes())
        content[900:940] = bytes(40)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz is not a whole \.npz file"):
            ImageFile(path)[0:1]

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([], "tells no classes"),
            ([LABELS[:-1]], r"int64 \(22,\); expected .* int64 \(23,\)"),
            ([LABELS / 2], r"float64 \(23,\)"),
        ],
    )
    def test_labels(self, labels, message, tmp_path):
        np.savez(tmp_path / "x.npz", IMAGES, *labels)
        images = ImageFile(tmp_path / "x.npz")
        assert np.array_equal(images[:3], IMAGES[:3])
        with pytest.raises(ValueError, match=message):
            images.labels()
