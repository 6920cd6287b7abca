"""Pretraining of masked autoencoders from end to end: matched, repeatable, with pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dyt_vision import images, mae
from dyt_vision.mae_model import MaskedAutoencoder
from matched.training import reseed

from .tiny import DYT, OWN, TINY_MAE, context, cut_and_resumed, fingerprint, lines, run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def own(small, tmp_path_factory):
    """Outcome and directory of the LN arm."""
    return run(mae.pretrain, tmp_path_factory.mktemp("own"), TINY_MAE, images=small)


def test_a_run_tells_the_loss_of_the_held_out_images(own):
    outcome, directory = own
    assert (outcome.steps, outcome.diverged, outcome.metrics.keys()) == (4, False, {"loss"})
    assert outcome.best["loss"] == min(
        line["evaluation"]["loss"] for line in lines(directory) if "evaluation" in line
    )
    assert {path.name for path in directory.iterdir()} == {
        "checkpoints",
        "metrics.jsonl",
        "progress.json",
        "fingerprint.json",
        "pretrained.pth",
        "reconstructions.png",
    }


class TestFingerprint:
    def of(self, directory, small, **changes):
        _, directory = run(mae.pretrain, directory, replace(TINY_MAE, **changes), images=small)
        return fingerprint(directory)

    def test_a_pair_has_one(self, own, small, tmp_path):
        assert self.of(tmp_path, small, norm=DYT) == fingerprint(own[1])
        assert len(set(fingerprint(own[1])["batches"])) == 4

    @pytest.mark.parametrize("changes", [{"seed": 1}, {"crop_scale": (0.9, 1.0)}])
    def test_other_images_are_seen(self, own, small, tmp_path, changes):
        assert self.of(tmp_path, small, **changes)["batches"] != fingerprint(own[1])["batches"]

    def test_the_masks_are_part_of_it(self, own, small, tmp_path, monkeypatch):
        def other(config):
            return lambda batch: (batch[0], 1 - torch.rand(len(batch[0]), 16))

        monkeypatch.setattr(mae, "with_noise", other)
        found, usual = self.of(tmp_path, small), fingerprint(own[1])
        assert found["weights"] == usual["weights"]
        assert not set(found["batches"]) & set(usual["batches"])


def test_a_run_cut_in_the_middle_ends_bit_identical(own, small, tmp_path, monkeypatch):
    cut_and_resumed(monkeypatch, mae, tmp_path, TINY_MAE, own, images=small)


def test_it_learns_to_fill_in_what_is_hidden(tmp_path):
    config = replace(TINY_MAE, data="digits", batch=32, micro_batch=32, epochs=1, eval_batch=360)
    outcome, directory = run(mae.pretrain, tmp_path, config, images=None)
    losses = [line["loss"] for line in lines(directory) if "loss" in line]
    assert outcome.metrics["loss"] < 0.8 * losses[0]


class Brightness(MaskedAutoencoder):
    """Its loss is the mean of the images, whatever is hidden of them."""

    calls = 0

    def forward(self, images, noise):
        self.calls += 1
        _, prediction, mask = super().forward(images, noise)
        return images.mean(), prediction, mask


class TestEvaluation:
    def held_out(self, small):
        return images.load(TINY_MAE, small, train=None).held_out

    def reconstruction(self, small, directory, **where):
        return mae.Reconstruction(self.held_out(small), TINY_MAE, context(directory, **where), CPU)

    def test_every_held_out_image_counts_once_however_many_processes_share_them(
        self, small, tmp_path
    ):
        pixels = [image.mean().item() for image, _ in self.held_out(small)]
        model = Brightness(TINY_MAE)
        for world, counts in ((1, [10]), (3, [4, 3, 3]), (4, [3, 3, 2, 2])):
            found, calls = 0.0, set()
            for rank, count in enumerate(counts):
                model.calls = 0
                where = {"rank": rank, "world_size": world}
                share = self.reconstruction(small, tmp_path, **where)(model)["loss"]
                assert share == pytest.approx(np.mean(pixels[rank::world]), abs=1e-6)
                found += share * count
                calls.add(model.calls)
            assert found / 10 == pytest.approx(np.mean(pixels), abs=1e-6)
            assert len(calls) == 1

    def test_the_masks_are_the_same_at_every_evaluation(self, small, tmp_path):
        model, _ = mae.build(TINY_MAE)
        evaluate = self.reconstruction(small, tmp_path)
        reseed(1)
        first = evaluate(model)
        reseed(2)
        assert evaluate(model) == first


class TestPicture:
    def rows(self, directory):
        """Its images, (rows, columns, 96, 96, 3): each pixel of 16 × 16 is a square of six."""
        with Image.open(directory / "reconstructions.png") as picture:
            assert picture.format == "PNG"
            assert picture.size == (3 * 98 + 2, 3 * 98 + 2)  # three of the first batch, in a frame
            pixels = np.asarray(picture)
        places = [slice(2 + 98 * i, 98 + 98 * i) for i in range(3)]
        return np.stack([[pixels[row, column] for column in places] for row in places])

    def patches(self, picture):
        return [picture[y : y + 24, x : x + 24] for y in range(0, 96, 24) for x in range(0, 96, 24)]

    def test_it_has_what_is_shown_what_is_made_of_it_and_the_original(self, own, small):
        held_out = images.load(TINY_MAE, small, train=None).held_out
        for i, (shown, filled, original) in enumerate(self.rows(own[1])):
            exact = images.Pixels(TINY_MAE)(held_out[i][0]).permute(1, 2, 0).numpy() * 255
            assert np.abs(original[::6, ::6] - exact).max() <= 0.5001
            triples = zip(*map(self.patches, (shown, filled, original)), strict=True)
            seen = [(part, guess) for part, guess, true in triples if (part == true).all()]
            assert len(seen) == 4
            assert all((part == guess).all() for part, guess in seen)
            assert (filled != original).any()

    def test_hidden_patches_are_of_the_mean_colour(self, own):
        for shown, _, original in self.rows(own[1]):
            parts = zip(self.patches(shown), self.patches(original), strict=True)
            hidden = [part for part, true in parts if (part != true).any()]
            assert len(hidden) == 12
            assert all((part == [124, 116, 104]).all() for part in hidden)

    @pytest.mark.parametrize("norm_pix", [True, False])
    def test_of_a_perfect_prediction_the_original_is_made(self, norm_pix):
        model, _ = mae.build(replace(TINY_MAE, norm_pix=norm_pix))
        image, mask = torch.randn(2, 3, 16, 16), torch.ones(2, 16)
        rows = mae.reconstructions(model, image, model.target(image), mask)
        assert rows.shape == (2, 3, 3, 16, 16)
        assert not rows[:, 0].any()
        torch.testing.assert_close(rows[:, 1], image, rtol=1e-4, atol=1e-4)
        assert torch.equal(rows[:, 2], image)


def test_norm_is_all_that_the_arms_differ_in():
    own, paths = mae.build(replace(TINY_MAE, norm=OWN))
    dyt, same = mae.build(replace(TINY_MAE, norm=DYT))
    assert paths == same and {"norm", "decoder_norm"} < set(paths)
    ours = dyt.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in own.state_dict().items())
    assert ours["blocks.0.norm1.alpha"].tolist() == [0.5]
