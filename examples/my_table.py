"""A table of your own: LN, DyT and Derf in a small Transformer on digits (docs/OWN-TABLES.md)."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from dyt import Norm, alphas, convert, param_groups, suggested_alpha0
from matched import Arm, Context, Metric, Outcome, Resources, Run, Scale, Table, TrainConfig
from matched.training import Learner, fit, process_group, reseed


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    norm: Norm
    width: int = 64


def train(context: Context, config: Config) -> Outcome:
    images, labels = map(torch.tensor, load_digits(return_X_y=True))
    images = images.float().view(-1, 8, 8) / 16  # 1,797 images, whose 8 rows are the tokens
    with process_group(context) as device:
        reseed(config.seed, "weights")  # all arms start from the same weights
        w, options = config.width, {"dropout": 0.0, "batch_first": True, "norm_first": True}
        blocks = [nn.TransformerEncoderLayer(w, 4, 2 * w, **options) for _ in range(2)]
        head = [nn.Flatten(), nn.LayerNorm(8 * w), nn.Linear(8 * w, 10)]
        model = nn.Sequential(nn.Linear(8, w), *blocks, *head).to(device)
        norms = convert(model, config.norm).paths
        groups = param_groups(model, weight_decay=config.weight_decay)
        held_out, answers = images[1400:].to(device), labels[1400:].to(device)
        learner = Learner(
            model=model,
            optimizer=torch.optim.AdamW(groups, config.lr, config.betas),
            dataset=TensorDataset(images[:1400], labels[:1400]),
            loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
            evaluate=lambda model: {
                "accuracy": 100 * (model(held_out).argmax(1) == answers).float().mean().item()
            },
            selection_metric=("accuracy", "higher"),
            norms=norms,
            alphas=alphas,
        )
        return fit(context, config, learner, device)


CONFIG = Config(norm=Norm.own(), epochs=5, batch=50, micro_batch=50, lr=3e-3)
ALPHA0 = suggested_alpha0(CONFIG.width)
NORMS = {"LN": Norm.own(), "DyT": Norm.dyt(alpha0=ALPHA0), "Derf": Norm.derf(alpha0=ALPHA0)}
SCALE = Scale(
    name="smoke",
    runs={"transformer": Run(task="my_table:train", config=CONFIG)},
    seeds=(0, 1),
    resources=Resources(minutes=1),
    metrics=(Metric(key="accuracy", label="accuracy", unit="%", direction="higher"),),
)
TABLE = Table(arms=tuple(Arm(name=n, norm=norm) for n, norm in NORMS.items()), scales=(SCALE,))
