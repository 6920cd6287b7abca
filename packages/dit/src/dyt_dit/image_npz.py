"""Sets of images in the .npz layout of ADM's evaluation suite, written and read in chunks.

The images are arr_0, uint8 (N, H, W, 3), and their classes arr_1, int64 (N,), as in ADM's own sets
of class-conditional samples. A set is never held in memory: 50,000 images of 256 × 256 are 9.8 GB.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from matched.data_files import refuse_pointer
from matched.files import atomic_write

IMAGES, LABELS = "arr_0", "arr_1"
LAYOUT = "an .npz with images as arr_0, uint8 (N, H, W, 3)"
LOCAL_HEADER = struct.Struct("<26xHH")
"""Local header of a zip member; it ends with the lengths of the name and of the extra field."""
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
"""Errors that zipfile raises on damaged files and on files of another format."""


def write_images(
    path: Path, shape: tuple[int, ...], chunks: Iterable[np.ndarray], labels: np.ndarray
) -> None:
    """Write a set of images chunk by chunk, atomically; the same set gives the same bytes.

    Args:
        shape: (N, H, W, 3) of the whole set.
        chunks: arrays of uint8 (n, H, W, 3), N images in total.
        labels: class of every image, int64 (N,).
    """
    assert labels.shape == shape[:1] and labels.dtype == np.int64, (labels.shape, labels.dtype)
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
            npy.write_array_header_1_0(member, header)
            count = 0
            for chunk in chunks:
                assert chunk.dtype == np.uint8 and chunk.shape[1:] == shape[1:], chunk.shape
                member.write(np.ascontiguousarray(chunk).data)
                count += len(chunk)
        assert count == shape[0], f"{count} images instead of {shape[0]}"
        with archive.open(f"{LABELS}.npy", "w", force_zip64=True) as member:
            npy.write_array(member, labels, allow_pickle=False)


class ImageFile:
    """Read access to a set of images: ``file[a:b]`` reads uint8 (b - a, H, W, 3).

    Compressed files (np.savez_compressed) are unpacked into an unnamed temporary file at the first
    access.

    Attributes:
        shape: (N, H, W, 3).

    Raises:
        ValueError: if the file has another layout, is incomplete, or is a pointer of git-lfs or
            git-annex.
    """

    shape: tuple[int, int, int, int]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pixels: IO[bytes] | None = None
        refuse_pointer(path)
        try:
            with zipfile.ZipFile(path) as archive:
                self._names = {name.removesuffix(".npy") for name in archive.namelist()}
                if IMAGES not in self._names:
                    arrays = ", ".join(sorted(self._names)) or "no arrays"
                    raise ValueError(f"{path} contains {arrays}; expected {LAYOUT}")
                self._member = archive.getinfo(f"{IMAGES}.npy")
                with archive.open(self._member) as member:
                    self._read_header(member)
        except FileNotFoundError:
            raise ValueError(f"there is no file {path}; expected {LAYOUT}") from None
        except ZIP_ERRORS as error:
            raise self._damaged(error) from error
        if self._member.file_size != self._header_bytes + int(np.prod(self.shape)):
            raise self._damaged(f"the size of {IMAGES} does not match its header")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: slice) -> np.ndarray:
        start, stop, step = indices.indices(len(self))
        assert step == 1 and start < stop, indices
        if self._pixels is None:
            self._pixels = self._open_pixels()
        images = np.empty((stop - start, *self.shape[1:]), np.uint8)
        self._pixels.seek(self._first + start * images[0].size)
        pixels: Any = self._pixels  # IO[bytes] has no readinto, and the files opened here have one
        if pixels.readinto(images.data.cast("B")) != images.size:
            raise self._damaged(f"it ends before image {stop - 1}")
        return images

    def labels(self) -> np.ndarray:
        """Return the class of every image, int64 (N,).

        Raises:
            ValueError: if the file has no classes, or not one integer per image.
        """
        if LABELS not in self._names:
            raise ValueError(f"{self.path} has no classes; expected them as {LABELS}, int64 (N,)")
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                labels = arrays[LABELS]
        except ZIP_ERRORS as error:
            raise self._damaged(error) from error
        if labels.shape != self.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{LABELS} of {self.path} is {labels.dtype} {labels.shape}; expected the classes "
                f"of its images, int64 ({len(self)},)"
            )
        return labels.astype(np.int64)

    def _read_header(self, member: IO[bytes]) -> None:
        """Read the header of the array and check that its shape and layout are those of images."""
        try:
            version = npy.read_magic(member)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(member)
        except ValueError as error:
            raise self._damaged(error) from error
        if dtype != np.uint8:
            hint = "; values from 0 to 255 are expected, not from 0 to 1 or from -1 to 1"
        elif len(shape) == 4 and shape[3] == 3 and all(shape):
            hint = " in Fortran order; np.ascontiguousarray makes it C order" if fortran else ""
        elif len(shape) == 4 and shape[1] == 3:
            hint = "; the channels come last"
        else:
            hint = "; at least one image with three channels is expected, also for gray images"
        if hint:
            raise ValueError(
                f"{IMAGES} of {self.path} is {dtype} {shape}; expected uint8 (N, H, W, 3){hint}"
            )
        images, height, width, channels = shape
        self.shape, self._header_bytes = (images, height, width, channels), member.tell()

    def _open_pixels(self) -> IO[bytes]:
        """Open a file that has the pixels uncompressed, from the offset ``_first`` on."""
        if self._member.compress_type == zipfile.ZIP_STORED:
            # zipfile's own seek reads everything it skips, here up to 9.8 GB for each chunk.
            file = self.path.open("rb")
            file.seek(self._member.header_offset)
            name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            before = self._member.header_offset + LOCAL_HEADER.size + name + extra
            self._first = before + self._header_bytes
            return file
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115 – kept open as long as this object
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as member:
                shutil.copyfileobj(member, unpacked, 1 << 20)
        except ZIP_ERRORS as error:
            unpacked.close()
            raise self._damaged(error) from error
        self._first = self._header_bytes
        return unpacked

    def _damaged(self, reason: object) -> ValueError:
        return ValueError(f"{self.path} is not a complete .npz file ({reason}); expected {LAYOUT}")
