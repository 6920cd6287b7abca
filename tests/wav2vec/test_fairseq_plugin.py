"""fairseq plugins: deterministic crops and masks, and the norm of the model."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch

from dyt import DynamicTanh, Norm
from dyt_wav2vec import fairseq_api, fairseq_config, fairseq_plugin, manifests
from dyt_wav2vec.fairseq_plugin import CroppedUtterances

from .problem import CONFIG, DYT, OWN, before_update, pretrained

SIZE = 100


class Utterances:
    """Stand-in for fairseq's data set of audio files; a batch is index → samples."""

    max_sample_size = SIZE

    def collater(self, samples):
        return {sample["id"]: sample["source"] for sample in samples}


def utterance(index, length=1000):
    return {"id": index, "source": torch.arange(length) + length * index}


def cropped(*samples, epoch=1, seed=3):
    dataset = CroppedUtterances(Utterances(), (seed,))
    dataset.set_epoch(epoch)
    return {index: crop.tolist() for index, crop in dataset.collater(list(samples)).items()}


class TestCrops:
    @pytest.fixture(autouse=True)
    def _set_epoch(self, monkeypatch):
        monkeypatch.setattr(Utterances, "set_epoch", lambda self, epoch: None, raising=False)

    def test_crop_has_max_sample_size(self):
        (crop,) = cropped(utterance(5)).values()
        assert crop == list(range(crop[0], crop[0] + SIZE))
        assert 5000 <= crop[0] <= 5900

    def test_crops_have_length_of_shortest_utterance(self):
        crops = cropped(utterance(1), utterance(2, length=40))
        assert [len(crop) for crop in crops.values()] == [40, 40]
        assert crops[2] == list(range(80, 120))

    def test_crops_do_not_depend_on_earlier_draws(self):
        once = cropped(utterance(1))
        np.random.seed(99)
        torch.manual_seed(99)
        assert cropped(utterance(1)) == once

    def test_crops_use_no_global_generator(self):
        before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        cropped(utterance(1), utterance(2))
        assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before

    def test_crop_does_not_depend_on_rest_of_batch(self):
        alone = cropped(utterance(1))[1]
        assert cropped(utterance(7), utterance(1), utterance(2))[1] == alone

    def test_crop_depends_on_epoch_utterance_and_seed(self):
        starts = [
            cropped(utterance(index), epoch=epoch, seed=seed)[index][0] - 1000 * index
            for index in range(4)
            for epoch in (1, 2, 3)
            for seed in (3, 4)
        ]
        assert len(set(starts)) > 20  # of 24

    def test_crop_start_is_uniform(self):
        starts = [cropped(utterance(i))[i][0] - 1000 * i for i in range(2000)]
        assert min(starts) < 10 and max(starts) > 890
        assert np.mean(starts) == pytest.approx(450, abs=20)


@contextmanager
def recording(crops):
    """Record the waveforms of every update as (utterance, samples)."""
    original = fairseq_plugin.Task.train_step

    def train_step(self, sample, *args, **options):
        source = sample["net_input"]["source"]
        for index, samples in zip(sample["id"].tolist(), source, strict=True):
            crops.append((index, samples.numpy().tobytes()))
        return original(self, sample, *args, **options)

    with mock.patch.object(fairseq_plugin.Task, "train_step", train_step):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_run_crops_differently_in_each_epoch(prepared, tmp_path, num_workers):
    crops = []
    with recording(crops):
        pretrained(
            tmp_path, prepared, replace(CONFIG, updates=9, epochs=3), num_workers=num_workers
        )
    epochs = [crops[start : start + 9] for start in range(0, 27, 9)]
    assert [sorted(index for index, _ in epoch) for epoch in epochs] == [list(range(9))] * 3
    assert len({samples for _, samples in crops}) == 27


class TestMasks:
    """Random numbers of the network, which ``Task.train_step`` seeds."""

    def drawn(self, update, ids, seed=3):
        task = fairseq_plugin.Task(SimpleNamespace(seed=seed))
        sample = {"id": torch.tensor(ids)}
        return task.train_step(sample, None, None, None, update)

    @pytest.fixture(autouse=True)
    def _draw(self, monkeypatch):
        def draw(*args, **options):
            return np.random.rand(), torch.rand(()).item()

        monkeypatch.setattr(fairseq_api.AudioPretrainingTask, "train_step", draw)

    def test_masks_depend_on_seed_update_and_utterances_only(self):
        first = self.drawn(5, [1, 2])
        torch.rand(3)
        assert self.drawn(5, [1, 2]) == first
        changed = [self.drawn(6, [1, 2]), self.drawn(5, [1, 3]), self.drawn(5, [1, 2], seed=4)]
        assert len({first, *changed}) == 4
        assert len({x for pair in [first, *changed] for x in pair}) == 8


def test_masks_do_not_depend_on_earlier_updates(prepared, uninterrupted, tmp_path):
    def draw(trainer, samples):
        np.random.seed(0)
        torch.manual_seed(0)

    with before_update(3, draw):
        run = pretrained(tmp_path, prepared)
    assert run.lines == uninterrupted.lines


@pytest.mark.parametrize("norm", [OWN, DYT, Norm.dyt(alpha0=0.3), Norm.dyt(alpha="absent")])
def test_model_plugin_uses_norm_of_config(norm):
    cfg = fairseq_config.merged_config(
        fairseq_config.training_overrides(replace(CONFIG, norm=norm))
    )
    model = fairseq_plugin.Model(cfg.model)
    converted = [path for path, module in model.named_modules() if type(module) is DynamicTanh]
    assert len(model.norms) == 6
    assert set(converted) == (set() if norm == OWN else set(model.norms))
    alphas = [getattr(model.get_submodule(path), "alpha", None) for path in converted]
    if norm.alpha == "absent":
        assert alphas == [None] * 6
    else:
        assert [alpha.item() for alpha in alphas] == pytest.approx([norm.alpha0] * len(converted))


def test_absent_alpha_is_not_logged(prepared, tmp_path):
    config = replace(CONFIG, norm=Norm.dyt(alpha="absent"), updates=2, warmup_updates=0)
    (line,) = pretrained(tmp_path, prepared, config).steps
    assert "alpha" not in line


class TestUndetectedDamage:
    """Damage in the middle of a file, which preparation does not detect and training reports."""

    def error_for(self, folder, path):
        manifest = manifests.from_folder(folder, seed=0)
        manifests.write(manifest, folder / "lists")
        lists = {"task": {"data": str(folder / "lists")}}
        cfg = fairseq_config.merged_config(fairseq_config.training_overrides(CONFIG), lists)
        task = fairseq_plugin.Task.setup_task(cfg.task)
        task.load_dataset("train")
        dataset = task.dataset("train")
        with pytest.raises(ValueError, match=path.name) as error:
            [dataset[i] for i in range(len(dataset))]
        return str(error.value)

    def test_unreadable_file_is_named(self, tmp_path, noise):
        paths = [noise(tmp_path / f"{i}.flac", 12_000) for i in range(4)]
        train = manifests.from_folder(tmp_path, seed=0).train
        path = next(path for path in paths if path.name in train)
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes(2000) + content[middle + 2000 :])
        assert f"{path} cannot be read: " in self.error_for(tmp_path, path)

    def test_file_with_nonfinite_samples_is_named(self, tmp_path):
        for i in range(4):
            samples = np.zeros(12_000, dtype=np.float32)
            samples[5000] = np.nan
            soundfile.write(tmp_path / f"{i}.wav", samples, 16_000, subtype="FLOAT")
        path = tmp_path / next(iter(manifests.from_folder(tmp_path, seed=0).train))
        assert self.error_for(tmp_path, path) == f"{path} has samples that are not finite"


def test_crops_start_anywhere_and_follow_from_seed_and_epoch():
    def starts(source, size, seed=0, index=5):
        crops = CroppedUtterances.__new__(CroppedUtterances)
        crops.crop_seed = (seed,)
        found = []
        for crops.epoch in range(1, 61):
            crop = crops._crop(index, torch.arange(source), size)
            assert crop.tolist() == list(range(crop[0], crop[0] + size))
            found.append(crop[0].item())
        return found

    assert set(starts(5, 3)) == {0, 1, 2}, "the last crop ends with the utterance"
    assert set(starts(3, 3)) == {0}
    assert starts(50, 3) == starts(50, 3)
    assert starts(50, 3) != starts(50, 3, seed=1)
    assert starts(50, 3) != starts(50, 3, index=6)
