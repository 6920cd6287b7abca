"""Encoding of latents: equality with encoding on the fly, resume, and unreadable images."""

import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyt_dit import latents
from dyt_dit.autoencoder import open_autoencoder
from dyt_dit.config import Encoding
from dyt_dit.images import open_split
from dyt_dit.latent_cache import Latents, Manifest

from ..messages import refused
from ..processes import run as run_in_two_processes
from .small import (
    CONFIGS,
    ENCODING,
    HELD_OUT,
    PIXELS,
    TRAIN,
    autoencoder,
    contents,
    encoded,
    stored,
)

SCRIPT = Path(__file__).with_name("two_processes_latents.py")
CPU = torch.device("cpu")


@pytest.fixture
def breakable(images, tmp_path):
    """A copy of the images that a test may damage."""
    return shutil.copytree(images, tmp_path / "images")


def files(directory):
    """Return name → modification time of all files of latents."""
    return {path.name: path.stat().st_mtime_ns for path in (directory / "latents").glob("*-0*.npy")}


class TestEncoding:
    def test_encode_matches_encoding_on_the_fly(self, encoding_run, images, vae):
        kl = open_autoencoder("kl", vae, CPU)
        for split, count, flips in (("train", TRAIN, 2), ("held_out", HELD_OUT, 1)):
            found = stored(encoding_run, split)
            assert found.shape == (count, flips, 2, 4, 8, 8)
            batch = torch.stack(
                [open_split("imagenet", images, split, 16)[i][0] for i in range(count)]
            )
            for flip, view in enumerate((batch, batch.flip(-1))[:flips]):
                for moment, expected in enumerate(kl.encode(view)):
                    torch.testing.assert_close(
                        found[:, flip, moment], expected, rtol=2**-11, atol=1e-5
                    )

    def test_float16_error_is_below_smallest_diffusion_noise(self, encoding_run, images, vae):
        kl = open_autoencoder("kl", vae, CPU)
        split = open_split("imagenet", images, "held_out", 16)
        mean, std = kl.encode(torch.stack([split[i][0] for i in range(HELD_OUT)]))
        error, size = (
            (stored(encoding_run, "held_out")[:, 0, 0] - x).square().mean().sqrt()
            for x in (mean, 0)
        )
        assert 0 < error < std.mean() / 1000
        # The smallest noise is √β₁ = 0.01, for latents whose variance is about one.
        assert error < 0.01 / 40 * size

    def test_manifest_describes_autoencoder_and_images(self, encoding_run, images, vae):
        manifest = json.loads((encoding_run / "latents" / "manifest.json").read_text())
        splits = manifest.pop("splits")
        assert manifest == {
            "version": 1,
            "kind": "kl",
            "checksum": open_autoencoder("kl", vae, CPU).checksum,
            "scaling": 0.18215,
            "image_size": 16,
            "channels": 4,
            "side": 8,
            "flip": True,
        }
        train = splits["train"]
        assert [(file["name"], file["images"]) for file in train["files"]] == [
            ("train-00000.npy", 4),
            ("train-00001.npy", 4),
            ("train-00002.npy", 4),
            ("train-00003.npy", 2),
        ]
        assert (train["classes"], train["left_out"], train["labels"]["images"]) == (2, [], TRAIN)
        assert train["digest"] == open_split("imagenet", images, "train", 16).digest()
        assert np.load(encoding_run / "latents" / "train-labels.npy").tolist() == [0] * 8 + [1] * 6
        fingerprint = json.loads((encoding_run / "fingerprint.json").read_text())
        assert fingerprint == {
            "weights": manifest["checksum"],
            "batches": [splits[split]["digest"] for split in ("train", "held_out")],
        }

    def test_encode_outcome(self, images, vae, tmp_path):
        outcome = encoded(tmp_path / "run", images, vae)
        assert (outcome.metrics, outcome.steps) == ({"images": TRAIN + HELD_OUT}, 6)
        weights = open_autoencoder("kl", vae, CPU).checksum
        details = {"autoencoder": weights, "train": TRAIN, "held_out": HELD_OUT, "left_out": []}
        assert outcome.details == details

    def test_num_workers_does_not_change_latents(self, encoding_run, images, vae, tmp_path):
        encoded(tmp_path / "run", images, vae, num_workers=2)
        assert contents(tmp_path / "run") == contents(encoding_run)

    def test_pixels_of_digits_are_latents(self, tmp_path):
        config = Encoding(
            data=("digits",), autoencoder="pixels", image_size=8, flip=False, images_per_file=1000
        )
        encoded(tmp_path / "run", None, None, config)
        manifest = Manifest.read(tmp_path / "run")
        assert (manifest.kind, manifest.checksum, manifest.scaling) == ("pixels", "pixels", 1)
        train, digits = Latents(tmp_path / "run", "train"), open_split("digits", None, "train", 8)
        assert len(train) == 1437
        pixels = open_autoencoder("pixels", None, CPU)
        for i in (0, 999, 1000, 1436):
            latent, label = train[i]
            assert torch.equal(pixels.decode(latent[None])[0], digits[i][0])
            assert label == digits[i][1]

    @pytest.mark.parametrize("size", [15, 17])
    def test_encode_rejects_odd_image_size(self, images, vae, tmp_path, size):
        with pytest.raises(ValueError, match=f"image_size {size} is not a multiple of 2"):
            encoded(tmp_path / "run", images, vae, replace(ENCODING, image_size=size))

    def test_encode_rejects_folder_without_autoencoder(self, images, tmp_path):
        with pytest.raises(ValueError, match=r"images.* has no autoencoder weights"):
            encoded(tmp_path / "run", images, images)

    def test_encode_rejects_non_finite_latents(self, images, vae, tmp_path, monkeypatch):
        def encode(self, images):
            mean = torch.zeros(len(images), 4, 8, 8)
            mean[1] = 1e6
            return mean, mean

        monkeypatch.setattr("dyt_dit.autoencoder.KLAutoencoder.encode", encode)
        assert refused(encoded, tmp_path / "run", images, vae) == (
            "the latents of n01/1.JPEG are not finite in float16, whose range Stable Diffusion's "
            "latents are far from exceeding; the autoencoder's weights may be damaged"
        )
        assert not files(tmp_path / "run")


class TestResume:
    def test_encode_resumes_after_kill(self, encoding_run, images, vae, tmp_path, monkeypatch):
        directory = tmp_path / "run"
        write_file = latents.LatentEncoder.write_file

        def killed(self, name, path):
            write_file(self, name, path)
            if name == "train-00002.npy":  # before the file is renamed
                os.kill(os.getpid(), signal.SIGKILL)

        with monkeypatch.context() as patched:
            patched.setattr(latents.LatentEncoder, "write_file", killed)
            process = multiprocessing.get_context("fork").Process(
                target=encoded, args=(directory, images, vae)
            )
            process.start()
            process.join()
        assert process.exitcode == -signal.SIGKILL
        before = files(directory)
        assert sorted(before) == ["train-00000.npy", "train-00001.npy"]
        assert list((directory / "latents").glob(".*.tmp"))
        assert not (directory / "latents" / "manifest.json").exists()
        encoded(directory, images, vae)
        assert contents(directory) == contents(encoding_run)
        assert before.items() <= files(directory).items()

    def test_encode_rewrites_only_damaged_files(self, encoding_run, encoding_copy, images, vae):
        before = files(encoding_copy)
        damaged = encoding_copy / "latents" / "train-00001.npy"
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content)
        (encoding_copy / "latents" / "held_out-labels.npy").unlink()
        encoded(encoding_copy, images, vae)
        assert contents(encoding_copy) == contents(encoding_run)
        after = files(encoding_copy)
        assert [name for name in before if after[name] != before[name]] == ["train-00001.npy"]

    @pytest.mark.parametrize("note", [None, '{"origin": "'])
    def test_missing_note_rewrites_only_its_file(
        self, encoding_run, encoding_copy, images, vae, note
    ):
        path = encoding_copy / "latents" / "train-00001.json"
        path.unlink() if note is None else path.write_text(note)
        before = files(encoding_copy)
        encoded(encoding_copy, images, vae)
        assert contents(encoding_copy) == contents(encoding_run)
        after = files(encoding_copy)
        assert [name for name in before if after[name] != before[name]] == ["train-00001.npy"]

    def test_replaced_image_rewrites_only_its_file(
        self, encoding_copy, breakable, images, vae, tmp_path, caplog
    ):
        file = breakable / "train" / "n01" / "4.png"
        shutil.copy(breakable / "train" / "n02" / "5.JPEG", file)
        before = files(encoding_copy)
        encoded(encoding_copy, breakable, vae)
        after = files(encoding_copy)
        assert [name for name in before if after[name] != before[name]] == ["train-00001.npy"]
        assert (
            "1 files of latents were made from other images or by another autoencoder and are "
            "written again"
        ) in caplog.messages
        encoded(tmp_path / "fresh", breakable, vae)
        assert contents(encoding_copy) == contents(tmp_path / "fresh")

    def test_other_autoencoder_rewrites_all_files(self, encoding_copy, images, tmp_path):
        other = autoencoder(tmp_path / "other", seed=1)
        encoded(encoding_copy, images, other)
        encoded(tmp_path / "fresh", images, other)
        assert contents(encoding_copy) == contents(tmp_path / "fresh")

    # Slow because two processes import diffusers, which takes longer than the rest of this module.
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["pixels", "kl"])
    def test_two_processes_encode_like_one(self, images, vae, tmp_path, kind):
        encoded(tmp_path / "one", images, vae, CONFIGS[kind])
        run_in_two_processes(SCRIPT, images, vae, tmp_path, kind)
        assert contents(tmp_path / "two") == contents(tmp_path / "one")
        messages = [
            (tmp_path / f"messages-{rank}.txt").read_text().splitlines() for rank in range(2)
        ]
        assert messages[0] == messages[1]
        assert messages[0][0] == "whole"
        assert "train-00001.npy is damaged" in messages[0][1]


class TestUnreadable:
    def test_unreadable_image_is_left_out(self, breakable, images, vae, tmp_path, caplog):
        broken = breakable / "train" / "n01" / "5.JPEG"
        broken.write_bytes(broken.read_bytes()[:-200])
        outcome = encoded(tmp_path / "run", breakable, vae)
        assert outcome.metrics == {"images": TRAIN + HELD_OUT - 1}
        assert outcome.details["left_out"] == ["n01/5.JPEG"]
        (record,) = (r for r in caplog.records if r.levelname == "WARNING")
        assert record.getMessage().startswith(f"{broken} cannot be read as an image")
        assert record.getMessage().endswith("; it is left out")
        files = Manifest.read(tmp_path / "run").splits["train"]
        assert files.left_out == ("n01/5.JPEG",)
        assert [file.images for file in files.files] == [4, 3, 4, 2]
        train = Latents(tmp_path / "run", "train")
        assert [int(label) for _, label in train] == [0] * 7 + [1] * 6
        encoded(tmp_path / "all", images, vae)
        expected = stored(tmp_path / "all", "train")[[*range(5), *range(6, TRAIN)]]
        # The batches differ, so the last bit may differ.
        torch.testing.assert_close(stored(tmp_path / "run", "train"), expected)

    def test_file_with_only_unreadable_images_is_empty(self, breakable, tmp_path):
        (breakable / "train" / "n01" / "5.JPEG").write_bytes(b"")
        encoded(tmp_path / "run", breakable, None, replace(PIXELS, images_per_file=1))
        manifest = Manifest.read(tmp_path / "run")
        assert [file.images for file in manifest.splits["train"].files][4:7] == [1, 0, 1]
        train = Latents(tmp_path / "run", "train")
        assert torch.equal(train[5][0], Latents(tmp_path / "run", "train")[5][0])
        assert len(list(train)) == TRAIN - 1

    def test_too_many_unreadable_images_stop_the_run(self, breakable, tmp_path):
        for name in ("n01/0.png", "n02/5.JPEG"):
            (breakable / "train" / name).write_bytes(b"")
        message = (
            "2 of 14 images of the training set cannot be read so far, and at most 1 may be left "
            "out: n01/0.png, n02/5.JPEG. Replace or delete them"
        )
        for _ in range(2):  # also refused when the file of the first image is already complete
            with pytest.raises(ValueError) as refusal:
                encoded(tmp_path / "run", breakable, None, PIXELS)
            assert str(refusal.value) == message
            assert sorted(files(tmp_path / "run")) == [f"train-0000{i}.npy" for i in range(3)]
        for name in ("n01/0.png", "n02/5.JPEG"):
            (breakable / "train" / name).unlink()
        assert encoded(tmp_path / "run", breakable, None, PIXELS).metrics["images"] == TRAIN - 2 + 5

    def test_unreadable_image_counts_once_if_its_file_is_rewritten(self, breakable, tmp_path):
        broken = breakable / "train" / "n01" / "5.JPEG"
        broken.write_bytes(b"")
        encoded(tmp_path / "run", breakable, None, PIXELS)
        before = contents(tmp_path / "run")
        (tmp_path / "run" / "latents" / "train-00001.npy").unlink()
        encoded(tmp_path / "run", breakable, None, PIXELS)
        assert contents(tmp_path / "run") == before
        broken.with_name("0.png").write_bytes(b"")
        assert refused(encoded, tmp_path / "run", breakable, None, PIXELS) == (
            "2 of 14 images of the training set cannot be read so far, and at most 1 may be left "
            "out: n01/0.png, n01/5.JPEG. Replace or delete them"
        )

    def test_unreadable_limit_applies_to_all_files_together(self, breakable, tmp_path, monkeypatch):
        for name in ("n02/5.JPEG", "n01/6.png", "n01/0.png", "n02/1.JPEG"):
            (breakable / "train" / name).write_bytes(b"")
        monkeypatch.setattr(latents.LatentEncoder, "_leave_out", lambda *_: None)
        assert refused(encoded, tmp_path / "run", breakable, None, PIXELS) == (
            "4 of 14 images of the training set cannot be read so far, and at most 1 may be left "
            "out: n01/0.png, n01/6.png, n02/1.JPEG. Replace or delete them"
        )
        assert not (tmp_path / "run" / "latents" / "manifest.json").exists()

    def test_unreadable_held_out_image_stops_the_run(self, breakable, tmp_path):
        broken = breakable / "val" / "n02" / "1.JPEG"
        broken.write_bytes(b"")
        with pytest.raises(ValueError, match=r"Held-out images cannot be left out") as refusal:
            encoded(tmp_path / "run", breakable, None, PIXELS)
        assert str(refusal.value).startswith(f"{broken} cannot be read as an image")
        assert str(refusal.value).endswith(
            ". Held-out images cannot be left out: replace or delete it"
        )
