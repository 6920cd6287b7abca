"""Crops and masks: functions of where in a run they are drawn, and of nothing else."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch

from dyt import DynamicTanh, Norm
from dyt_wav2vec import fairseq_config, manifests, registration, upstream
from dyt_wav2vec.registration import Cropped

from .problem import CONFIG, DYT, OWN, before_update, pretrained

SIZE = 100


class Utterances:
    """As fairseq's data set of audio files: (index, samples), of which a batch keeps all."""

    max_sample_size = SIZE

    def collater(self, samples):
        return {sample["id"]: sample["source"] for sample in samples}


def utterance(index, length=1000):
    return {"id": index, "source": torch.arange(length) + length * index}


def cropped(*samples, epoch=1, seed=3):
    dataset = Cropped(Utterances(), (seed,))
    dataset.set_epoch(epoch)
    return {index: crop.tolist() for index, crop in dataset.collater(list(samples)).items()}


class TestCrops:
    @pytest.fixture(autouse=True)
    def _set_epoch(self, monkeypatch):
        monkeypatch.setattr(Utterances, "set_epoch", lambda self, epoch: None, raising=False)

    def test_they_are_pieces_of_the_utterance_as_long_as_allowed(self):
        (crop,) = cropped(utterance(5)).values()
        assert crop == list(range(crop[0], crop[0] + SIZE))
        assert 5000 <= crop[0] <= 5900

    def test_all_are_as_long_as_the_shortest(self):
        crops = cropped(utterance(1), utterance(2, length=40))
        assert [len(crop) for crop in crops.values()] == [40, 40]
        assert crops[2] == list(range(80, 120))

    def test_they_do_not_depend_on_what_was_drawn_before(self):
        once = cropped(utterance(1))
        np.random.seed(99)
        torch.manual_seed(99)
        assert cropped(utterance(1)) == once

    def test_they_draw_from_no_global_generator(self):
        before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        cropped(utterance(1), utterance(2))
        assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before

    def test_they_do_not_depend_on_who_else_is_in_the_batch(self):
        alone = cropped(utterance(1))[1]
        assert cropped(utterance(7), utterance(1), utterance(2))[1] == alone

    def test_they_are_others_in_each_epoch_for_each_utterance_and_seed(self):
        starts = [
            cropped(utterance(index), epoch=epoch, seed=seed)[index][0] - 1000 * index
            for index in range(4)
            for epoch in (1, 2, 3)
            for seed in (3, 4)
        ]
        assert len(set(starts)) > 20  # of 24

    def test_every_place_is_as_likely(self):
        starts = [cropped(utterance(i))[i][0] - 1000 * i for i in range(2000)]
        assert min(starts) < 10 and max(starts) > 890
        assert np.mean(starts) == pytest.approx(450, abs=20)


@contextmanager
def seeing(seen):
    """Note the waveforms of every update: update → utterance → samples."""
    with mock.patch.object(registration.Task, "train_step", noting(seen)):
        yield


def noting(seen):
    step = registration.Task.train_step

    def stepped(self, sample, *rest, **more):
        source = sample["net_input"]["source"]
        for index, samples in zip(sample["id"].tolist(), source, strict=True):
            seen.append((index, samples.numpy().tobytes()))
        return step(self, sample, *rest, **more)

    return stepped


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_run_crops_otherwise_in_each_epoch_also_in_loading_processes(
    prepared, tmp_path, num_workers
):
    seen = []
    with seeing(seen):
        pretrained(
            tmp_path, prepared, replace(CONFIG, updates=9, epochs=3), num_workers=num_workers
        )
    epochs = [seen[start : start + 9] for start in range(0, 27, 9)]
    assert [sorted(index for index, _ in epoch) for epoch in epochs] == [list(range(9))] * 3
    assert len({samples for _, samples in seen}) == 27


class TestMasks:
    """The network's own random numbers, which ``Task.train_step`` seeds."""

    def drawn(self, update, ids, seed=3):
        task = registration.Task(SimpleNamespace(seed=seed))
        sample = {"id": torch.tensor(ids)}
        return task.train_step(sample, None, None, None, update)

    @pytest.fixture(autouse=True)
    def _draw(self, monkeypatch):
        def draw(*given, **more):
            return np.random.rand(), torch.rand(()).item()

        monkeypatch.setattr(upstream.AudioPretrainingTask, "train_step", draw)

    def test_they_follow_from_seed_update_and_utterances_alone(self):
        once = self.drawn(5, [1, 2])
        torch.rand(3)
        assert self.drawn(5, [1, 2]) == once
        others = [self.drawn(6, [1, 2]), self.drawn(5, [1, 3]), self.drawn(5, [1, 2], seed=4)]
        assert len({once, *others}) == 4
        assert len({x for pair in [once, *others] for x in pair}) == 8


def test_masks_of_an_update_do_not_depend_on_those_before(prepared, undisturbed, tmp_path):
    def draw(trainer, samples):
        np.random.seed(0)
        torch.manual_seed(0)

    with before_update(3, draw):
        run = pretrained(tmp_path, prepared)
    assert run.lines == undisturbed.lines


@pytest.mark.parametrize("norm", [OWN, DYT, Norm.dyt(alpha0=0.3), Norm.dyt(alpha="absent")])
def test_the_model_that_fairseq_builds_has_the_norm_of_the_config(norm):
    cfg = fairseq_config.whole(fairseq_config.settings(replace(CONFIG, norm=norm)))
    model = registration.Model(cfg.model)
    converted = [path for path, module in model.named_modules() if type(module) is DynamicTanh]
    assert len(model.norms) == 6
    assert set(converted) == (set() if norm == OWN else set(model.norms))
    alphas = [getattr(model.get_submodule(path), "alpha", None) for path in converted]
    if norm.alpha == "absent":
        assert alphas == [None] * 6
    else:
        assert [alpha.item() for alpha in alphas] == pytest.approx([norm.alpha0] * len(converted))


def test_an_alpha_that_is_absent_is_not_told_of(prepared, tmp_path):
    config = replace(CONFIG, norm=Norm.dyt(alpha="absent"), updates=2, warmup_updates=0)
    (line,) = pretrained(tmp_path, prepared, config).steps
    assert "alpha" not in line


class TestDamageThatPreparationDoesNotSee:
    """It reads the last sample of each file; what is in the middle shows in training."""

    def said(self, folder, path):
        manifest = manifests.of_folder(folder, seed=0)
        manifests.write(manifest, folder / "lists")
        lists = {"task": {"data": str(folder / "lists")}}
        cfg = fairseq_config.whole(fairseq_config.settings(CONFIG), lists)
        task = registration.Task.setup_task(cfg.task)
        task.load_dataset("train")
        dataset = task.dataset("train")
        with pytest.raises(ValueError, match=path.name) as error:
            [dataset[i] for i in range(len(dataset))]
        return str(error.value)

    def test_a_file_is_named_that_cannot_be_read(self, tmp_path, noise):
        paths = [noise(tmp_path / f"{i}.flac", 12_000) for i in range(4)]
        train = manifests.of_folder(tmp_path, seed=0).train
        path = next(path for path in paths if path.name in train)
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes(2000) + content[middle + 2000 :])
        assert f"{path} cannot be read: " in self.said(tmp_path, path)

    def test_a_file_is_named_whose_samples_are_no_numbers(self, tmp_path):
        for i in range(4):
            samples = np.zeros(12_000, dtype=np.float32)
            samples[5000] = np.nan
            soundfile.write(tmp_path / f"{i}.wav", samples, 16_000, subtype="FLOAT")
        path = tmp_path / next(iter(manifests.of_folder(tmp_path, seed=0).train))
        assert self.said(tmp_path, path) == f"{path} has samples that are no finite numbers"
