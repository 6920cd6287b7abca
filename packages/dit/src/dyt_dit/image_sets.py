"""Files of many images, in the layout that ADM's evaluation suite reads, without holding them.

An .npz with the images as arr_0, uint8 (N, H, W, 3), and their classes as arr_1, int64 (N,), as
ADM's own sets of class-conditional samples have them. 50,000 images of 256 × 256 are 9.8 GB.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from matched.files import atomic_write

IMAGES, LABELS = "arr_0", "arr_1"
LAYOUT = "an .npz with images as arr_0, uint8 (N, H, W, 3)"
LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a member of a zip file; it ends with the lengths of the name and of the extra field."""
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
"""What zipfile raises on files that are damaged or no zip files."""


def write(
    path: Path, shape: tuple[int, ...], chunks: Iterable[np.ndarray], labels: np.ndarray
) -> None:
    """Write a set of images chunk by chunk, whole or not at all; the same set gives the same bytes.

    Args:
        shape: (N, H, W, 3) of the whole set.
        chunks: uint8 (n, H, W, 3) each, N images together.
        labels: int64 (N,).
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
    """The images of such a file: ``file[a:b]`` is uint8 (b - a, H, W, 3), read when asked for.

    What np.savez_compressed wrote is unpacked into an unnamed temporary file when the first image
    is asked for.

    Attributes:
        shape: (N, H, W, 3).

    Raises:
        ValueError: if the file has another layout or is not whole.
    """

    shape: tuple[int, int, int, int]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pixels: IO[bytes] | None = None
        try:
            with zipfile.ZipFile(path) as archive:
                self._names = {name.removesuffix(".npy") for name in archive.namelist()}
                if IMAGES not in self._names:
                    found = ", ".join(sorted(self._names)) or "nothing"
                    raise ValueError(f"{path} holds {found}; expected {LAYOUT}")
                self._member = archive.getinfo(f"{IMAGES}.npy")
                with archive.open(self._member) as member:
                    self._read_header(member)
        except FileNotFoundError:
            raise ValueError(f"there is no file {path}; expected {LAYOUT}") from None
        except BROKEN as error:
            raise self._not_whole(error) from error
        if self._member.file_size != self._header_bytes + int(np.prod(self.shape)):
            raise self._not_whole(f"{IMAGES} has not as many bytes as its header says")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(len(self))
        assert step == 1 and start < stop, part
        if self._pixels is None:
            self._pixels = self._opened()
        images = np.empty((stop - start, *self.shape[1:]), np.uint8)
        self._pixels.seek(self._first + start * images[0].size)
        if self._pixels.readinto(images.data.cast("B")) != images.size:  # type: ignore[attr-defined]
            raise self._not_whole(f"it ends before image {stop - 1}")
        return images

    def labels(self) -> np.ndarray:
        """The class of every image, int64 (N,).

        Raises:
            ValueError: if the file tells no classes, or not one whole number for each image.
        """
        if LABELS not in self._names:
            raise ValueError(f"{self.path} tells no classes; expected them as {LABELS}, int64 (N,)")
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                found = arrays[LABELS]
        except BROKEN as error:
            raise self._not_whole(error) from error
        if found.shape != self.shape[:1] or found.dtype.kind not in "iu":
            raise ValueError(
                f"{LABELS} of {self.path} is {found.dtype} {found.shape}; expected the classes of "
                f"its images, int64 ({len(self)},)"
            )
        return found.astype(np.int64)

    def _read_header(self, member: IO[bytes]) -> None:
        """Shape and layout of the array, which have to be those of images."""
        try:
            version = npy.read_magic(member)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(member)
        except ValueError as error:
            raise self._not_whole(error) from error
        if dtype != np.uint8:
            hint = "; values from 0 to 255 are expected, not from 0 to 1 or from -1 to 1"
        elif len(shape) == 4 and shape[3] == 3 and all(shape):
            hint = " in Fortran order; np.ascontiguousarray makes it C order" if fortran else ""
        elif len(shape) == 4 and shape[1] == 3:
            hint = "; the channels come last"
        else:
            hint = "; one image or more of three channels are expected, of grey images too"
        if hint:
            raise ValueError(
                f"{IMAGES} of {self.path} is {dtype} {shape}; expected uint8 (N, H, W, 3){hint}"
            )
        self.shape, self._header_bytes = shape, member.tell()

    def _opened(self) -> IO[bytes]:
        """A file in which the pixels lie one after the other, from ``_first`` on."""
        if self._member.compress_type == zipfile.ZIP_STORED:
            # zipfile's own seek reads all that it passes over, here up to 9.8 GB for each chunk.
            file = self.path.open("rb")
            file.seek(self._member.header_offset)
            name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            before = self._member.header_offset + LOCAL_HEADER.size + name + extra
            self._first = before + self._header_bytes
            return file
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115 – lives as long as this object
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as member:
                shutil.copyfileobj(member, unpacked, 1 << 20)
        except BROKEN as error:
            unpacked.close()
            raise self._not_whole(error) from error
        self._first = self._header_bytes
        return unpacked

    def _not_whole(self, why: object) -> ValueError:
        return ValueError(f"{self.path} is not a whole .npz file ({why}); expected {LAYOUT}")
