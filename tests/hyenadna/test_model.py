"""HyenaDNA networks: sizes of the papers, norm layers, pooling, seeds, autocast and compilation."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import dyt
from dyt import Norm
from dyt_hyenadna.model import HyenaClassifier, build_classifier, build_language_model
from dyt_hyenadna.network_config import HyenaNetwork
from dyt_hyenadna.tokenizer import PAD

TINY = HyenaNetwork(width=8, layers=2, max_length=34, filter_width=8, dropout=0.0)
D128 = HyenaNetwork()
D256 = HyenaNetwork(width=256, layers=4)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def draw_ids(batch=2, length=32):
    return torch.randint(7, 11, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("network", "parameters", "norms", "keys"), [(D128, 436_096, 5, 60), (D256, 3_277_568, 9, 116)]
)
def test_language_model_has_the_official_size(network, parameters, norms, keys):
    model = build_language_model(network, 0)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == keys
    assert sum(isinstance(m, nn.LayerNorm) for m in model.modules()) == norms
    report = dyt.convert(model, Norm.dyt(0.5))
    assert len(report.paths) == norms and "backbone.ln_f" in report.paths
    assert sum(p.numel() for p in model.parameters()) == parameters + norms
    assert len(model.state_dict()) == keys + norms


def test_classifier_backbone_has_the_official_size():
    backbone = build_classifier(D128, 2, 0).backbone
    assert sum(p.numel() for p in backbone.parameters()) == 436_096
    assert len(backbone.state_dict()) == 59
    dyt.convert(backbone, Norm.dyt(0.5))
    assert len(backbone.state_dict()) == 64


def test_convert_carries_attributes_of_norm_parameters():
    model = build_language_model(TINY, 0)
    model.backbone.ln_f.weight.option = {"lr": 0.1}
    dyt.convert(model, Norm.dyt(0.5))
    assert model.backbone.ln_f.weight.option == {"lr": 0.1}
    assert model.backbone.ln_f.alpha.option == {"lr": 0.1}


def test_output_layer_is_tied_and_padded_to_the_multiple():
    model = build_language_model(TINY, 0)
    assert model.lm_head.weight is model.backbone.embeddings.word_embeddings.weight
    assert model(draw_ids()).shape == (2, 32, 16)


def test_language_model_is_causal():
    model, ids = build_language_model(TINY, 0), draw_ids()
    changed = ids.clone()
    changed[:, 20] = 11
    before, after = model(ids), model(changed)
    assert torch.allclose(before[:, :20], after[:, :20], atol=1e-6)
    assert not torch.allclose(before[:, 20:], after[:, 20:], atol=1e-4)


def test_weights_depend_on_the_seed_alone():
    state = build_language_model(TINY, 3).state_dict()
    torch.manual_seed(99)
    again = build_language_model(TINY, 3).state_dict()
    other = build_language_model(TINY, 4).state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state)
    name = "backbone.layers.0.mixer.in_proj.weight"
    assert not torch.equal(state[name], other[name])


def test_classifier_and_language_model_of_a_seed_share_the_backbone():
    ours = build_classifier(TINY, 3, 5).backbone.state_dict()
    theirs = build_language_model(TINY, 5).backbone.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_convert_leaves_all_other_initial_weights_equal():
    plain, converted = build_language_model(TINY, 0), build_language_model(TINY, 0)
    dyt.convert(converted, Norm.dyt(0.5))
    state = converted.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.state_dict().items())


def test_pooling_averages_over_all_positions_or_without_pads():
    classifier = HyenaClassifier(TINY, 2, "unpadded")
    hidden = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[PAD, PAD, 7, 8, 9, 10], [7, 7, 7, 7, 7, 7]])
    pooled = classifier.pool(hidden, ids)
    assert torch.allclose(pooled[0], hidden[0, 2:].mean(0), atol=1e-6)
    assert torch.allclose(pooled[1], hidden[1].mean(0), atol=1e-6)
    more_pads = torch.cat([torch.full((2, 3), PAD), ids], dim=1)
    padded = torch.cat([torch.full((2, 3, 8), 100.0), hidden], dim=1)
    assert torch.allclose(classifier.pool(padded, more_pads), pooled, atol=1e-6)
    classifier.pooling = "all"
    assert torch.allclose(classifier.pool(hidden, ids), hidden.mean(1), atol=1e-6)


def test_unpadded_pooling_of_padding_alone_is_finite():
    classifier = build_classifier(TINY, 2, 0, pooling="unpadded")
    assert classifier(torch.full((1, 8), PAD)).isfinite().all()


def test_dropout_follows_the_embedding_alone():
    model = build_language_model(replace(TINY, dropout=0.1), 0)
    dropouts = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert dropouts == {"backbone.dropout": 0.1}
    assert torch.equal(model.eval()(draw_ids()), build_language_model(TINY, 0)(draw_ids()))
    seen = []
    model.backbone.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ids = draw_ids()
    for training in (False, True):
        model.train(training)(ids)
    embedded = model.backbone.embeddings(ids)
    assert torch.equal(seen[0], embedded)
    dropped = seen[1] == 0
    assert 0 < dropped.float().mean() < 0.3
    torch.testing.assert_close(seen[1][~dropped], embedded[~dropped] / 0.9)


@pytest.mark.parametrize("norm", [Norm.own(), Norm.dyt(0.5)], ids=["ln", "dyt"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close_to_float32(norm, dtype):
    model, ids = build_language_model(replace(TINY, embedding_std=1.0), 0), draw_ids()
    dyt.convert(model, norm)
    exact = model(ids)
    exact_grad = torch.autograd.grad(exact.sum(), model.backbone.ln_f.weight)[0]
    with torch.autocast("cpu", dtype):
        logits = model(ids)
    grad = torch.autograd.grad(logits.float().sum(), model.backbone.ln_f.weight)[0]
    assert logits.dtype == dtype
    assert (logits - exact).abs().max() < 0.02 * exact.abs().max()
    assert (grad - exact_grad).abs().max() < 0.02 * exact_grad.abs().max()


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_torch_compile_keeps_outputs_and_gradients(backend):
    """Without inductor, whose C++ compiler takes minutes: it compiles what is traced here."""
    model, ids = build_language_model(replace(TINY, layers=1), 0), draw_ids()
    torch._dynamo.reset()
    results = []
    for call in (model, torch.compile(model, backend=backend, fullgraph=True)):
        model.zero_grad()
        logits = call(ids)
        nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
        results.append([logits, *(p.grad.clone() for p in model.parameters())])
    for plain, compiled in zip(*results, strict=True):
        assert (plain - compiled).abs().max() <= 1e-5 * plain.abs().max()
