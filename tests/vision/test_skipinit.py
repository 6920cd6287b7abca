"""SkipInit: positions of the scalars, blocks that start as the identity and leave it."""

import torch
import torch.nn.functional as F

from .test_normfree import applied, autoencoder, images, trained, vit


def scalars(model):
    return {n: p for n, p in model.named_parameters() if n.endswith(".scalar")}


def test_skipinit_adds_one_scalar_to_each_branch():
    model, paths = applied("skipinit")
    expected = {f"blocks.{i}.{slot}" for i in range(2) for slot in ("ls1", "ls2")}
    assert set(scalars(model)) == {f"{path}.scalar" for path in expected}
    assert set(paths) - expected == {f"blocks.{i}.norm{j}" for i in range(2) for j in (1, 2)} | {
        "fc_norm"
    }
    assert all((scalar == 0).all() for scalar in scalars(model).values())


def test_skipinit_covers_both_stacks_of_an_autoencoder():
    model, _ = applied("skipinit", autoencoder)
    assert len(scalars(model)) == 2 * 3 + 2 * 1


def test_skipinit_blocks_start_as_the_identity():
    model, _ = applied("skipinit")
    x = torch.randn(2, 17, 32)
    for block, own in zip(model.blocks, vit().blocks, strict=True):
        assert torch.equal(block(x), x)
        assert not torch.equal(own(x), x)


def test_only_skipinit_scalars_have_a_gradient_at_first():
    """With a = 0 only a itself has a gradient, nothing inside a branch has one."""
    model, _ = applied("skipinit")
    F.cross_entropy(model(images()), torch.arange(8)).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("blocks."):
            assert bool(parameter.grad.any()) == name.endswith(".scalar"), name


def test_skipinit_blocks_leave_the_identity_in_training():
    model, _ = applied("skipinit")
    trained(model, steps=3)
    assert all(scalar.abs() > 1e-3 for scalar in scalars(model).values())
    x = torch.randn(2, 17, 32)
    assert not torch.equal(model.blocks[0](x), x)
