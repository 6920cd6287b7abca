"""Image sets in .npz files: layout of ADM's suite, reading of slices, and rejected files."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from dyt_dit import image_npz
from dyt_dit.image_npz import ImageFile

from ..messages import refused
from .sets import noise

IMAGES, LABELS = noise(23, side=5)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "set.npz"
    image_npz.write_images(path, IMAGES.shape, (IMAGES[i : i + 4] for i in range(0, 23, 4)), LABELS)
    return path


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def numpy_file(request, tmp_path):
    """The same set, written by NumPy."""
    path = tmp_path / "numpy_file.npz"
    request.param(path, IMAGES, LABELS)
    return path


def test_numpy_reads_written_images(file):
    with np.load(file) as arrays:
        assert arrays.files == ["arr_0", "arr_1"]
        assert np.array_equal(arrays["arr_0"], IMAGES) and arrays["arr_0"].dtype == np.uint8
        assert np.array_equal(arrays["arr_1"], LABELS) and arrays["arr_1"].dtype == np.int64


def test_image_file_slices(file, numpy_file):
    for path in (file, numpy_file):
        images = ImageFile(path)
        assert len(images) == 23 and images.shape == IMAGES.shape
        for indices in (slice(17, 23), slice(0, 4), slice(5, 6), slice(20, 99)):
            assert np.array_equal(images[indices], IMAGES[indices])
        assert np.array_equal(images.labels(), LABELS)


def test_array_with_a_header_of_version_2_is_read(tmp_path):
    array = io.BytesIO()
    npy.write_array(array, IMAGES[:, :4], version=(2, 0))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("arr_0.npy", array.getvalue())
    images = ImageFile(tmp_path / "x.npz")
    assert images.shape == (23, 4, 5, 3) and np.array_equal(images[2:4], IMAGES[2:4, :4])


def test_write_images_is_deterministic(file, tmp_path):
    again = tmp_path / "again.npz"
    image_npz.write_images(again, IMAGES.shape, iter([IMAGES]), LABELS)
    assert again.read_bytes() == file.read_bytes()


def test_memory_stays_below_size_of_the_set(tmp_path):
    chunk = noise(8, side=64)[0]
    shape = (8 * 400, 64, 64, 3)  # 39 MB
    tracemalloc.start()
    try:
        labels = np.zeros(shape[0], np.int64)
        image_npz.write_images(tmp_path / "x.npz", shape, (chunk for _ in range(400)), labels)
        images = ImageFile(tmp_path / "x.npz")
        assert np.array_equal(images[3192:3200], chunk)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_slicing_reads_only_the_slice(file, monkeypatch):
    images = ImageFile(file)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", None)
    assert np.array_equal(images[20:22], IMAGES[20:22])


def test_write_images_is_atomic(file, tmp_path):
    before = file.read_bytes()

    def failing():
        yield IMAGES[:4]
        raise OSError("no more")

    for chunks in (failing(), [IMAGES[:4]]):
        with pytest.raises((OSError, AssertionError)):
            image_npz.write_images(file, IMAGES.shape, chunks, LABELS)
        assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


FROM_0 = (
    "expected uint8 (N, H, W, 3); values from 0 to 255 are expected, not from 0 to 1 or from -1 to "
    "1"
)
THREE = (
    "expected uint8 (N, H, W, 3); at least one image with three channels is expected, also for "
    "gray images"
)


class TestRejectedFiles:
    def rejected(self, path, message):
        with pytest.raises(ValueError, match=message) as caught:
            ImageFile(path)
        assert str(path) in str(caught.value) and "expected" in str(caught.value)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (IMAGES / 255.0, f"float64 (23, 5, 5, 3); {FROM_0}"),
            (IMAGES.astype(np.int64), f"int64 (23, 5, 5, 3); {FROM_0}"),
            (
                IMAGES.transpose(0, 3, 1, 2),
                "uint8 (23, 3, 5, 5); expected uint8 (N, H, W, 3); the channels come last",
            ),
            (IMAGES[..., 0], f"uint8 (23, 5, 5); {THREE}"),
            (IMAGES[..., :1], f"uint8 (23, 5, 5, 1); {THREE}"),
            (IMAGES[:0], f"uint8 (0, 5, 5, 3); {THREE}"),
            (
                np.asfortranarray(IMAGES),
                "uint8 (23, 5, 5, 3); expected uint8 (N, H, W, 3) in Fortran order; "
                "np.ascontiguousarray makes it C order",
            ),
        ],
    )
    def test_image_file_refuses_other_arrays(self, array, message, tmp_path):
        np.savez(tmp_path / "x.npz", array)
        found = refused(ImageFile, tmp_path / "x.npz")
        assert found == f"arr_0 of {tmp_path / 'x.npz'} is {message}"

    def test_image_file_refuses_npz_without_images(self, tmp_path):
        np.savez(tmp_path / "x.npz", mu=np.zeros(3), sigma=np.eye(3))
        self.rejected(tmp_path / "x.npz", "contains mu, sigma; expected .* arr_0")

    def test_image_file_refuses_other_formats(self, tmp_path):
        np.save(tmp_path / "x.npy", IMAGES)
        self.rejected(tmp_path / "x.npy", "not a complete .npz file")
        (tmp_path / "x.png").write_bytes(b"")
        self.rejected(tmp_path / "x.png", "not a complete .npz file")
        self.rejected(tmp_path / "lost.npz", "there is no file")

    def test_pointer_of_git_lfs(self, tmp_path):
        file = tmp_path / "set.npz"
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n")
        with pytest.raises(ValueError, match=rf"^{file} is a pointer of git-lfs, not the file its"):
            ImageFile(file)

    def test_damaged_header(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("arr_0.npy", b"something else entirely")
        self.rejected(tmp_path / "x.npz", "not a complete .npz file .*magic")

    @pytest.mark.parametrize("change", [lambda b: b[:-7], lambda b: b + bytes(7)])
    def test_truncated_or_extended_array(self, tmp_path, change):
        array = io.BytesIO()
        np.save(array, IMAGES)
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("arr_0.npy", change(array.getvalue()))
        self.rejected(tmp_path / "x.npz", "does not match its header")

    def test_truncated_file(self, file, numpy_file):
        for path in (file, numpy_file):
            content = path.read_bytes()
            for end in (len(content) // 2, len(content) - 9):
                path.write_bytes(content[:end])
                self.rejected(path, "not a complete .npz file")

    def test_file_truncated_after_opening(self, file):
        images = ImageFile(file)
        file.write_bytes(file.read_bytes()[:1000])
        assert refused(lambda: images[:]) == (
            f"{file} is not a complete .npz file (it ends before image 22); expected "
            f"{image_npz.LAYOUT}"
        )

    def test_damaged_compressed_file(self, tmp_path):
        path = tmp_path / "x.npz"
        np.savez_compressed(path, IMAGES, LABELS)
        content = bytearray(path.read_bytes())
        content[900:940] = bytes(40)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz is not a complete \.npz file"):
            ImageFile(path)[0:1]

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([], "{} has no classes; expected them as arr_1, int64 (N,)"),
            (
                [LABELS[:-1]],
                "arr_1 of {} is int64 (22,); expected the classes of its images, int64 (23,)",
            ),
            (
                [LABELS / 2],
                "arr_1 of {} is float64 (23,); expected the classes of its images, int64 (23,)",
            ),
        ],
    )
    def test_invalid_labels(self, labels, message, tmp_path):
        np.savez(tmp_path / "x.npz", IMAGES, *labels)
        images = ImageFile(tmp_path / "x.npz")
        assert np.array_equal(images[:3], IMAGES[:3])
        assert refused(images.labels) == message.format(tmp_path / "x.npz")

    def test_labels_of_any_integers_are_int64(self, tmp_path):
        np.savez(tmp_path / "x.npz", IMAGES, LABELS.astype(np.uint8))
        labels = ImageFile(tmp_path / "x.npz").labels()
        assert labels.dtype == np.int64 and np.array_equal(labels, LABELS)
