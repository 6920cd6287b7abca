"""What fairseq knows of us: a model with the norm that is asked for, and a task without chance.

Registered as ``dyt_wav2vec2`` and ``dyt_audio_pretraining`` when this is imported. The task differs
from fairseq's ``audio_pretraining`` in where its random numbers come from alone. There, crops and
masks follow from how many numbers were drawn before, and by whom: a run that is resumed, or whose
data is loaded by another number of processes, is another run. Here

- the crop of an utterance follows from (seed, epoch, utterance);
- masks, distractors, Gumbel noise, dropout and dropped layers of a micro-batch follow from (seed,
  update, utterances in it).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from omegaconf import II
from torch import Tensor

from dyt import Norm
from dyt_wav2vec import upstream
from dyt_wav2vec.model import replace_norms
from matched.training.seeding import derive_seed, reseed

MODEL, TASK = "dyt_wav2vec2", "dyt_audio_pretraining"


@dataclass
class Config(upstream.Wav2Vec2Config):
    """fairseq's, and the norm."""

    norm: str = field(
        default="", metadata={"help": "fields of dyt.Norm as JSON; empty for fairseq's own norms"}
    )


def as_text(norm: Norm) -> str:
    """The norm as ``Config`` takes it."""
    return "" if norm == Norm.own() else json.dumps(asdict(norm))


@upstream.register_model(MODEL, dataclass=Config)
class Model(upstream.Wav2Vec2Model):
    """wav2vec 2.0 whose Transformer norms, and the one of the features, are those of the config.

    Attributes:
        norms: paths of these.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.norms = replace_norms(self, Norm(**json.loads(cfg.norm)) if cfg.norm else Norm.own())


@dataclass
class TaskConfig(upstream.AudioPretrainingConfig):
    """fairseq's, and what decides the random numbers."""

    seed: int = II("common.seed")
    # A loading process that lives on would go on cropping as in the epoch that it was begun in.
    reuse_dataloader: bool = False


@upstream.register_task(TASK, dataclass=TaskConfig)
class Task(upstream.AudioPretrainingTask):
    """``audio_pretraining`` whose random numbers do not depend on what was drawn before."""

    def load_dataset(self, split: str, task_cfg: Any = None, **kwargs: Any) -> None:
        super().load_dataset(split, task_cfg, **kwargs)
        # Validation is the same for all runs, whatever their seed.
        place = (self.cfg.seed,) if split == "train" else ("evaluation",)
        self.datasets[split] = Cropped(self.datasets[split], place)

    def train_step(
        self, sample: dict, model: Any, criterion: Any, optimizer: Any, update_num: int, **more: Any
    ) -> tuple:
        reseed(self.cfg.seed, "update", update_num, *sample["id"].tolist())
        return super().train_step(sample, model, criterion, optimizer, update_num, **more)


class Cropped(upstream.BaseWrapperDataset):
    """Utterances, each cropped at a place that follows from the epoch and the utterance.

    Args:
        dataset: fairseq's, of audio files.
        place: the rest of what the crops follow from.
    """

    def __init__(self, dataset: Any, place: tuple[int | str, ...]) -> None:
        super().__init__(dataset)
        self.place = place
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict:
        """
        Raises:
            ValueError: naming the file, if it is damaged where preparation has not looked.
        """
        try:
            sample = super().__getitem__(index)
        except (OSError, RuntimeError) as error:  # libsndfile's is one of the latter
            raise ValueError(f"{self._path(index)} cannot be read: {error}") from error
        if not sample["source"].isfinite().all():
            raise ValueError(f"{self._path(index)} has samples that are no finite numbers")
        return sample

    def _path(self, index: int) -> str:
        files = self.dataset
        name = files.fnames[index]
        name = name if isinstance(files.fnames, list) else name.as_py()  # of pyarrow, if installed
        return f"{files.root_dir}/{files.text_compressor.decompress(name)}"

    def collater(self, samples: list[dict]) -> dict:
        """A micro-batch; all utterances are as long as the shortest, or as the config allows."""
        if not samples:  # at the end of an epoch, where there is none left for this process
            return super().collater(samples)
        shortest = min(len(sample["source"]) for sample in samples)
        size = min(shortest, self.dataset.max_sample_size)
        cropped = [{**s, "source": self._crop(s["id"], s["source"], size)} for s in samples]
        return super().collater(cropped)

    def _crop(self, index: int, source: Tensor, size: int) -> Tensor:
        source_of_numbers = np.random.default_rng(
            derive_seed(*self.place, "crop", self.epoch, index)
        )
        start = source_of_numbers.integers(len(source) - size + 1)
        return source[start : start + size]
