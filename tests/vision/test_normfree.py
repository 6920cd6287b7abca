"""Common behavior of Fixup, SkipInit and σReparam: conversion in place, training, refusals."""

import copy
import subprocess
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, Mlp, SwiGLU
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import nn

from dyt import Norm, convert
from dyt_vision import normfree
from dyt_vision.normfree import NormFree, apply

from ..messages import refused

METHODS = ("fixup", "skipinit", "sigma_reparam")
EVERY = pytest.mark.parametrize("method", METHODS)


def vit(**options):
    """Return a ViT of two blocks for 16×16 images, always with the same weights."""
    tiny = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    tiny |= {"num_classes": 10, "global_pool": "avg"}
    torch.manual_seed(0)
    return timm.create_model("vit_base_patch16_224", **(tiny | options))


class Autoencoder(nn.Module):
    """A masked autoencoder's modules, with a forward pass without a mask."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 32, 4, 4)
        self.blocks = nn.ModuleList(Block(32, 2) for _ in range(3))
        self.norm = nn.LayerNorm(32)
        self.decoder_embed = nn.Linear(32, 16)
        self.decoder_blocks = nn.ModuleList(Block(16, 2) for _ in range(1))
        self.decoder_norm = nn.LayerNorm(16)
        self.decoder_pred = nn.Linear(16, 48)

    def forward(self, images):
        x = self.patch_embed(images).flatten(2).mT
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))


def autoencoder():
    torch.manual_seed(0)
    return Autoencoder()


MODELS = pytest.mark.parametrize("build", [vit, autoencoder])


def images(count=8):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def applied(method, build=vit, **options):
    """Return a model without norm layers, and the paths that ``apply`` returned."""
    model = build(**options)
    return model, apply(model, NormFree(method=method))


def trained(model, steps=30, lr=1e-2):
    """Return the losses of some steps of Adam on eight random images of five classes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    labels = torch.arange(8) % 5
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(images()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class TestNormFree:
    def test_norm_free_is_a_plain_value_with_a_title(self):
        titles = [str(NormFree(method=method)) for method in METHODS]
        assert titles == ["Fixup", "SkipInit", "σReparam"]
        assert NormFree(method="fixup") == NormFree(method="fixup")
        assert len({NormFree(method=method) for method in METHODS}) == 3

    @pytest.mark.parametrize("wrong", ["Fixup", None, ["fixup"]])
    def test_norm_free_refuses_an_unknown_method(self, wrong):
        with pytest.raises(ValueError, match="'fixup', 'skipinit' or 'sigma_reparam'"):
            NormFree(method=wrong)

    def test_norm_free_imports_no_torch(self):
        code = "import sys, dyt_vision.normfree as n; n.NormFree(method='fixup'); "
        code += "sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@EVERY
@MODELS
class TestApply:
    def test_apply_removes_every_norm_layer(self, method, build):
        norms = convert(build(), Norm.own()).paths
        model, paths = applied(method, build)
        with pytest.raises(ValueError, match="no LN or RMSNorm"):
            convert(model, Norm.own())
        assert set(norms) < set(paths) and list(paths) == sorted(set(paths))
        kinds = {type(model.get_submodule(path)).__name__ for path in norms}
        assert kinds == ({"ScalarBias"} if method == "fixup" else {"Identity"})

    def test_apply_returns_the_paths_of_what_it_adds(self, method, build):
        own = build()
        norms = tuple(f"{path}." for path in convert(own, Norm.own()).paths)
        model, paths = applied(method, build)
        rest = [n for n in model.state_dict() if not n.startswith(tuple(f"{p}." for p in paths))]
        names = [name.replace("parametrizations.weight.original", "weight") for name in rest]
        kept = [name for name in own.state_dict() if not name.startswith(norms)]
        assert sorted(names) == sorted(kept)
        added = set(model.state_dict()) - set(rest)
        assert not added & set(own.state_dict())
        for name in added - {n for n in added if n.endswith(".u")}:
            assert model.get_parameter(name).shape == (1,)

    def test_apply_draws_no_random_number_and_keeps_weights(self, method, build):
        own, model = build(), build()
        state = torch.get_rng_state()
        apply(model, NormFree(method=method))
        assert torch.equal(torch.get_rng_state(), state)
        again, _ = applied(method, build)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name])
            name = name.replace("parametrizations.weight.original", "weight")
            if method != "fixup" and name in own.state_dict():
                assert torch.equal(tensor, own.state_dict()[name])

    def test_scalars_are_not_decayed(self, method, build):
        model, paths = applied(method, build)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        free, decayed = (
            {names[id(p)] for p in group["params"]}
            for group in param_groups_weight_decay(model, 0.05)
        )
        inside = tuple(f"{path}." for path in paths)
        scalars = {name for name in names.values() if name.startswith(inside)}
        assert scalars and scalars <= free
        assert any(name.endswith(("qkv.weight", "original")) for name in decayed)

    def test_deepcopy_and_state_dict_compute_the_same(self, method, build):
        model, _ = applied(method, build)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape))
        loaded, _ = applied(method, build)
        loaded.load_state_dict(model.state_dict(), strict=True)
        copied = copy.deepcopy(model)
        expected = model.eval()(images())
        assert expected.abs().sum() > 0
        assert torch.equal(copied.eval()(images()), expected)
        assert torch.equal(loaded.eval()(images()), expected)

    def test_added_modules_have_the_models_mode_and_dtype(self, method, build):
        model = build().double().eval()
        apply(model, NormFree(method=method))
        assert not any(module.training for module in model.modules())
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}
        assert model(images().double()).dtype == torch.float64

    def test_apply_works_on_the_meta_device(self, method, build):
        with torch.device("meta"):
            model, paths = applied(method, build)
        assert all(tensor.is_meta for tensor in model.state_dict().values())
        assert paths == applied(method, build)[1]


@EVERY
class TestTraining:
    def test_norm_free_training_reduces_the_loss(self, method):
        model, _ = applied(method)
        losses = trained(model)
        assert losses[-1] < 0.5 * losses[0]

    def test_every_scalar_gets_a_gradient(self, method):
        model, paths = applied(method)
        trained(model, steps=3)
        scalars = {n: p for n, p in model.named_parameters() if n.rpartition(".")[0] in paths}
        assert scalars
        for name, scalar in scalars.items():
            assert scalar.grad.isfinite().all() and scalar.grad.any(), name

    def test_ema_of_the_weights_can_be_evaluated(self, method):
        model, _ = applied(method)
        ema = ModelEmaV3(model, decay=0.5)
        trained(model, steps=2)
        ema.update(model)
        before = copy.deepcopy(ema.module.state_dict())
        assert ema.module(images()).isfinite().all()
        for name, tensor in ema.module.state_dict().items():
            assert torch.equal(tensor, before[name])


class TestMistakes:
    def test_apply_refuses_a_dyt_norm(self):
        assert refused(apply, vit(), Norm.dyt()) == (
            f"method is {Norm.dyt()!r}; expected a NormFree, such as NormFree(method='fixup')"
        )

    def test_package_has_no_other_attributes(self):
        with pytest.raises(AttributeError) as error:
            normfree.convert  # noqa: B018
        assert str(error.value) == "module 'dyt_vision.normfree' has no attribute 'convert'"

    @EVERY
    def test_apply_refuses_a_model_without_blocks(self, method):
        model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        assert refused(apply, model, NormFree(method=method)) == (
            "Sequential has no timm vision_transformer.Block, which Fixup, SkipInit and σReparam "
            "require; use a ViT, or a dyt.Norm"
        )

    @EVERY
    @pytest.mark.parametrize(
        "options, slot, advice",
        [
            ({"init_values": 1e-5}, "ls1 is LayerScale, expected Identity", "init_values=None"),
            ({"qk_norm": True}, "attn.q_norm is LayerNorm, expected Identity", "qk_norm=False"),
            (
                {"scale_attn_norm": True},
                "attn.norm is LayerNorm, expected Identity",
                "scale_attn_norm=False",
            ),
            (
                {"scale_mlp_norm": True},
                "mlp.norm is LayerNorm, expected Identity",
                "scale_mlp_norm=False",
            ),
            (
                {"attn_layer": "diff"},
                "attn is DiffAttention, expected Attention",
                "attn_layer='attn'",
            ),
            ({"mlp_layer": SwiGLU}, "mlp is SwiGLU, expected Mlp", "mlp_layer=Mlp"),
        ],
    )
    def test_apply_refuses_other_blocks_than_timms_plain_one(self, method, options, slot, advice):
        model = vit(**options)
        before = str(model)
        assert refused(apply, model, NormFree(method=method)) == (
            f"blocks.0.{slot}; build the model with {advice}, and convert it only once"
        )
        assert str(model) == before

    @EVERY
    def test_apply_refuses_a_second_conversion(self, method):
        model, _ = applied(method)
        with pytest.raises(ValueError, match=r"only once|no LN or RMSNorm"):
            apply(model, NormFree(method=method))


def test_timms_block_has_the_expected_slots():
    block = vit().blocks[0]
    assert isinstance(block.mlp, Mlp)
    for slot in ("ls1", "ls2", "attn.norm", "mlp.norm", "attn.q_norm", "attn.k_norm"):
        assert isinstance(block.get_submodule(slot), nn.Identity)
