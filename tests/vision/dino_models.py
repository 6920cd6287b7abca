"""A DINO model with distinct student, teacher and center, and random crops for it."""

from dataclasses import replace

import torch

from dyt_vision.dino import build

from .tiny import TINY_DINO

NO_DROP_PATH = replace(TINY_DINO, drop_path=0.0)


def distillation(config=NO_DROP_PATH, seed=5):
    """Return a model in training mode whose student, teacher and center all differ."""
    model, _ = build(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.student.parameters(), *model.teacher.parameters(), model.center):
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model.train()


def crops(images=3, seed=1, local=2):
    source = torch.Generator().manual_seed(seed)
    sizes = [16, 16] + [8] * local
    return [torch.randn(images, 3, size, size, generator=source) for size in sizes]


def output(network, crop):
    return network.head(network.backbone(crop)).detach().double().numpy()
