"""Tests of `convert` on the networks of the papers, as implemented in the common libraries.

The expected numbers of norms follow from the architectures; widths are tiny and weights random.
"""

import re

import diffusers
import pytest
import timm
import torch
import transformers as hf
from torch import nn

from dyt import WAV2VEC2_SKIP, DyT, Norm, convert

TOKENS = torch.arange(2 * 6).view(2, 6)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
BERT_LIKE = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
LLAMA_LIKE = {
    **BERT_LIKE,
    "vocab_size": 32,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}


def vit(name="vit_tiny_patch16_224", **options):
    return timm.create_model(
        name, img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, **options
    )


def swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        embed_dim=8,
        depths=(1, 2),
        num_heads=(1, 2),
    )


def wav2vec2(extractor):
    config = hf.Wav2Vec2Config(
        **BERT_LIKE,
        num_hidden_layers=2,
        conv_dim=(8, 8),
        conv_kernel=(4, 4),
        conv_stride=(4, 2),
        feat_extract_norm=extractor,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
        layerdrop=0.0,
    )
    return hf.Wav2Vec2Model(config)


def t5():
    config = hf.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return hf.T5ForConditionalGeneration(config)


def dit():
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        sample_size=8,
        norm_num_groups=2,
        num_embeds_ada_norm=10,
    )


# constructor, call, number of norms, classes of the norms
MODELS = {
    "timm ViT": (vit, lambda m: m(IMAGES), 2 * 3 + 1, {"LayerNorm"}),
    "timm DeiT": (
        lambda: vit("deit_tiny_patch16_224"),
        lambda m: m(IMAGES),
        2 * 3 + 1,
        {"LayerNorm"},
    ),
    "timm ConvNeXt": (
        lambda: timm.create_model("convnext_tiny", depths=(1, 2, 1, 1), dims=(8, 8, 16, 16)),
        lambda m: m(IMAGES),
        1 + 5 + 3 + 1,  # stem, blocks, downsampling, head
        {"LayerNorm", "LayerNorm2d"},
    ),
    "timm MLP-Mixer": (
        lambda: timm.models.MlpMixer(img_size=32, patch_size=8, embed_dim=16, num_blocks=3),
        lambda m: m.forward_features(IMAGES),  # the head is initially zero and blocks gradients
        2 * 3 + 1,
        {"LayerNorm"},
    ),
    "timm Swin": (
        swin,
        lambda m: m(IMAGES),
        1 + 2 * 3 + 1 + 1,  # patches, blocks, merging, last
        {"LayerNorm"},
    ),
    "HF Llama": (
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA_LIKE)),
        lambda m: m(TOKENS).logits,
        2 * 3 + 1,
        {"LlamaRMSNorm"},
    ),
    "HF Gemma": (
        lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**LLAMA_LIKE)),
        lambda m: m(TOKENS).logits,
        2 * 3 + 1,
        {"GemmaRMSNorm"},
    ),
    "HF GPT-2": (
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=3, n_head=2)
        ),
        lambda m: m(TOKENS).logits,
        2 * 3 + 1,
        {"LayerNorm"},
    ),
    "HF BERT": (
        lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT_LIKE, vocab_size=32, num_hidden_layers=3)),
        lambda m: m(TOKENS).logits,
        1 + 2 * 3 + 1,  # embeddings, layers, MLM head
        {"LayerNorm"},
    ),
    "HF T5": (
        t5,
        lambda m: m(input_ids=TOKENS, decoder_input_ids=TOKENS).logits,
        (2 * 2 + 1) + (3 * 2 + 1),
        {"T5LayerNorm"},
    ),
    "HF wav2vec 2.0 Base": (
        lambda: wav2vec2("group"),
        lambda m: m(torch.randn(2, 200)).last_hidden_state,
        1 + 1 + 2 * 2,  # projection, encoder, layers; the extractor has one GroupNorm
        {"LayerNorm"},
    ),
    "HF wav2vec 2.0 Large": (
        lambda: wav2vec2("layer"),
        lambda m: m(torch.randn(2, 200)).last_hidden_state,
        2 + 1 + 1 + 2 * 2,  # additionally two LNs in the extractor
        {"LayerNorm"},
    ),
    "HF ConvNext": (
        lambda: hf.ConvNextForImageClassification(
            hf.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])
        ),
        lambda m: m(IMAGES).logits,
        1 + 4 + 3 + 1,
        {"ConvNextLayerNorm", "LayerNorm"},
    ),
    "diffusers DiT": (
        dit,
        lambda m: (
            m(
                torch.randn(2, 4, 8, 8),
                timestep=torch.tensor([1, 2]),
                class_labels=torch.tensor([1, 2]),
            ).sample
        ),
        2 * 3 + 1,
        {"LayerNorm"},
    ),
}


@pytest.fixture(scope="module")
def converted():
    """Return a cached function from name to (model, report, old state-dict keys, old size)."""
    cache = {}

    def get(name):
        if name not in cache:
            model = MODELS[name][0]()
            before = set(model.state_dict()), sum(p.numel() for p in model.parameters())
            cache[name] = (model, convert(model), *before)
        return cache[name]

    return get


@pytest.mark.parametrize("name", MODELS)
def test_convert_replaces_and_reports_every_norm(name, converted):
    _, _, number, classes = MODELS[name]
    model, report, keys, parameters = converted(name)
    assert len(report) == number
    assert {r.old for r in report} == classes
    assert sum(isinstance(m, DyT) for m in model.modules()) == number
    remaining = [type(m).__name__ for m in model.modules() if not list(m.children())]
    remaining = [kind for kind in remaining if re.search(r"layer_?norm|rms_?norm", kind, re.I)]
    assert remaining == []
    # Each layer adds only its α, below the path of the norm.
    assert set(model.state_dict()) - keys == {f"{path}.alpha" for path in report.paths}
    assert keys <= set(model.state_dict())
    assert sum(p.numel() for p in model.parameters()) == parameters + number


@pytest.mark.parametrize("name", MODELS)
def test_converted_models_train_every_layer(name, converted):
    call = MODELS[name][1]
    model, report, *_ = converted(name)
    y = call(model.train())
    assert y.isfinite().all()
    model.zero_grad()
    (y * torch.randn_like(y)).sum().backward()
    for path in report.paths:
        layer = model.get_submodule(path)
        for parameter in layer.parameters():
            assert parameter.grad is not None, path
            assert parameter.grad.isfinite().all(), path
    assert all(model.get_submodule(path).alpha.grad.abs() > 0 for path in report.paths)


@pytest.mark.parametrize(
    ("name", "affine", "bias"),
    [
        ("timm ViT", True, True),
        ("HF Llama", True, False),
        ("HF T5", True, False),
        ("diffusers DiT", False, False),
    ],
)
def test_converted_models_keep_affine_and_bias(name, affine, bias, converted):
    model, report, *_ = converted(name)
    assert {(r.affine, r.bias) for r in report} == {(affine, bias)}
    layers = [model.get_submodule(path) for path in report.paths]
    assert {(m.weight is not None, m.bias is not None) for m in layers} == {(affine, bias)}


def test_convnext_channel_axis_1_layers(converted):
    _, report, *_ = converted("timm ConvNeXt")
    first = {r.path for r in report if r.channel_axis == 1}
    assert first == {"stem.1", "head.norm", *(f"stages.{i}.downsample.0" for i in (1, 2, 3))}
    _, report, *_ = converted("HF ConvNext")
    assert sum(r.channel_axis == 1 for r in report) == 1 + 3


def test_copy_affine_adds_one_to_gemma_weight():
    model = MODELS["HF Gemma"][0]()
    nn.init.constant_(model.model.norm.weight, 0.25)
    convert(model, copy_affine=True)
    assert set(model.model.norm.weight.tolist()) == {1.25}
    assert set(model.model.layers[0].input_layernorm.weight.tolist()) == {1.0}


def test_llama_per_path_alpha0_before_attention():
    model = MODELS["HF Llama"][0]()
    report = convert(model, Norm.dyt(0.2, alpha0_at=(("*.input_layernorm", 0.8),)))
    assert [r.alpha0 for r in report] == [0.8, 0.2] * 3 + [0.2]
    assert model.model.layers[2].input_layernorm.alpha.item() == pytest.approx(0.8)
    assert model.model.norm.alpha.item() == pytest.approx(0.2)


@pytest.mark.parametrize(("extractor", "kept"), [("group", 0), ("layer", 2)])
def test_wav2vec2_skip_keeps_feature_extractor_norms(extractor, kept):
    for model in (wav2vec2(extractor), nn.ModuleDict({"wav2vec2": wav2vec2(extractor)})):
        report = convert(model, skip=WAV2VEC2_SKIP)
        assert len(report.kept) == kept
        assert len(report) == 6
        assert not any("feature_extractor" in path for path in report.paths)


def test_convert_torchaudio_wav2vec2():
    from torchaudio.models import wav2vec2_model

    model = wav2vec2_model(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=[(8, 4, 4), (8, 4, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=4,
        encoder_pos_conv_groups=2,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    )
    report = convert(model)
    assert len(report) == 2 + 1 + 1 + 2 * 2
    assert [r.channel_axis for r in report] == [1, 1] + [-1] * 6
    y, _ = model(torch.randn(2, 200))
    y.sum().backward()


@pytest.mark.parametrize(
    ("name", "options", "norms", "keys", "parameters"),
    [
        ("vit_base_patch16_224", {"global_pool": "avg"}, 25, (152, 177), 86_567_656),
        ("vit_large_patch16_224", {"global_pool": "avg"}, 49, (296, 345), 304_326_632),
        ("vit_base_patch16_224", {"num_classes": 0}, 25, (150, 175), 85_798_656),
        ("vit_base_patch8_224", {"num_classes": 0}, 25, (150, 175), 85_807_872),
    ],
)
def test_mae_and_dino_sizes_of_the_papers(name, options, norms, keys, parameters):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    assert len(model.state_dict()) == keys[0]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(convert(model)) == norms
    assert len(model.state_dict()) == keys[1]
    assert sum(p.numel() for p in model.parameters()) == parameters + norms


@pytest.mark.parametrize(("depth", "width", "norms"), [(12, 12, 25), (24, 16, 49), (28, 16, 57)])
def test_dit_depths_of_the_papers(depth, width, norms):
    with torch.device("meta"):
        model = diffusers.DiTTransformer2DModel(
            num_layers=depth, num_attention_heads=width, attention_head_dim=8, sample_size=8
        )
        keys = len(model.state_dict())
    assert len(convert(model)) == norms
    assert len(model.state_dict()) == keys + norms
