"""DINO's evaluation: a k-NN classifier on the teacher's features, and attention maps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset

from dyt_vision import pictures
from dyt_vision.config import DINO
from dyt_vision.dino_model import Backbone
from dyt_vision.dino_teacher import SelfDistillation
from dyt_vision.image_data import ImageSplits
from dyt_vision.transforms import Denormalize, evaluation_transform
from matched.task import Context
from matched.training import all_gather_objects, reseed, sum_over_ranks
from matched.training.evaluation import RankSubset
from matched.training.seeding import generator

PICTURE = "attention.png"
PICTURE_IMAGES = 6
"""Number of held-out images in the picture."""
VOTE_TEMPERATURE = 0.07
"""Temperature of the k-NN votes (Caron et al. 2021, Section 4.1, after Wu et al. 2018)."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Unit feature vectors (N, C), labels (N,), and the first few images themselves."""

    vectors: Tensor
    labels: Tensor
    images: Tensor


class KNNEvaluation:
    """Weighted k-NN accuracy of the teacher's class tokens, and a picture of its attention."""

    def __init__(
        self, data: ImageSplits, config: DINO, context: Context, device: torch.device
    ) -> None:
        self.config, self.context, self.device = config, context, device
        self.classes = data.classes
        self.bank = RankSubset(feature_bank(data.train, config), config.eval_batch, context, device)
        self.held_out = RankSubset(data.held_out, config.eval_batch, context, device)

    def __call__(self, model: SelfDistillation) -> dict[str, float]:
        reseed(self.config.seed, "evaluation")
        backbone = model.teacher.backbone
        bank = self._features(backbone, self.bank)
        gathered = all_gather_objects([bank.vectors.cpu(), bank.labels.cpu()])
        bank_vectors, bank_labels = (
            torch.cat(parts).to(self.device) for parts in zip(*gathered, strict=True)
        )
        held_out = self._features(backbone, self.held_out)
        correct = sum(
            (self._predict(vectors, bank_vectors, bank_labels) == labels).sum()
            for vectors, labels in zip(
                held_out.vectors.split(1024), held_out.labels.split(1024), strict=True
            )
        )
        counts = torch.stack(
            [torch.as_tensor(correct), torch.tensor(len(held_out.labels)).to(correct)]
        )
        correct, total = sum_over_ranks(counts.double().to(self.device)).tolist()
        self._save_picture(backbone, held_out.images)
        return {"knn": 100 * correct / total}

    def _features(self, backbone: Backbone, subset: RankSubset) -> Features:
        """Return the backbone's features of this process's images."""
        vectors, labels, first_images = [], [], None
        for image, label in subset.loader:
            image = image.to(self.device)
            first_images = image[:PICTURE_IMAGES] if first_images is None else first_images
            vectors.append(F.normalize(backbone(image).float(), dim=-1))
            labels.append(label.to(self.device))
        assert first_images is not None, "a subset has at least one image"
        counted = slice(subset.count)
        return Features(
            vectors=torch.cat(vectors)[counted],
            labels=torch.cat(labels)[counted],
            images=first_images,
        )

    def _predict(self, vectors: Tensor, bank_vectors: Tensor, bank_labels: Tensor) -> Tensor:
        """Return the predicted classes (N,) of feature vectors (N, C)."""
        # In full precision: the similarities of neighbours differ by little.
        with torch.autocast(vectors.device.type, enabled=False):
            similarity = vectors @ bank_vectors.T
        nearest = similarity.topk(min(self.config.neighbours, len(bank_labels)))
        votes = torch.zeros(len(vectors), self.classes, device=vectors.device)
        weights = (nearest.values / VOTE_TEMPERATURE).exp().to(votes)
        votes.scatter_add_(1, bank_labels[nearest.indices], weights)
        return votes.argmax(dim=1)

    def _save_picture(self, backbone: Backbone, images: Tensor) -> None:
        maps = backbone.last_attention(images)
        pixels = Denormalize(self.config)(images)
        pictures.save(self.context, PICTURE, attention_rows(pixels, maps))


def attention_rows(pixels: Tensor, maps: Tensor) -> Tensor:
    """Return rows of (image, mean attention, attention of each head), (B, 2 + heads, 3, H, W).

    Args:
        pixels: (B, 3, H, W) with values from 0 to 1.
        maps: attention to the patches, (B, heads, h, w).
    """
    maps = torch.cat([maps.mean(dim=1, keepdim=True), maps], dim=1).float()
    maps = maps / maps.amax(dim=(-2, -1), keepdim=True)
    maps = F.interpolate(maps, size=pixels.shape[-2:], mode="nearest")
    return torch.cat([pixels[:, None], repeat(maps, "b n h w -> b n rgb h w", rgb=3)], dim=1)


def feature_bank(dataset: Any, config: DINO) -> Dataset[Any]:
    """Return the first ``config.bank`` images of the shuffled training set, not augmented."""
    plain = copy.copy(dataset)
    plain.transform = evaluation_transform(config)
    order = torch.randperm(len(plain), generator=generator(config.seed, "bank"))
    return Subset(plain, order[: config.bank].tolist())
