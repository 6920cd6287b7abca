"""Supervised models: norm layers at paper scale, equal initial weights in both arms, optimizer."""

from dataclasses import replace

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from dyt import DynamicTanh
from dyt_vision import supervised
from dyt_vision.models import build
from matched.training import weights_digest

from ..messages import refused
from .tiny import ARMS, DYT, MIXER_B, OWN, PAPER, TINY, TINY_VIT


def on_meta(config, norm):
    """Build the model of a run on the meta device: shapes without values."""
    with torch.device("meta"):
        return build(replace(config, norm=norm), 1000)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# Parameter counts with LN from timm and the papers; DyT adds one α for each norm.
@pytest.mark.parametrize(
    "config, norms, keys, count",
    [
        (PAPER["vit_b"], 25, 152, 86_567_656),
        (PAPER["vit_l"], 49, 296, 304_326_632),
        (PAPER["convnext_b"], 41, 344, 88_591_464),
        (PAPER["convnext_l"], 41, 344, 197_767_336),
        (MIXER_B, 25, 150, 59_880_472),
    ],
    ids=["vit_b", "vit_l", "convnext_b", "convnext_l", "mixer_b"],
)
class TestPaperScale:
    def test_build_replaces_all_norms_and_nothing_else(self, config, norms, keys, count):
        own, own_paths = on_meta(config, OWN)
        dyt, dyt_paths = on_meta(config, DYT)
        assert len(own_paths) == norms and own_paths == dyt_paths
        assert (len(own.state_dict()), parameters(own)) == (keys, count)
        assert (len(dyt.state_dict()), parameters(dyt)) == (keys + norms, count + norms)
        assert set(dyt.state_dict()) - set(own.state_dict()) == {f"{p}.alpha" for p in own_paths}

    def test_build_leaves_no_norm_layer(self, config, norms, keys, count):
        model, paths = on_meta(config, DYT)
        found = {path for path, module in model.named_modules() if isinstance(module, DynamicTanh)}
        assert found == set(paths)
        leaves = {type(m).__name__ for m in model.modules() if not list(m.children())}
        assert not [name for name in leaves if "norm" in name.lower()]


def test_vit_normalizes_after_average_pooling():
    model, paths = on_meta(PAPER["vit_b"], DYT)
    assert "fc_norm" in paths and "norm" not in paths
    assert isinstance(model.fc_norm, DynamicTanh)
    assert isinstance(model.norm, nn.Identity)


@pytest.mark.parametrize("row, blocks, last", [("vit_l", 24, 0.4), ("convnext_b", 36, 0.5)])
def test_drop_path_grows_linearly_over_the_blocks(row, blocks, last):
    model, _ = on_meta(PAPER[row], DYT)
    # A ViT's block has two of equal rate; the first block, with rate 0, has none.
    rates = list(dict.fromkeys(m.drop_prob for m in model.modules() if isinstance(m, DropPath)))
    assert len(rates) == blocks - 1
    expected = [last * i / (blocks - 1) for i in range(1, blocks)]
    assert rates == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", TINY)
class TestPair:
    def test_arms_start_from_equal_weights_outside_the_norms(self, family):
        own, paths = build(replace(TINY[family], norm=OWN), 10)
        dyt, _ = build(replace(TINY[family], norm=DYT), 10)
        dyt_state = dyt.state_dict()
        for name, tensor in own.state_dict().items():
            assert torch.equal(tensor, dyt_state[name]), name
        assert weights_digest(own, paths) == weights_digest(dyt, paths)

    def test_dyt_layers_start_as_in_the_paper(self, family):
        model, paths = build(replace(TINY[family], norm=DYT), 10)
        for layer in map(model.get_submodule, paths):
            assert layer.alpha.tolist() == [0.5]
            assert (layer.weight == 1).all() and (layer.bias == 0).all()

    def test_initial_weights_depend_only_on_the_seed(self, family):
        config = TINY[family]
        one, paths = build(config, 10)
        torch.rand(7)
        two, _ = build(config, 10)
        other, _ = build(replace(config, seed=config.seed + 1), 10)
        assert weights_digest(one, paths) == weights_digest(two, paths)
        assert weights_digest(one, paths) != weights_digest(other, paths)

    def test_optimizer_decays_only_matrices(self, family):
        decayed = {}
        for arm, norm in ARMS.items():
            config = replace(TINY[family], norm=norm)
            model, paths = build(config, 10)
            names = {id(p): name for name, p in model.named_parameters()}
            groups = supervised.make_optimizer(model, config).param_groups
            rate = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
            assert rate.keys() == set(names.values())
            for name, parameter in model.named_parameters():
                free = parameter.ndim == 1 or name in ("pos_embed", "cls_token")
                assert rate[name] == (0 if free else 0.05), name
            inside = tuple(f"{path}." for path in paths)
            decayed[arm] = {n: r for n, r in rate.items() if not n.startswith(inside)}
        assert decayed["LN"] == decayed["DyT"]


def test_convnext_layer_scale_is_the_recipes():
    model, _ = build(TINY["ConvNeXt"], 10)
    scales = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert len(scales) == 5
    assert all((scale == 1e-6).all() for scale in scales)


def test_optimizer_is_adamw_with_the_recipes_settings():
    model, _ = build(TINY_VIT, 10)
    for betas in ((0.9, 0.999), (0.9, 0.95)):
        optimizer = supervised.make_optimizer(model, replace(TINY_VIT, betas=betas, lr=0.004))
        assert type(optimizer) is torch.optim.AdamW
        for group in optimizer.param_groups:
            assert (group["lr"], group["betas"], group["eps"]) == (0.004, betas, 1e-8)


class TestUnknownModels:
    @pytest.mark.parametrize(
        "wrong, right",
        [
            ("vit_bse_patch16_224", "vit_base_patch16_224"),
            ("convnxt_base", "convnext_base"),
            ("resnt50", "resnet50"),
        ],
    )
    def test_mistyped_model_suggests_similar_names(self, wrong, right):
        message = refused(build, replace(TINY_VIT, model=wrong), 10)
        beginning = f"timm has no model '{wrong}'; similar names: "
        assert message.startswith(beginning)
        names = message.removeprefix(beginning).split(", ")
        assert right in names and len(names) == 5

    def test_unknown_model_points_to_list_models(self):
        assert refused(build, replace(TINY_VIT, model="§"), 10) == (
            "timm has no model '§'; timm.list_models() lists all"
        )

    @pytest.mark.parametrize("norm", ARMS.values(), ids=ARMS)
    def test_model_without_a_norm_to_replace_is_refused(self, norm):
        config = replace(TINY_VIT, model="resnet10t", model_args=(), norm=norm)
        with pytest.raises(ValueError, match=r"has no LN or RMSNorm to replace.*BatchNorm"):
            build(config, 10)
