"""Batches: samples of each step and their augmentation, determined by the seed alone."""

import itertools
import tracemalloc
from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset

from matched.training import batches
from matched.training.batches import (
    BatchLayout,
    EpochSampler,
    make_loader,
    seeded_batch,
    to_device,
)
from matched.training.order import FeistelPermutation

from .problem import CONFIG, Points

DIVISIONS = [(1, 8), (1, 4), (1, 2), (2, 4), (2, 2), (4, 2), (4, 1), (8, 1)]


def sampler(config=CONFIG, samples=26, rank=0, world_size=1, start=0):
    return EpochSampler(config, samples, BatchLayout.of(config, rank, world_size), start)


def concatenated(lists):
    return list(itertools.chain.from_iterable(lists))


def steps(config, world_size, samples=26):
    """For every step, the (epoch, index) keys of all processes together."""
    keys = []
    for rank in range(world_size):
        micro_batches = list(sampler(config, samples, rank, world_size))
        each = BatchLayout.of(config, rank, world_size).accumulation
        starts = range(0, len(micro_batches), each)
        keys.append([concatenated(micro_batches[i : i + each]) for i in starts])
    return [concatenated(shares) for shares in zip(*keys, strict=True)]


def test_epoch_drops_only_the_incomplete_last_batch():
    taken = steps(CONFIG, world_size=1)
    assert [len(step) for step in taken] == [8] * 12
    for epoch in range(4):
        keys = concatenated(taken[3 * epoch : 3 * epoch + 3])
        assert {e for e, _ in keys} == {epoch}
        assert len({i for _, i in keys} & set(range(26))) == 24


def test_epoch_without_a_remainder_is_a_permutation():
    for epoch in (0, 1):
        keys = concatenated(steps(CONFIG, world_size=1, samples=24)[3 * epoch : 3 * epoch + 3])
        assert sorted(i for _, i in keys) == list(range(24))


def test_order_differs_between_epochs_and_seeds():
    def orders(seed):
        taken = steps(replace(CONFIG, seed=seed), world_size=1)
        return [tuple(i for _, i in concatenated(taken[n : n + 3])) for n in range(0, 12, 3)]

    assert len({*orders(3), *orders(4)}) == 8
    assert orders(3) == orders(3)


@pytest.mark.parametrize("world, micro_batch", DIVISIONS)
def test_step_has_the_same_samples_however_it_is_divided(world, micro_batch):
    config = replace(CONFIG, micro_batch=micro_batch)
    assert steps(config, world) == steps(replace(CONFIG, micro_batch=8), world_size=1)
    micro_batches = list(sampler(config, world_size=world))
    assert {len(keys) for keys in micro_batches} == {micro_batch}
    assert len(micro_batches) == len(sampler(config, world_size=world))


@pytest.mark.parametrize("start", [0, 1, 3, 5, 11, 12])
def test_sampler_from_a_later_step_continues_the_same_order(start):
    assert list(sampler(start=start)) == list(sampler())[2 * start :]
    assert len(sampler(start=start)) == len(list(sampler(start=start)))


@pytest.mark.parametrize("batch, micro_batch, world", [(10, 4, 1), (8, 8, 3), (2, 1, 4)])
def test_batch_layout_refuses_a_batch_that_does_not_divide(batch, micro_batch, world):
    config = replace(CONFIG, batch=batch, micro_batch=micro_batch)
    with pytest.raises(ValueError, match=f"a batch of {batch} does not divide evenly over {world}"):
        BatchLayout.of(config, 0, world)


def test_micro_batches_are_equal_and_as_large_as_allowed():
    config = replace(CONFIG, batch=12, micro_batch=4)
    assert BatchLayout.of(config, 0, 2).accumulation == 2
    assert {len(keys) for keys in sampler(config, world_size=2)} == {3}


def in_steps(steps, **changes):
    return replace(CONFIG, epochs=None, steps=steps, warmup_epochs=0, **changes)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 10, 12])
def test_steps_take_the_same_samples_as_epochs(length):
    expected = list(sampler(replace(CONFIG, epochs=4)))[: 2 * length]
    assert list(sampler(in_steps(length))) == expected
    assert len(sampler(in_steps(length))) == 2 * length
    assert list(sampler(in_steps(length), start=1)) == expected[2:]


def test_sampler_draws_only_the_part_of_an_epoch_it_needs(monkeypatch):
    asked = []
    permute = FeistelPermutation.__call__
    monkeypatch.setattr(
        FeistelPermutation,
        "__call__",
        lambda self, numbers: asked.append(len(numbers)) or permute(self, numbers),
    )
    tracemalloc.start()
    keys = concatenated(sampler(in_steps(10), samples=48_828_125, start=3))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert asked == [8] * 7 and len(set(keys)) == 56
    assert peak < 2**20


class Augmented(Dataset):
    """The augmented points with their index: x (6,), index."""

    def __init__(self):
        self.points = Points()

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return self.points[index][0], index


def augmented(config=CONFIG, *, num_workers=0, **place):
    """(epoch, index) → the augmented sample."""
    batch_sampler = sampler(config, **place)
    keys = concatenated(batch_sampler)
    batches = make_loader(Augmented(), batch_sampler, num_workers=num_workers, pin=False)
    samples = [sample for x, _ in batches for sample in x]
    indices = [int(i) for _, index in batches for i in index]
    assert indices == [index for _, index in keys]
    return dict(zip(keys, samples, strict=True))


@pytest.mark.parametrize(
    "other",
    [
        {"num_workers": 2},
        {"start": 5},
        {"rank": 1, "world_size": 2},
        {"config": replace(CONFIG, micro_batch=1)},
        {"config": replace(CONFIG, batch=13, micro_batch=13)},
    ],
    ids=["other processes", "resumed", "two ranks", "micro-batches", "another batch size"],
)
def test_augmentation_follows_from_seed_epoch_and_index(other):
    one, two = augmented(), augmented(**other)
    common = one.keys() & two.keys()
    assert len(common) > 20
    assert all(torch.equal(one[key], two[key]) for key in common)


def test_augmentation_differs_between_epochs_and_seeds():
    one, other = augmented(), augmented(replace(CONFIG, seed=4))
    assert not any(torch.equal(one[key], other[key]) for key in one.keys() & other.keys())
    again = [(key, (key[0] + 1, key[1])) for key in one if (key[0] + 1, key[1]) in one]
    assert len(again) > 20
    assert not any(torch.equal(one[a], one[b]) for a, b in again)


def test_seeded_batch_depends_on_seed_and_purpose_alone():
    dataset = Augmented()
    x, indices = seeded_batch(dataset, 5, 0, "calibration")
    assert x.shape == (5, 6)
    torch.rand(3)
    again = seeded_batch(dataset, 5, 0, "calibration")
    assert torch.equal(x, again[0])
    assert torch.equal(indices, again[1])
    for seed, purpose in ((1, "calibration"), (0, "other")):
        assert not torch.equal(indices, seeded_batch(dataset, 5, seed, purpose)[1])
    every = [seeded_batch(dataset, 10**6, seed, "calibration") for seed in (0, 1)]
    assert sorted(every[0][1].tolist()) == list(range(len(dataset)))
    one, other = (x[indices.argsort()] for x, indices in every)
    assert not any(map(torch.equal, one, other))


@pytest.mark.parametrize(("num_workers", "start"), [(0, None), (1, "fork"), (3, "fork")])
@pytest.mark.parametrize("pin", [False, True])
def test_make_loader_forks_its_workers(monkeypatch, num_workers, start, pin):
    options = {}

    def loader(dataset, **given):
        options.update(given)

    monkeypatch.setattr(batches, "DataLoader", loader)
    batch_sampler = sampler()
    make_loader(Points(), batch_sampler, num_workers=num_workers, pin=pin)
    assert options == {
        "batch_sampler": batch_sampler,
        "num_workers": num_workers,
        "multiprocessing_context": start,
        "pin_memory": pin,
    }


def test_to_device_moves_tensors_in_nested_containers():
    tensor = torch.ones(2)
    moved = to_device({"x": tensor, "more": [(tensor, 3), "name"]}, torch.device("meta"))
    assert moved["x"].is_meta and moved["more"][0][0].is_meta
    assert type(moved["more"]) is list and type(moved["more"][0]) is tuple
    assert (moved["more"][0][1], moved["more"][1]) == (3, "name")
