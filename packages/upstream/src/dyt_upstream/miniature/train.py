"""Train a small Transformer to add digits modulo 10; a script of the kind that this package runs.

It has what makes such scripts hard to convert: a norm of its own, an EMA by deepcopy, weight decay
by name, an optional DDP, mixed precision, and its own log, checkpoints and --resume.
"""

import argparse
import copy
import json
import os
import sys

import torch
from torch import nn
from torch.nn import LayerNorm
from torch.nn.parallel import DistributedDataParallel


class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (x.float() * scale).to(x.dtype) * self.weight


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Adder(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.embedding = nn.Embedding(10, width)
        self.position = nn.Parameter(torch.zeros(1, 3, width))
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
        self.norm, self.head = LayerNorm(width), nn.Linear(width, 10)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.1)

    def forward(self, digits):
        x = self.blocks(self.embedding(digits) + self.position)
        return self.head(self.norm(x).mean(1))


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="per epoch")
    parser.add_argument("--batch-size", type=int, default=32, help="per process")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--output", default="output")
    parser.add_argument("--resume", default="")
    return parser.parse_args()


def main():
    args = parse()
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        torch.distributed.init_process_group("gloo")
    os.makedirs(args.output, exist_ok=True)
    torch.manual_seed(args.seed)
    model = Adder(args.width, args.depth)
    ema = copy.deepcopy(model)
    plain = {"norm", "norm1", "norm2", "bias", "position"}
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[not plain & set(name.split("."))].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": groups[True]}, {"params": groups[False], "weight_decay": 0.0}], lr=args.lr
    )
    first = 0
    if args.resume:
        state = torch.load(args.resume, map_location="cpu")
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
    network = DistributedDataParallel(model) if processes > 1 else model
    loss_function = nn.CrossEntropyLoss()
    for epoch in range(first, args.epochs):
        generator = torch.Generator().manual_seed(1000 * epoch + 10 * args.seed + rank)
        total = 0.0
        for _ in range(args.steps):
            digits = torch.randint(10, (args.batch_size, 3), generator=generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.amp):
                loss = loss_function(network(digits).float(), digits.sum(1) % 10)
            if not loss.isfinite():
                print(f"Loss is {loss.item()}, stopping training")
                sys.exit(1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for a, b in zip(ema.parameters(), model.parameters(), strict=True):
                a.data.lerp_(b.data, 0.05)
            total += loss.item()
        if rank == 0:
            with torch.no_grad():
                digits = torch.cartesian_prod(*[torch.arange(10)] * 3)
                correct = (ema(digits).argmax(1) == digits.sum(1) % 10).double().mean().item()
            line = {"epoch": epoch, "train_loss": total / args.steps, "test_acc": 100 * correct}
            with open(os.path.join(args.output, "log.txt"), "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
            state = {"model": model.state_dict(), "ema": ema.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "epoch": epoch}
            path = os.path.join(args.output, f"checkpoint-{epoch}.pth")
            torch.save(state, path + ".new")
            os.replace(path + ".new", path)
    if processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
