"""fairseq's lists of what to train and to validate on, made of files that have been looked at.

fairseq reads ``train.tsv`` and ``valid.tsv``: the root folder, then a line for each file with its
path below the root and its samples. It trusts them: a file that is damaged, or of another sampling
rate, would end a pretraining of days when its turn comes. So every file is opened first, and its
last sample is read, which a FLAC that was cut short does not have. Damage in the middle of a file
is not seen: that would take reading all of it.

Files that cannot be used (unreadable, not 16 kHz, not mono, too short) are left out of training, up
to 0.1 % of them or one, each with a warning; more is an error, and so is one of validation.

What is held out is what fairseq's recipe for wav2vec 2.0 holds out, a share of 1 % of the training
data (``wav2vec_manifest.py --valid-percent 0.01``): LibriSpeech's dev-other it only mentions as
another possibility. Theirs is drawn in the order of the file system; here it depends on the seed
and the names alone, so a file that is added or lost moves none of the others, but for the last.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile

from dyt_wav2vec.sources import INSIDE, TRAIN, Split
from matched import signals
from matched.files import write_text
from matched.task import Context

log = logging.getLogger("matched")
RATE = 16_000
"""Samples a second, which fairseq's task expects."""
SHORTEST = 400
"""Samples from which wav2vec 2.0's feature encoder makes its first frame: 25 ms.

fairseq itself passes over files shorter than its ``min_sample_size``, 2 s in the stock config;
those belong to LibriSpeech and are nothing to warn of.
"""
HELD_OUT = 0.01
"""Share of the files that is for validation."""
UNUSABLE = 0.001
"""Share of the training files that may be left out."""
ENDINGS = (".flac", ".wav")
NAMED = 3
"""Files that a message about many of them names."""
READERS = 8
"""Files opened at a time: most of the time goes into waiting for the disk or the network."""
BLOCK = 1000
"""Files between two looks at what was found."""
NAMES = ("train", "valid")
SUM = "checksum.txt"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Which files are for training and which for validation.

    Attributes:
        root: the absolute folder that all paths start from.
        train, valid: path below the root, with slashes → samples of the file; in order of names.
    """

    root: Path
    train: Mapping[str, int]
    valid: Mapping[str, int]

    @property
    def checksum(self) -> str:
        """SHA-256 of all but the root: the same data is the same wherever it lies."""
        value = hashlib.sha256()
        for name in NAMES:
            value.update(f"{name}\n{_lines(getattr(self, name))}".encode())
        return value.hexdigest()


def of_librispeech(
    path: Path,
    *,
    seed: int,
    splits: Mapping[str, Split] = TRAIN,
    context: Context | None = None,
) -> Manifest:
    """The manifest of LibriSpeech's training splits, a share of which is held out.

    Args:
        path: the folder that has ``LibriSpeech`` in it, as torchaudio wants it too.
        splits: name → how much is in it; the 960 hours by default.
        context: of the run that shows how far this is; as for the others here. One process of
            a run does this, the first one.

    Raises:
        ValueError: if a split lacks more than 0.1 % of its utterances (and more than one), and
            as ``of_folder`` does.
    """
    root, names = path / INSIDE, []
    for split, expected in splits.items():
        found = [f"{split}/{name}" for name in _sound_files(root / split)]
        if expected.utterances - len(found) > _most(expected.utterances):
            raise ValueError(
                f"{root / split} has {len(found)} FLAC files, not {expected.utterances}; "
                "is its archive wholly unpacked?"
            )
        names += found
    train, valid = _divided(root, names, seed)
    return _of_usable(root, train, valid, SHORTEST, context)


def of_folder(
    path: Path, *, seed: int, shortest: int = SHORTEST, context: Context | None = None
) -> Manifest:
    """The manifest of all FLAC and WAV files in a folder, at any depth; a share is held out.

    Hidden files are passed over. A WAV that was cut short reads as a shorter one.

    Args:
        shortest: samples that a file has to have.

    Raises:
        ValueError: if there are fewer than two files, and for files that cannot be used, in the
            way that stands at the top of this module.
        OSError: if a file cannot be opened for a reason that says nothing of the file.
        Interrupted: if the process was asked to stop.
    """
    train, valid = _divided(path, _sound_files(path), seed)
    return _of_usable(path, train, valid, shortest, context)


def of_parts(path: Path, *, shortest: int = SHORTEST, context: Context | None = None) -> Manifest:
    """The manifest of a folder that is divided already, into ``train/`` and ``valid/``.

    Raises:
        ValueError: if one of these is not there or has no files, and as ``of_folder`` does.
    """
    train, valid = ([f"{part}/{name}" for name in _sound_files(path / part)] for part in NAMES)
    return _of_usable(path, train, valid, shortest, context)


def _sound_files(folder: Path) -> list[str]:
    """Paths below a folder, with slashes, sorted.

    Raises:
        ValueError: if there are none, or one has a name that the format has no room for.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; expected one with FLAC or WAV files in it")
    names = [
        (Path(place) / name).relative_to(folder).as_posix()
        for place, _, files in os.walk(folder, followlinks=True)
        for name in files
        if name.lower().endswith(ENDINGS) and not name.startswith(".")
    ]
    if not names:
        raise ValueError(f"{folder} has no files *.flac or *.wav in it, at any depth")
    if odd := [name for name in names if not name.isprintable() or name != name.strip()]:
        raise ValueError(
            f"{folder} has the file {odd[0]!r}, whose name cannot stand in a manifest; rename it"
        )
    return sorted(names)


def _divided(root: Path, names: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Names for training and for validation, of which there is at least one each.

    Raises:
        ValueError: if there are fewer than two.
    """
    if len(names) < 2:
        raise ValueError(f"{root} has one file; expected some to train and some to validate on")
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"{seed}\t{name}".encode()).digest())
    held_out = set(drawn[: max(1, round(HELD_OUT * len(names)))])
    return [name for name in names if name not in held_out], sorted(held_out)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself; frames are samples where there is one channel."""

    frames: int
    rate: int
    channels: int


def look(path: Path) -> Header | str:
    """What a file's header says, if its last sample can be read too; else why it is unusable.

    Raises:
        OSError: if the file is not there, or a lost mount or a permission is in the way.
    """
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        # libsndfile does not tell what is wrong with the disk; opening the file again does.
        with path.open("rb") as content:
            if not content.read(1):
                return "is empty"
        return f"is damaged or no sound file ({error.error_string.rstrip('.')})"
    with file:
        found = Header(frames=file.frames, rate=file.samplerate, channels=file.channels)
        try:
            if found.frames:
                file.seek(found.frames - 1)
                if len(file.read(1, dtype="int16")) != 1:
                    return "is cut short"
        except soundfile.LibsndfileError:
            return "is damaged or cut short: its last sample cannot be read"
    return found


def _fault(found: Header | str, shortest: int) -> str:
    """Why a file cannot be used; empty if it can."""
    if isinstance(found, str):
        return found
    if found.rate != RATE:
        return f"has {found.rate} Hz, not {RATE}"
    if found.channels != 1:
        return f"has {found.channels} channels, not one"
    if found.frames < shortest:
        return f"has {found.frames} samples, fewer than {shortest}"
    return ""


def _of_usable(
    root: Path,
    train: Sequence[str],
    valid: Sequence[str],
    shortest: int,
    context: Context | None,
) -> Manifest:
    root = root.resolve()
    held_out, most = frozenset(valid), _most(len(train))
    frames: dict[str, int] = {}
    faults: dict[str, str] = {}
    rates: set[int] = set()
    for block in _looked_at(root, sorted([*train, *valid]), context):
        for name, found in block.items():
            if fault := _fault(found, shortest):
                faults[name] = fault
            if isinstance(found, Header):
                rates.add(found.rate)
                frames[name] = found.frames
        _check_rates(root, rates, len(frames))
        _check_faults(root, faults, held_out, len(train), most)
    for name, fault in faults.items():
        log.warning("%s %s; it is left out", root / name, fault)
    parts = (
        {name: frames[name] for name in names if name not in faults} for names in (train, valid)
    )
    manifest = Manifest(root=root, **dict(zip(NAMES, parts, strict=True)))
    if not manifest.train:
        raise ValueError(f"no file of {root} is left for training: {_told(faults)}")
    return manifest


def _most(files: int) -> int:
    """How many of so many files for training may be missing or unusable."""
    return max(1, int(UNUSABLE * files))


def _check_rates(root: Path, rates: set[int], files: int) -> None:
    if len(rates) == 1 and RATE not in rates:
        raise ValueError(
            f"all of the {files} files looked at in {root} have {rates.pop()} Hz, not {RATE}; "
            "wav2vec 2.0 is trained on 16 kHz: convert them, for example with "
            "`ffmpeg -i in.wav -ac 1 -ar 16000 out.flac`"
        )


def _check_faults(
    root: Path, faults: Mapping[str, str], held_out: frozenset[str], files: int, most: int
) -> None:
    if lost := {name: fault for name, fault in faults.items() if name in held_out}:
        raise ValueError(
            f"files for validation in {root} cannot be used: {_told(lost)}. They are not left out: "
            "replace them, or delete them. Expected are 16 kHz, mono"
        )
    if len(faults) > most:
        raise ValueError(
            f"{len(faults)} files for training in {root} cannot be used so far, of {files}; {most} "
            f"may be left out: {_told(faults)}. Replace them, or delete them. Expected are 16 kHz, "
            "mono"
        )


def _told(faults: Mapping[str, str]) -> str:
    told = [f"{name} {fault}" for name, fault in list(faults.items())[:NAMED]]
    return ", ".join([*told, "…"] if len(faults) > NAMED else told)


def _looked_at(
    root: Path, names: Sequence[str], context: Context | None
) -> Iterator[dict[str, Header | str]]:
    """What the files are, block by block; tells how far it is before each of them.

    Raises:
        Interrupted: if the process was asked to stop.
    """
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(names), BLOCK):
            if signals.stop_signal() is not None:
                raise signals.Interrupted
            _tell(context, start, len(names))
            block = names[start : start + BLOCK]
            paths = (root / name for name in block)
            yield dict(zip(block, readers.map(look, paths), strict=True))
    _tell(context, len(names), len(names))


def _tell(context: Context | None, files: int, total: int) -> None:
    if context is not None:
        context.write_progress(files, total)


def _lines(files: Mapping[str, int]) -> str:
    return "".join(f"{name}\t{frames}\n" for name, frames in files.items())


def write(manifest: Manifest, folder: Path) -> None:
    """Write ``train.tsv`` and ``valid.tsv`` and their checksum into a folder, which is made."""
    write_text(folder / SUM, manifest.checksum)
    for name in NAMES:
        write_text(folder / f"{name}.tsv", f"{manifest.root}\n{_lines(getattr(manifest, name))}")


def read(folder: Path) -> Manifest:
    """The manifest that a folder holds; the files that it lists are not looked at.

    Raises:
        ValueError: if a list is missing or is none, the two have different roots, or they are not
            as they were written.
    """
    roots, parts = [], {}
    for name in NAMES:
        path = folder / f"{name}.tsv"
        try:
            root, *lines = path.read_text(encoding="utf-8").splitlines()
            parts[name] = dict(map(_entry, lines))
        except FileNotFoundError:
            raise ValueError(f"there is no {path}; expected fairseq's manifest") from None
        except ValueError:
            raise ValueError(
                f"{path} is no manifest of fairseq; expected the root folder, then lines of a "
                "path, a tab and a number of samples"
            ) from None
        roots.append(root)
        if not lines or len(parts[name]) != len(lines):
            raise ValueError(f"{path} lists no file, or one of them twice")
    if len(set(roots)) != 1:
        raise ValueError(f"train.tsv and valid.tsv in {folder} have different roots")
    manifest = Manifest(root=Path(roots[0]), **parts)
    if _read_sum(folder) != manifest.checksum:
        raise ValueError(f"the lists in {folder} are not as they were written")
    return manifest


def _read_sum(folder: Path) -> str:
    try:
        return (folder / SUM).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _entry(line: str) -> tuple[str, int]:
    name, frames = line.split("\t")
    return name, int(frames)


def verify(manifest: Manifest, most: int | None = None, context: Context | None = None) -> None:
    """See that every file is where the manifest says, as long as it says, and can be used.

    Args:
        most: files to look at, evenly spread, where all would take too long; None for all.

    Raises:
        ValueError: naming the first that is not.
        OSError: if a file cannot be opened for another reason than that it is not there.
        Interrupted: if the process was asked to stop.
    """
    files = {**manifest.train, **manifest.valid}
    gone = "the manifest points at files that were moved or replaced since"
    if not manifest.root.is_dir():
        raise ValueError(f"there is no folder {manifest.root}; {gone}")
    try:
        names = list(files)
        if most is not None:
            names = names[:: max(1, math.ceil(len(names) / most))]
        for block in _looked_at(manifest.root, names, context):
            for name, found in block.items():
                fault = _fault(found, 0)
                if not fault and isinstance(found, Header) and found.frames != files[name]:
                    fault = f"has {found.frames} samples, not {files[name]}"
                if fault:
                    raise ValueError(f"{manifest.root / name} {fault}; {gone}")
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {error.filename}; {gone}") from None
