"""fairseq's classes and functions that this package uses, imported after `fairseq_compat.load`."""

from dyt_wav2vec import fairseq_compat

fairseq_compat.load()

from fairseq import tasks  # noqa: E402
from fairseq.data import BaseWrapperDataset, Dictionary  # noqa: E402
from fairseq.data.iterators import EpochBatchIterator, GroupedIterator  # noqa: E402
from fairseq.dataclass.configs import FairseqConfig  # noqa: E402
from fairseq.dataclass.initialize import add_defaults  # noqa: E402
from fairseq.logging import metrics  # noqa: E402
from fairseq.models import register_model  # noqa: E402
from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model  # noqa: E402
from fairseq.tasks import register_task  # noqa: E402
from fairseq.tasks.audio_pretraining import (  # noqa: E402
    AudioPretrainingConfig,
    AudioPretrainingTask,
)
from fairseq.trainer import Trainer  # noqa: E402

__all__ = [
    "AudioPretrainingConfig",
    "AudioPretrainingTask",
    "BaseWrapperDataset",
    "Dictionary",
    "EpochBatchIterator",
    "FairseqConfig",
    "GroupedIterator",
    "Trainer",
    "Wav2Vec2Config",
    "Wav2Vec2Model",
    "add_defaults",
    "metrics",
    "register_model",
    "register_task",
    "tasks",
]
