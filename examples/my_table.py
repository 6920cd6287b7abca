"""A table of your own: LN, DyT and Derf in a small Transformer on scikit-learn's digits.

Copy this file and change model, data, arms and seeds; docs/OWN-TABLES.md explains each part.

    matched submit examples/my_table.py --wait
    matched submit examples/my_table.py --wait --set lr=1e-3 --set width=128
"""

from dataclasses import dataclass

from dyt import Norm
from matched import Arm, Context, Metric, Outcome, Resources, Run, Scale, Table, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    norm: Norm
    width: int = 64
    depth: int = 2


def train(context: Context, config: Config) -> Outcome:
    # Imported here, so that `matched plan` and `matched status` do not wait for torch.
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.utils.data import TensorDataset

    from dyt import convert
    from matched.training import Learner, fit, reseed
    from matched.training.distributed import process_group

    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float().view(-1, 8, 8) / 16  # 1,797 images, whose 8 rows are the tokens
    with process_group(context) as device:
        reseed(config.seed, "weights")  # all arms start from the same weights
        width = config.width
        block = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        model = nn.Sequential(
            nn.Linear(8, width),
            nn.TransformerEncoder(block, config.depth, enable_nested_tensor=False),
            nn.Flatten(),
            nn.LayerNorm(8 * width),
            nn.Linear(8 * width, 10),
        )
        norms = convert(model, config.norm).paths
        model.to(device)

        def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return nn.functional.cross_entropy(model(batch[0]), batch[1])

        def evaluate(model: nn.Module) -> dict[str, float]:
            correct = model(images[1400:].to(device)).argmax(1).cpu() == labels[1400:]
            return {"accuracy": 100 * correct.float().mean().item()}

        learner = Learner(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), config.lr, config.betas),
            dataset=TensorDataset(images[:1400], labels[:1400]),
            loss=loss,
            evaluate=evaluate,
            selection_metric=("accuracy", "higher"),
            norms=norms,
        )
        return fit(context, config, learner, device)


CONFIG = Config(norm=Norm.own(), epochs=5, batch=50, micro_batch=50, lr=3e-3)
TABLE = Table(
    title="A small Transformer on digits",
    labels={"small": "Transformer, 2 blocks"},
    arms=(
        Arm(name="LN", norm=Norm.own()),
        Arm(name="DyT", norm=Norm.dyt(alpha0=1.0)),
        Arm(name="Derf", norm=Norm.derf(alpha0=1.0)),
    ),
    scales=(
        Scale(
            name="smoke",
            runs={"small": Run(task="my_table:train", config=CONFIG)},
            seeds=(0, 1),
            resources=Resources(minutes=1, runs_per_job=6),
            metrics=(Metric(key="accuracy", label="accuracy", unit="%", direction="higher"),),
        ),
    ),
)
