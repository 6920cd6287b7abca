"""fairseq plugins: a model with a configurable norm and a deterministically seeded task.

Importing this module registers them as ``dyt_wav2vec2`` and ``dyt_audio_pretraining``. The task
differs from fairseq's ``audio_pretraining`` only in its random numbers. In fairseq, crops and masks
depend on how many numbers were drawn before and in which process, so resuming a run or changing the
number of loading processes changes its result. Here

- the crop of an utterance depends on (seed, epoch, utterance);
- masks, distractors, Gumbel noise, dropout and dropped layers of a micro-batch depend on (seed,
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
from dyt_wav2vec import fairseq_api
from dyt_wav2vec.model import replace_norms
from matched.training.seeding import derive_seed, reseed

MODEL, TASK = "dyt_wav2vec2", "dyt_audio_pretraining"


@dataclass
class Config(fairseq_api.Wav2Vec2Config):
    """fairseq's model config plus the norm."""

    norm: str = field(
        default="", metadata={"help": "fields of dyt.Norm as JSON; empty for fairseq's own norms"}
    )


def norm_to_json(norm: Norm) -> str:
    """Return the norm in the form of ``Config.norm``."""
    return "" if norm == Norm.own() else json.dumps(asdict(norm))


@fairseq_api.register_model(MODEL, dataclass=Config)
class Model(fairseq_api.Wav2Vec2Model):
    """wav2vec 2.0 with the config's norm in the Transformer and on the features.

    Attributes:
        norms: paths of these norm layers.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.norms = replace_norms(self, Norm(**json.loads(cfg.norm)) if cfg.norm else Norm.own())


@dataclass
class TaskConfig(fairseq_api.AudioPretrainingConfig):
    """fairseq's task config plus the seed of the random numbers."""

    seed: int = II("common.seed")
    # A reused loading process would keep the crops of the epoch in which it was started.
    reuse_dataloader: bool = False


@fairseq_api.register_task(TASK, dataclass=TaskConfig)
class Task(fairseq_api.AudioPretrainingTask):
    """``audio_pretraining`` whose random numbers do not depend on earlier draws."""

    def load_dataset(self, split: str, task_cfg: Any = None, **kwargs: Any) -> None:
        super().load_dataset(split, task_cfg, **kwargs)
        # Validation crops do not depend on the run's seed.
        crop_seed = (self.cfg.seed,) if split == "train" else ("evaluation",)
        self.datasets[split] = CroppedUtterances(self.datasets[split], crop_seed)

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        **more: Any,
    ) -> tuple[Any, ...]:
        reseed(self.cfg.seed, "update", update_num, *sample["id"].tolist())
        return super().train_step(sample, model, criterion, optimizer, update_num, **more)


class CroppedUtterances(fairseq_api.BaseWrapperDataset):
    """Utterances whose crop depends on a seed, the epoch and the utterance alone.

    Args:
        dataset: fairseq's data set of audio files.
        crop_seed: values that the crops depend on, in addition to epoch and utterance.
    """

    def __init__(self, dataset: Any, crop_seed: tuple[int | str, ...]) -> None:
        super().__init__(dataset)
        self.crop_seed = crop_seed
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an utterance.

        Raises:
            ValueError: naming the file, if it has damage that preparation does not detect.
        """
        try:
            sample = super().__getitem__(index)
        except (OSError, RuntimeError) as error:  # LibsndfileError is a RuntimeError
            raise ValueError(f"{self._path(index)} cannot be read: {error}") from error
        if not sample["source"].isfinite().all():
            raise ValueError(f"{self._path(index)} has samples that are not finite")
        return sample

    def _path(self, index: int) -> str:
        dataset = self.dataset
        name = dataset.fnames[index]
        if not isinstance(dataset.fnames, list):  # a pyarrow array, if pyarrow is installed
            name = name.as_py()
        return f"{dataset.root_dir}/{dataset.text_compressor.decompress(name)}"

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate a micro-batch, cropped to its shortest utterance or to ``max_sample_size``."""
        if not samples:  # at the end of an epoch, when none is left for this process
            return super().collater(samples)
        shortest = min(len(sample["source"]) for sample in samples)
        size = min(shortest, self.dataset.max_sample_size)
        cropped = [{**s, "source": self._crop(s["id"], s["source"], size)} for s in samples]
        return super().collater(cropped)

    def _crop(self, index: int, source: Tensor, size: int) -> Tensor:
        generator = np.random.default_rng(derive_seed(*self.crop_seed, "crop", self.epoch, index))
        start = generator.integers(len(source) - size + 1)
        return source[start : start + size]
