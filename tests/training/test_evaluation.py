"""Held-out samples: divided over processes without loss, and the same every time."""

from pathlib import Path

import pytest
import torch

from matched.task import Context
from matched.training import evaluation
from matched.training.evaluation import FixedSamples, RankSubset
from matched.training.seeding import reseed


def subset(total, batch, rank, world_size):
    context = Context(directory=Path(), signature="", rank=rank, world_size=world_size)
    return RankSubset(list(range(total)), batch, context, torch.device("cpu"))


@pytest.mark.parametrize("total, processes", [(7, 1), (7, 2), (8, 3), (2, 3)])
def test_rank_subset_covers_every_sample_once(total, processes):
    subsets = [subset(total, 2, rank, processes) for rank in range(processes)]
    counted = [i for s in subsets for i in s.indices[: s.count]]
    assert sorted(counted) == list(range(total))
    assert len({len(s.loader) for s in subsets}) == 1
    assert len({len(s.indices) for s in subsets}) == 1


@pytest.mark.parametrize(("num_workers", "start"), [(0, None), (2, "fork")])
def test_rank_subset_loads_as_the_training_does(monkeypatch, num_workers, start):
    loaders = []

    def loader(dataset, batch, **options):
        loaders.append((dataset.indices, batch, options))

    monkeypatch.setattr(evaluation, "DataLoader", loader)
    context = Context(directory=Path(), signature="", rank=1, world_size=2, num_workers=num_workers)
    for device in ("cpu", "cuda"):
        RankSubset(list("abcde"), 3, context, torch.device(device))
    options = {"num_workers": num_workers, "multiprocessing_context": start}
    assert loaders == [
        ([1, 3, 0], 3, options | {"pin_memory": False}),
        ([1, 3, 0], 3, options | {"pin_memory": True}),
    ]


class Noise:
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index, torch.rand(()).item()


def test_fixed_samples_are_the_same_in_any_order():
    fixed = FixedSamples(Noise(), seed=1)
    first = [fixed[i] for i in range(3)]
    torch.rand(5)
    assert [fixed[i] for i in (2, 0, 1)] == [first[2], first[0], first[1]]
    assert len({value for _, value in first}) == 3 and len(fixed) == 3
    assert FixedSamples(Noise(), seed=2)[0] != first[0]
    reseed(1, "evaluation", 2)
    assert Noise()[2] == first[2], "not the numbers of a training sample"
