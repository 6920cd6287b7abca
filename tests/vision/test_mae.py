"""Pretraining of masked autoencoders from end to end: fingerprints, resume, evaluation, picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dyt_vision import mae, transforms
from dyt_vision.mae_model import MaskedAutoencoder
from matched.training import reseed

from .tiny import (
    DYT,
    OWN,
    TINY_MAE,
    assert_resume_is_bit_identical,
    context,
    fingerprint,
    held_out_images,
    lines,
    run,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def own(small, tmp_path_factory):
    """Return outcome and directory of the LN arm."""
    return run(mae.pretrain, tmp_path_factory.mktemp("own"), TINY_MAE, images=small)


def test_pretrain_reports_held_out_loss_and_writes_its_files(own):
    outcome, directory = own
    assert (outcome.steps, outcome.diverged, outcome.metrics.keys()) == (4, False, {"loss"})
    assert outcome.best["loss"] == min(
        line["evaluation"]["loss"] for line in lines(directory) if "evaluation" in line
    )
    assert {path.name for path in directory.iterdir()} == {
        "checkpoints",
        "metrics.jsonl",
        "performance.jsonl",
        "progress.json",
        "fingerprint.json",
        "pretrained.pth",
        "reconstructions.png",
    }


class TestFingerprint:
    def of(self, directory, small, **changes):
        _, directory = run(mae.pretrain, directory, replace(TINY_MAE, **changes), images=small)
        return fingerprint(directory)

    def test_arms_of_a_pair_have_equal_fingerprints(self, own, small, tmp_path):
        assert self.of(tmp_path, small, norm=DYT) == fingerprint(own[1])
        assert len(set(fingerprint(own[1])["batches"])) == 4

    @pytest.mark.parametrize("changes", [{"seed": 1}, {"crop_scale": (0.9, 1.0)}])
    def test_fingerprint_changes_with_the_images(self, own, small, tmp_path, changes):
        assert self.of(tmp_path, small, **changes)["batches"] != fingerprint(own[1])["batches"]

    def test_fingerprint_covers_the_masks(self, own, small, tmp_path, monkeypatch):
        def inverted_noise(config):
            return lambda batch: (batch[0], 1 - torch.rand(len(batch[0]), 16))

        monkeypatch.setattr(mae, "draw_mask_noise", inverted_noise)
        changed, usual = self.of(tmp_path, small), fingerprint(own[1])
        assert changed["weights"] == usual["weights"]
        assert not set(changed["batches"]) & set(usual["batches"])


def test_resume_is_bit_identical(own, small, tmp_path, monkeypatch):
    assert_resume_is_bit_identical(monkeypatch, mae, tmp_path, TINY_MAE, own, images=small)


def test_mae_learns_to_reconstruct_digits(tmp_path):
    config = replace(TINY_MAE, data="digits", batch=32, micro_batch=32, epochs=1, eval_batch=360)
    outcome, directory = run(mae.pretrain, tmp_path, config, images=None)
    losses = [line["loss"] for line in lines(directory) if "loss" in line]
    assert outcome.metrics["loss"] < 0.8 * losses[0]


class Brightness(MaskedAutoencoder):
    """A model whose loss is the mean of the images, independent of the mask."""

    calls = 0

    def forward(self, images, noise):
        self.calls += 1
        _, prediction, mask = super().forward(images, noise)
        return images.mean(), prediction, mask


class TestEvaluation:
    def reconstruction(self, small, directory, **where):
        return mae.ReconstructionEvaluation(
            held_out_images(TINY_MAE, small), TINY_MAE, context(directory, **where), CPU
        )

    def test_masks_of_images_are_the_same_on_any_world_size(self, small, tmp_path):
        alone = self.reconstruction(small, tmp_path).noise
        for rank in range(3):
            part = self.reconstruction(small, tmp_path, rank=rank, world_size=3)
            assert torch.equal(part.noise[: part.subset.count], alone[rank::3])

    def test_every_held_out_image_counts_once_on_any_world_size(self, small, tmp_path):
        pixels = [image.mean().item() for image, _ in held_out_images(TINY_MAE, small)]
        model = Brightness(TINY_MAE)
        for world, counts in ((1, [10]), (3, [4, 3, 3]), (4, [3, 3, 2, 2])):
            total, calls = 0.0, set()
            for rank, count in enumerate(counts):
                model.calls = 0
                where = {"rank": rank, "world_size": world}
                loss = self.reconstruction(small, tmp_path, **where)(model)["loss"]
                assert loss == pytest.approx(np.mean(pixels[rank::world]), abs=1e-6)
                total += loss * count
                calls.add(model.calls)
            assert total / 10 == pytest.approx(np.mean(pixels), abs=1e-6)
            assert len(calls) == 1

    def test_evaluation_masks_are_fixed(self, small, tmp_path):
        model, _ = mae.build(TINY_MAE)
        evaluate = self.reconstruction(small, tmp_path)
        reseed(1)
        first = evaluate(model)
        reseed(2)
        assert evaluate(model) == first


class TestPicture:
    def rows(self, directory):
        """Return the picture's images, (rows, columns, 96, 96, 3), enlarged six times."""
        with Image.open(directory / "reconstructions.png") as picture:
            assert picture.format == "PNG"
            assert picture.size == (
                3 * 98 + 2,
                3 * 98 + 2,
            )  # three images of the first batch, with a frame
            pixels = np.asarray(picture)
        places = [slice(2 + 98 * i, 98 + 98 * i) for i in range(3)]
        return np.stack([[pixels[row, column] for column in places] for row in places])

    def patches(self, picture):
        return [picture[y : y + 24, x : x + 24] for y in range(0, 96, 24) for x in range(0, 96, 24)]

    def test_picture_shows_masked_reconstructed_and_original_image(self, own, small):
        held_out = held_out_images(TINY_MAE, small)
        for i, (masked, filled, original) in enumerate(self.rows(own[1])):
            exact = transforms.Denormalize(TINY_MAE)(held_out[i][0]).permute(1, 2, 0).numpy() * 255
            assert np.abs(original[::6, ::6] - exact).max() <= 0.5001
            triples = zip(*map(self.patches, (masked, filled, original)), strict=True)
            visible = [(part, guess) for part, guess, true in triples if (part == true).all()]
            assert len(visible) == 4
            assert all((part == guess).all() for part, guess in visible)
            assert (filled != original).any()

    def test_picture_fills_hidden_patches_with_the_mean_color(self, own):
        for masked, _, original in self.rows(own[1]):
            parts = zip(self.patches(masked), self.patches(original), strict=True)
            hidden = [part for part, true in parts if (part != true).any()]
            assert len(hidden) == 12
            assert all((part == [124, 116, 104]).all() for part in hidden)

    @pytest.mark.parametrize("norm_pix", [True, False])
    def test_reconstruction_rows_of_a_perfect_prediction(self, norm_pix):
        model, _ = mae.build(replace(TINY_MAE, norm_pix=norm_pix))
        image, mask = torch.randn(2, 3, 16, 16), torch.ones(2, 16)
        rows = mae.reconstruction_rows(model, image, model.target(image), mask)
        assert rows.shape == (2, 3, 3, 16, 16)
        assert not rows[:, 0].any()
        torch.testing.assert_close(rows[:, 1], image, rtol=1e-4, atol=1e-4)
        assert torch.equal(rows[:, 2], image)


def test_arms_differ_only_in_the_norm_layers():
    own, paths = mae.build(replace(TINY_MAE, norm=OWN))
    dyt, dyt_paths = mae.build(replace(TINY_MAE, norm=DYT))
    assert paths == dyt_paths and {"norm", "decoder_norm"} < set(paths)
    dyt_state = dyt.state_dict()
    assert all(torch.equal(tensor, dyt_state[name]) for name, tensor in own.state_dict().items())
    assert dyt_state["blocks.0.norm1.alpha"].tolist() == [0.5]
