"""Small networks and real data that ship with the machine, for the calibration benchmark.

- `vit`: a ViT with a class token on scikit-learn's digits (8 × 8 images, 16 patches)
- `convnext`: a ConvNeXt of four stages on the same digits
- `llama`: a LLaMA of transformers on the bytes of Python's manual (`pydoc_data.topics`)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pydoc_data.topics import topics

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A network, its data and its training.

    Fields:
        build: makes the network with norm layers, given its width.
        train, test: inputs and targets; tokens are their own targets.
        loss: the training loss of the network on a batch.
        score: the result on the test data: top-1 in % or the loss.
        higher_is_better: True for top-1.
        steps, batch_size, lr: the training, AdamW with a linear warm-up and a cosine.
    """

    build: Callable[[int], nn.Module]
    train: Batch
    test: Batch
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    score: Callable[[nn.Module, Tensor, Tensor], float]
    higher_is_better: bool
    steps: int
    batch_size: int
    lr: float


def build_vit(width: int) -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=10,
        embed_dim=width,
        depth=2,
        num_heads=width // 16,
        mlp_ratio=2,
    )


def build_convnext(width: int) -> nn.Module:
    return timm.models.ConvNeXt(
        in_chans=1,
        num_classes=10,
        depths=(1, 1, 1, 1),
        dims=(width // 4, width // 4, width // 2, width),
        patch_size=1,
        kernel_sizes=3,
        ls_init_value=None,
    )


def build_llama(width: int) -> nn.Module:
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=width // 16,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def digits() -> tuple[Batch, Batch]:
    """Return training and test digits, every fifth one for the test."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(data.target)
    test = torch.arange(len(labels)) % 5 == 0
    return (images[~test], labels[~test]), (images[test], labels[test])


def manual(length: int = 64) -> tuple[Batch, Batch]:
    """Return training and test windows of Python's manual; the last tenth is the test."""
    text = "\n".join(topics[name] for name in sorted(topics)).encode()
    tokens = torch.tensor(list(text[: len(text) // length * length])).view(-1, length)
    split = len(tokens) * 9 // 10
    train, test = tokens[:split], tokens[split:][:: max(1, (len(tokens) - split) // 128)]
    return (train, train), (test, test)


def class_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


@torch.no_grad()
def top1(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return 100 * (model(x).argmax(1) == y).float().mean().item()


def token_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    logits = model(x).logits[:, :-1]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y[:, 1:].reshape(-1))


@torch.no_grad()
def mean_loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return token_loss(model, x, y).item()


def make_tasks(steps: int) -> dict[str, Task]:
    """Return the tasks by name; the ViT, which learns slowest, trains for three times the steps."""
    train, test = digits()
    images = {
        "train": train,
        "test": test,
        "loss": class_loss,
        "score": top1,
        "higher_is_better": True,
        "steps": steps,
        "batch_size": 32,
        "lr": 3e-3,
    }
    text_train, text_test = manual()
    return {
        "vit": Task(build=build_vit, **{**images, "steps": 3 * steps}),
        "convnext": Task(build=build_convnext, **images),
        "llama": Task(
            build=build_llama,
            train=text_train,
            test=text_test,
            loss=token_loss,
            score=mean_loss,
            higher_is_better=False,
            steps=steps,
            batch_size=8,
            lr=1e-3,
        ),
    }


def train(model: nn.Module, task: Task, seed: int, steps: int | None = None) -> float:
    """Train the network and return its score on the test data."""
    steps = task.steps if steps is None else steps
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=task.lr, betas=(0.9, 0.95))
    warm_up = steps // 10 + 1
    model.train()
    for step, (x, y) in zip(range(steps), batches(task, seed), strict=False):
        factor = min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = task.lr * factor
        loss = task.loss(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    return task.score(model, *task.test)


def batches(task: Task, seed: int) -> Iterator[Batch]:
    """Yield training batches in an order that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    x, y = task.train
    while True:
        for indices in torch.randperm(len(x), generator=generator).split(task.batch_size):
            yield x[indices], y[indices]
