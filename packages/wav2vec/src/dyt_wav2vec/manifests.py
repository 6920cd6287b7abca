"""fairseq's manifests train.tsv and valid.tsv, made of audio files that have been checked.

A manifest has the root folder in its first line, then one line per file with its path below the
root and its length in samples. fairseq trusts both: a file that is damaged or has another sampling
rate would end a pretraining of days when it is first read. Therefore every file is opened
beforehand and its last sample is read, which fails for a truncated FLAC. Damage in the middle of a
file is not detected: that would require decoding all of it.

Files that cannot be used (unreadable, not 16 kHz, not mono, too short) are left out of training, up
to 0.1 % of them or one, each with a warning. More is an error, as is one validation file.

The validation set is the one of fairseq's recipe for wav2vec 2.0: 1 % of the training data
(``wav2vec_manifest.py --valid-percent 0.01``); the recipe mentions LibriSpeech's dev-other only as
another possibility. fairseq draws it in the order of the file system. Here the draw depends on the
seed and the names alone, so adding or removing a file moves at most one other file between the two
sets.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dyt_wav2vec.audio_files import AudioHeader, read_header, unusable_reason
from dyt_wav2vec.sources import (
    ARCHIVE_FOLDER,
    MAX_NAMES,
    SAMPLE_RATE,
    TRAIN_SUBSETS,
    Subset,
    find_audio_files,
    librispeech_files,
    max_unusable,
)
from matched import signals
from matched.files import write_text
from matched.task import Context

log = logging.getLogger("matched")
MIN_SAMPLES = 400
"""Samples from which wav2vec 2.0's feature encoder computes its first frame: 25 ms.

fairseq itself skips files shorter than its ``min_sample_size``, 2 s in the stock config.
LibriSpeech contains such files, so they are no reason for a warning.
"""
VALID_FRACTION = 0.01
"""Fraction of the files that is held out for validation."""
READER_THREADS = 8
"""Files opened at a time: most of the time is spent waiting for the disk or the network."""
BLOCK = 1000
"""Files read between two checks of the results."""
SPLITS = ("train", "valid")
CHECKSUM_FILE = "checksum.txt"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Files for training and for validation.

    Attributes:
        root: absolute folder that all paths are relative to.
        train, valid: path below the root, with slashes → length in samples; sorted by path.
    """

    root: Path
    train: Mapping[str, int]
    valid: Mapping[str, int]

    @property
    def checksum(self) -> str:
        """SHA-256 of everything except the root, so that moving the data does not change it."""
        value = hashlib.sha256()
        for split in SPLITS:
            value.update(f"{split}\n{_tsv_lines(getattr(self, split))}".encode())
        return value.hexdigest()


def from_librispeech(
    path: Path,
    *,
    seed: int,
    subsets: Mapping[str, Subset] = TRAIN_SUBSETS,
    context: Context | None = None,
) -> Manifest:
    """Make the manifest of LibriSpeech's training subsets and hold out a fraction of them.

    Args:
        path: folder that contains ``LibriSpeech``, the same that torchaudio expects.
        seed: seed of the held-out files.
        subsets: name → expected size; the 960 hours by default.
        context: context of the run whose progress is reported, for all functions here. A single
            process of a run does this, rank 0.

    Raises:
        ValueError: if a subset lacks more than 0.1 % of its utterances (and more than one), and
            as ``from_folder`` does.
    """
    root, names = path / ARCHIVE_FOLDER, []
    for subset, expected in subsets.items():
        files = librispeech_files(root / subset, expected)
        names += [f"{subset}/{name}" for name in files]
    train, valid = _hold_out(root, names, seed)
    return _check_and_build(root, train, valid, MIN_SAMPLES, context)


def from_folder(
    path: Path, *, seed: int, min_samples: int = MIN_SAMPLES, context: Context | None = None
) -> Manifest:
    """Make the manifest of all FLAC and WAV files of a folder and hold out a fraction of them.

    Hidden and system files and folders are ignored. A truncated WAV is read as a shorter one.

    Args:
        path: folder, searched at any depth.
        seed: seed of the held-out files.
        min_samples: minimum length of a file.
        context: see ``from_librispeech``.

    Raises:
        ValueError: if there are fewer than two files, or for unusable files as described at the top
            of this module.
        OSError: if a file cannot be opened for a reason that is not the file's content.
        Interrupted: if the process was asked to stop.
    """
    train, valid = _hold_out(path, find_audio_files(path), seed)
    return _check_and_build(path, train, valid, min_samples, context)


def from_split_folder(
    path: Path, *, min_samples: int = MIN_SAMPLES, context: Context | None = None
) -> Manifest:
    """Make the manifest of a folder that is already split into ``train/`` and ``valid/``.

    Raises:
        ValueError: if one of them is missing or has no files, and as ``from_folder`` does.
    """
    train, valid = (
        [f"{split}/{name}" for name in find_audio_files(path / split)] for split in SPLITS
    )
    return _check_and_build(path, train, valid, min_samples, context)


def _hold_out(root: Path, names: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Return the names for training and for validation, at least one each.

    Raises:
        ValueError: if there are fewer than two.
    """
    if len(names) < 2:
        raise ValueError(
            f"{root} has one file; expected at least one each to train and validate on"
        )
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"{seed}\t{name}".encode()).digest())
    held_out = set(drawn[: max(1, round(VALID_FRACTION * len(names)))])
    return [name for name in names if name not in held_out], sorted(held_out)


def _check_and_build(
    root: Path,
    train: Sequence[str],
    valid: Sequence[str],
    min_samples: int,
    context: Context | None,
) -> Manifest:
    root = root.resolve()
    held_out = frozenset(valid)
    lengths: dict[str, int] = {}
    faults: dict[str, str] = {}
    sample_rates: set[int] = set()
    for block in _read_headers(root, sorted([*train, *valid]), context):
        for name, header in block.items():
            if fault := unusable_reason(header, min_samples):
                faults[name] = fault
            if isinstance(header, AudioHeader):
                sample_rates.add(header.sample_rate)
                lengths[name] = header.frames
        _check_sample_rates(root, sample_rates, len(lengths))
        _check_faults(root, faults, held_out, len(train))
    for name, fault in faults.items():
        log.warning("%s %s; it is left out", root / name, fault)
    splits = (
        {name: lengths[name] for name in names if name not in faults} for names in (train, valid)
    )
    manifest = Manifest(root=root, **dict(zip(SPLITS, splits, strict=True)))
    if not manifest.train:
        raise ValueError(f"{root} has no usable file for training: {_summary(faults)}")
    return manifest


def _check_sample_rates(root: Path, sample_rates: set[int], files: int) -> None:
    if len(sample_rates) == 1 and SAMPLE_RATE not in sample_rates:
        raise ValueError(
            f"all {files} files read so far in {root} have {sample_rates.pop()} Hz, not "
            f"{SAMPLE_RATE}; convert them to 16 kHz mono, for example with "
            "`ffmpeg -i in.wav -ac 1 -ar 16000 out.flac`"
        )


def _check_faults(
    root: Path,
    faults: Mapping[str, str],
    held_out: frozenset[str],
    files: int,
) -> None:
    if bad := {name: fault for name, fault in faults.items() if name in held_out}:
        raise ValueError(
            f"validation files in {root} cannot be used: {_summary(bad)}. Expected 16 kHz mono; "
            "replace or delete these files"
        )
    if len(faults) > (allowed := max_unusable(files)):
        raise ValueError(
            f"{len(faults)} of {files} training files in {root} cannot be used, and at most "
            f"{allowed} may be left out: {_summary(faults)}. Expected 16 kHz mono; replace or "
            "delete these files"
        )


def _summary(faults: Mapping[str, str]) -> str:
    first = [f"{name} {fault}" for name, fault in list(faults.items())[:MAX_NAMES]]
    return ", ".join([*first, "…"] if len(faults) > MAX_NAMES else first)


def _read_headers(
    root: Path, names: Sequence[str], context: Context | None
) -> Iterator[dict[str, AudioHeader | str]]:
    """Yield the headers of the files block by block, and report progress before each block.

    Raises:
        Interrupted: if the process was asked to stop.
    """
    with ThreadPoolExecutor(READER_THREADS) as readers:
        for start in range(0, len(names), BLOCK):
            if signals.stop_signal() is not None:
                raise signals.Interrupted
            _report_progress(context, start, len(names))
            block = names[start : start + BLOCK]
            paths = (root / name for name in block)
            yield dict(zip(block, readers.map(read_header, paths), strict=True))
    _report_progress(context, len(names), len(names))


def _report_progress(context: Context | None, files: int, total: int) -> None:
    if context is not None:
        context.write_progress(files, total)


def _tsv_lines(files: Mapping[str, int]) -> str:
    return "".join(f"{name}\t{samples}\n" for name, samples in files.items())


def write(manifest: Manifest, folder: Path) -> None:
    """Write ``train.tsv``, ``valid.tsv`` and their checksum into a folder, which is created."""
    write_text(folder / CHECKSUM_FILE, manifest.checksum)
    for split in SPLITS:
        lines = _tsv_lines(getattr(manifest, split))
        write_text(folder / f"{split}.tsv", f"{manifest.root}\n{lines}")


def read(folder: Path) -> Manifest:
    """Read the manifest of a folder without opening the files that it lists.

    Raises:
        ValueError: if a file is missing or malformed, the two have different roots, or they do not
            match their checksum.
    """
    roots, splits = [], {}
    for split in SPLITS:
        path = folder / f"{split}.tsv"
        try:
            root, *lines = path.read_text(encoding="utf-8").splitlines()
            splits[split] = dict(map(_parse_line, lines))
        except FileNotFoundError:
            raise ValueError(f"there is no {path}; expected fairseq's manifest") from None
        except ValueError:
            raise ValueError(
                f"{path} is not a fairseq manifest; expected the root folder, then lines of a "
                "path, a tab and a number of samples"
            ) from None
        roots.append(root)
        if not lines or len(splits[split]) != len(lines):
            raise ValueError(f"{path} lists no files, or one of them twice")
    if len(set(roots)) != 1:
        raise ValueError(f"train.tsv and valid.tsv in {folder} have different roots")
    manifest = Manifest(root=Path(roots[0]), **splits)
    if _read_checksum(folder) != manifest.checksum:
        raise ValueError(f"the manifests in {folder} do not match their checksum")
    return manifest


def _read_checksum(folder: Path) -> str:
    try:
        return (folder / CHECKSUM_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _parse_line(line: str) -> tuple[str, int]:
    name, samples = line.split("\t")
    return name, int(samples)


def verify(
    manifest: Manifest, max_files: int | None = None, context: Context | None = None
) -> None:
    """Check that every file is in its place, has the listed length and can be used.

    Args:
        manifest: manifest to check.
        max_files: files to check, evenly spread over the manifest; None for all.
        context: see ``from_librispeech``.

    Raises:
        ValueError: naming the first file that fails.
        OSError: if a file exists and cannot be opened.
        Interrupted: if the process was asked to stop.
    """
    lengths = {**manifest.train, **manifest.valid}
    hint = "the manifest points at files that were moved or replaced since"
    if not manifest.root.is_dir():
        raise ValueError(f"there is no folder {manifest.root}; {hint}")
    try:
        names = list(lengths)
        if max_files is not None:
            names = names[:: max(1, math.ceil(len(names) / max_files))]
        for block in _read_headers(manifest.root, names, context):
            for name, header in block.items():
                fault = unusable_reason(header, 0)
                if not fault and isinstance(header, AudioHeader) and header.frames != lengths[name]:
                    fault = f"has {header.frames} samples, not {lengths[name]}"
                if fault:
                    raise ValueError(f"{manifest.root / name} {fault}; {hint}")
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {error.filename}; {hint}") from None
