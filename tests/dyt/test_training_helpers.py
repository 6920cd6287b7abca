"""Tests of parameter groups, α by path, saturation statistics, fixed α and dry runs."""

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from dyt import (
    Derf,
    DyT,
    InputStatistics,
    Norm,
    alphas,
    convert,
    param_groups,
    watch_saturation,
)


def vit(norm=None):
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1}
    model = timm.models.VisionTransformer(**sizes, num_classes=3)
    convert(model, norm or Norm.dyt())
    return model


def decay_by_name(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: group["weight_decay"] for group in groups for p in group["params"]}


def test_param_groups_exempt_dyt_and_cover_all_parameters():
    model = vit(Norm.derf())
    groups = param_groups(model, weight_decay=0.1, alpha_lr=1e-4)
    decay = decay_by_name(model, groups)
    assert decay.keys() == {name for name, _ in model.named_parameters()}
    decayed = {name for name, value in decay.items() if value}
    assert "blocks.0.mlp.fc1.weight" in decayed
    assert not any("norm" in name or name.endswith("bias") for name in decayed)
    assert not decayed & model.no_weight_decay()
    assert [len(g["params"]) for g in groups if "lr" in g] == [len(alphas(model))]


@pytest.mark.parametrize("wrapper", ["DistributedDataParallel", "DataParallel", "compile"])
def test_param_groups_unwrap_a_wrapped_model(tmp_path, wrapper):
    """Wrappers prefix the names of parameters, and timm's pos_embed is exempt by name."""
    model = vit()
    expected = decay_by_name(model, param_groups(model, weight_decay=0.1))
    assert expected["pos_embed"] == 0
    if wrapper == "DistributedDataParallel":
        store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = {
            "DistributedDataParallel": nn.parallel.DistributedDataParallel,
            "DataParallel": nn.DataParallel,
            "compile": torch.compile,
        }[wrapper](model)
        groups = param_groups(wrapped, weight_decay=0.1)
    finally:
        if wrapper == "DistributedDataParallel":
            torch.distributed.destroy_process_group()
    assert decay_by_name(model, groups) == expected


def test_param_groups_exempt_gamma_with_two_axes_and_skip_frozen():
    model = nn.Sequential(DyT((3, 4)), nn.Linear(4, 4))
    model[1].weight.requires_grad_(False)
    decay = decay_by_name(model, param_groups(model, weight_decay=0.1))
    assert decay == {"0.alpha": 0, "0.weight": 0, "0.bias": 0, "1.bias": 0}


def test_param_groups_exempt_other_norms_with_two_axes():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((3, 4)))
    decay = decay_by_name(model, param_groups(model, weight_decay=0.1))
    assert decay == {"0.weight": 0.1, "0.bias": 0, "1.weight": 0, "1.bias": 0}


def test_param_groups_with_torch_and_timm():
    model = vit()
    groups = param_groups(model, weight_decay=0.1, alpha_lr=1e-4)
    for optimizer in (
        torch.optim.AdamW(groups, lr=1e-3),
        create_optimizer_v2(groups, "adamw", 1e-3),
    ):
        assert decay_by_name(model, optimizer.param_groups)["norm.weight"] == 0
        assert {g["lr"] for g in optimizer.param_groups} == {1e-3, 1e-4}


def test_param_groups_are_three_with_their_options():
    model = nn.Sequential(nn.Linear(4, 4), Derf(4), nn.Embedding(2, 4))
    linear, layer, embedding = model
    model.no_weight_decay = lambda: {"2.weight"}
    groups = [
        {"params": [linear.weight], "weight_decay": 0.1},
        {
            "params": [linear.bias, layer.weight, layer.bias, embedding.weight],
            "weight_decay": 0.0,
        },
        {"params": [layer.alpha, layer.shift], "weight_decay": 0.0, "lr": 1e-4},
    ]
    found = param_groups(model, weight_decay=0.1, alpha_lr=1e-4)
    assert [by_id(group) for group in found] == [by_id(group) for group in groups]
    groups[1]["params"][1:1] = [layer.alpha, layer.shift]
    found = param_groups(model, weight_decay=0.1)
    assert [by_id(group) for group in found] == [by_id(group) for group in groups[:2]]


def by_id(group):
    return group | {"params": list(map(id, group["params"]))}


def test_alphas_by_path():
    model = vit(Norm.dyt(0.7))
    assert alphas(model) == pytest.approx(
        dict.fromkeys(("blocks.0.norm1", "blocks.0.norm2", "norm"), 0.7)
    )
    assert alphas(vit(Norm.dyt(alpha="absent"))) == {}


def test_watch_saturation_counts_over_calls():
    model = nn.Sequential(DyT(2, 1.0), nn.Linear(2, 2))
    with watch_saturation(model) as statistics:
        model(torch.tensor([[3.0, 0.0]]))
        model[0](x=torch.tensor([[1.0, -4.0]]))
    result = statistics["0"]
    assert (result.values, result.saturated) == (4, 0.5)
    assert result.rms == pytest.approx((26 / 4) ** 0.5)
    assert not model[0]._forward_pre_hooks


def test_watch_saturation_of_empty_inputs_and_uncalled_layers_is_zero():
    model = nn.Sequential(DyT(2, 1.0), DyT(2, 1.0)).to(torch.bfloat16)
    with watch_saturation(model) as statistics:
        model[0](torch.empty(0, 2, dtype=torch.bfloat16))
    zero = InputStatistics(values=0, rms=0.0, saturated=0.0)
    assert statistics == {"0": zero, "1": zero}


@pytest.mark.parametrize(
    ("layer", "saturated"),
    [
        (DyT(4, 0.5), 0.25),
        (DyT(4, 2.0), 0.75),
        (Derf(4, 0.5, shift0=1.0), 0.5),
        (Derf(4, 0.5, shift0=-1.0), 0.0),
        (DyT(4, alpha="absent"), 0.5),
    ],
    ids=str,
)
def test_watch_saturation_counts_alpha_x_plus_s_above_2(layer, saturated):
    with watch_saturation(nn.Sequential(layer)) as statistics:
        layer(torch.tensor([[0.5, 1.5, 3.0, 5.0]]))
    assert statistics["0"].saturated == saturated


def test_fixed_alpha_is_a_buffer_without_gradient():
    model = vit(Norm.dyt(0.7, alpha="fixed"))
    layer, x = model.norm, torch.randn(2, 8)
    assert "alpha" not in dict(layer.named_parameters())
    torch.testing.assert_close(layer(x), torch.tanh(0.7 * x))
    layer(x).sum().backward()
    assert layer.alpha.grad is None
    vit().load_state_dict(model.state_dict())
    assert "alpha='fixed'" in repr(layer)
    assert str(Norm.dyt(0.7, alpha="fixed")) == "DyT(α=0.7)"


def test_dry_run_reports_and_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    x = torch.randn(16, 4)
    dry = convert(model, calibrate=x, dry_run=True)
    assert type(model[1]) is nn.LayerNorm
    assert "alpha" not in "".join(model.state_dict())
    assert dry[0].fit.alpha == convert(model, calibrate=x)[0].fit.alpha
