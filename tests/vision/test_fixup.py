"""Fixup: scaled and zero weights, positions of the scalars, step size at any depth."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyt import Norm, convert

from .test_normfree import applied, autoencoder, images, vit

BIASES = ("norm1", "attn.norm", "norm2", "mlp.act.0", "mlp.norm")
SCALES = ("ls1", "ls2")


class TestWeights:
    @pytest.mark.parametrize(
        "build, stack, branches",
        [(vit, "blocks", 4), (autoencoder, "blocks", 6), (autoencoder, "decoder_blocks", 2)],
    )
    def test_branches_are_scaled_by_the_depth_of_their_stack(self, build, stack, branches):
        model, _ = applied("fixup", build)
        for block, own in zip(
            model.get_submodule(stack), build().get_submodule(stack), strict=True
        ):
            width = own.attn.proj.in_features
            qkv, expected = block.attn.qkv.weight, own.attn.qkv.weight
            assert torch.equal(qkv[: 2 * width], expected[: 2 * width])
            torch.testing.assert_close(qkv[2 * width :], expected[2 * width :] * branches**-0.5)
            torch.testing.assert_close(block.mlp.fc1.weight, own.mlp.fc1.weight * branches**-0.5)
            for layer in (block.attn.proj, block.mlp.fc2):
                assert not layer.weight.any() and not layer.bias.any()

    def test_outside_the_branches_only_the_classifier_changes(self):
        for build, head in ((vit, "head"), (autoencoder, "decoder_pred")):
            model, own = applied("fixup", build)[0].state_dict(), build().state_dict()
            for name in (n for n in model if "blocks." not in n and not n.endswith(".scalar")):
                if name.startswith(f"{head}."):
                    assert own[f"{head}.weight"].any() and not model[name].any()
                else:
                    assert torch.equal(model[name], own[name]), name

    def test_fixup_of_a_model_without_a_classifier(self):
        model, paths = applied("fixup", num_classes=0)
        assert isinstance(model.head, nn.Identity) and "fc_norm" in paths

    def test_fixup_of_layers_without_bias(self):
        model, _ = applied("fixup", qkv_bias=False, proj_bias=False)
        assert not model.blocks[0].attn.proj.weight.any()


class TestScalars:
    @pytest.mark.parametrize(
        "build, final",
        [
            (vit, ("fc_norm",)),
            (lambda: vit(global_pool="token"), ("norm",)),
            (autoencoder, ("norm", "decoder_norm")),
        ],
        ids=["average", "token", "autoencoder"],
    )
    def test_scalars_are_in_every_branch_and_before_the_head(self, build, final):
        model, paths = applied("fixup", build)
        blocks = [name for name, _ in model.named_modules() if name.endswith(("s.0", "s.1", "s.2"))]
        expected = {f"{block}.{slot}": 0 for block in blocks for slot in BIASES}
        expected |= {f"{block}.{slot}": 1 for block in blocks for slot in SCALES}
        expected |= dict.fromkeys(final, 0)
        found = {n: p.item() for n, p in model.named_parameters() if n.endswith(".scalar")}
        assert found == {f"{path}.scalar": value for path, value in expected.items()}
        assert set(paths) == set(expected)

    def test_norm_before_the_blocks_gets_no_scalar(self):
        model, paths = applied("fixup", pre_norm=True)
        assert isinstance(model.norm_pre, nn.Identity) and "norm_pre" in paths

    def test_scalars_act_where_the_paper_has_them(self):
        """Compare a block with its branches written out."""
        block = applied("fixup")[0].blocks[0]
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape))
        b = {slot: block.get_submodule(slot).scalar for slot in (*BIASES, *SCALES)}
        x = torch.randn(2, 5, 32)
        q, k, v = (
            part.unflatten(-1, (2, 16)).transpose(1, 2)
            for part in block.attn.qkv(x + b["norm1"]).chunk(3, dim=-1)
        )
        mixed = (q @ k.mT / 16**0.5).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).flatten(2)
        middle = x + b["ls1"] * block.attn.proj(mixed + b["attn.norm"])
        hidden = F.gelu(block.mlp.fc1(middle + b["norm2"]) + b["mlp.act.0"])
        expected = middle + b["ls2"] * block.mlp.fc2(hidden + b["mlp.norm"])
        torch.testing.assert_close(block(x), expected)


class TestOneStep:
    """Change of the network's function by one step of SGD on the blocks' matrices.

    The paper's theorem is about weight matrices only. The head gets its original weights back: at
    zero it alone would learn in the first step, which would hide the effect of the blocks.
    """

    @staticmethod
    def change(model, lr=1e-2):
        model.head.load_state_dict(vit().head.state_dict())
        model.double()  # the change is small compared to the outputs
        before = model(images().double())
        F.cross_entropy(before, torch.arange(8)).backward()
        with torch.no_grad():
            for parameter in model.blocks.parameters():
                if parameter.ndim == 2:
                    parameter -= lr * parameter.grad
            return (model(images().double()) - before).norm().item() / lr

    @staticmethod
    def bare(depth):
        """Return the same network with its norm layers removed, without compensation."""
        model = vit(depth=depth)
        for path in convert(model, Norm.own()).paths:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, nn.Identity())
        return model

    @staticmethod
    def unscaled(depth):
        """Return a network with Fixup but without its second rule."""
        model, _ = applied("fixup", depth=depth)
        with torch.no_grad():
            for block in model.blocks:
                block.attn.qkv.weight[64:] *= (2 * depth) ** 0.5
                block.mlp.fc1.weight *= (2 * depth) ** 0.5
        return model

    def test_fixup_step_size_does_not_grow_with_depth(self):
        shallow, deep = (self.change(applied("fixup", depth=depth)[0]) for depth in (4, 32))
        assert 0 < deep < 1.5 * shallow
        tenth = self.change(applied("fixup", depth=32)[0], lr=1e-3)
        assert tenth == pytest.approx(deep, rel=0.1)

    @pytest.mark.parametrize("build", [bare, unscaled])
    def test_step_size_grows_with_depth_without_fixup(self, build):
        assert self.change(build(32)) > 4 * self.change(build(4))
