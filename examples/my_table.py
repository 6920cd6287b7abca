"""A table of your own: LN, DyT and Derf in a small MLP on scikit-learn's digits.

    matched submit examples/my_table.py --wait

Copy this file, and change model, data and arms. See docs/OWN-TABLES.md.
"""

from dataclasses import dataclass

from dyt import Norm
from matched import Arm, Context, Metric, Outcome, Resources, Run, Scale, Table, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    norm: Norm = Norm.own()
    width: int = 64
    depth: int = 3


def train(context: Context, config: Config) -> Outcome:
    # Imported in the job only, so that `matched plan` and `matched status` answer at once.
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.utils.data import TensorDataset

    from dyt import convert
    from matched.training import Learner, fit, reseed
    from matched.training.distributed import process_group

    digits = load_digits()
    images, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    training, test = TensorDataset(images[:1400], labels[:1400]), (images[1400:], labels[1400:])
    with process_group(context) as device:
        reseed(config.seed, "weights")
        sizes = [64] + [config.width] * config.depth
        blocks = [
            nn.Sequential(nn.Linear(before, width), nn.LayerNorm(width), nn.GELU())
            for before, width in zip(sizes, sizes[1:], strict=False)
        ]
        model = nn.Sequential(*blocks, nn.Linear(config.width, 10)).to(device)
        norms = [] if config.norm == Norm.own() else convert(model, config.norm)

        def evaluate(model: nn.Module) -> dict[str, float]:
            inputs, targets = (tensor.to(device) for tensor in test)
            return {"accuracy": 100 * (model(inputs).argmax(1) == targets).float().mean().item()}

        return fit(context, config, Learner(...), device)
