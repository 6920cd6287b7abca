"""Tests of the architecture rules: LLaMA's embedding scale and DiT's initialization."""

import copy
import math
import pickle

import diffusers
import pytest
import torch
import transformers as hf
from torch import nn

from dyt import Norm, convert, drop_zero_init, scale_embedding

TOKENS = torch.arange(2 * 6).view(2, 6)
SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}


def llama(**options):
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, **options)).eval()


def lookup(model, tokens=TOKENS):
    return model.get_input_embeddings()(tokens)


@pytest.mark.parametrize("tied", [False, True])
def test_scale_embedding_multiplies_by_root_of_width(tied):
    model = llama(tie_word_embeddings=tied)
    keys, plain = set(model.state_dict()), lookup(model)
    head = model.lm_head.weight.clone()
    assert scale_embedding(model) == "model.embed_tokens.scale"
    scale = model.model.embed_tokens.scale
    assert scale.shape == (1,)
    assert scale.item() == pytest.approx(math.sqrt(16))
    torch.testing.assert_close(lookup(model), 4 * plain)
    assert set(model.state_dict()) == keys | {"model.embed_tokens.scale"}
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert torch.equal(model.lm_head.weight, head)


def test_embedding_scale_is_learnable():
    model = llama(tie_word_embeddings=True)
    before = model(TOKENS).logits
    convert(model, Norm.dyt(0.2))
    scale_embedding(model)
    after = model(TOKENS).logits
    assert not torch.allclose(before, after)
    after.square().mean().backward()
    assert model.model.embed_tokens.scale.grad.abs() > 0


def test_scaled_model_survives_deepcopy_pickle_state_dict_and_compile():
    model = llama()
    scale_embedding(model)
    with torch.no_grad():
        model.model.embed_tokens.scale.fill_(3.0)
    expected = lookup(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(lookup(twin), expected)
        nn.init.zeros_(twin.model.embed_tokens.scale)
        assert torch.equal(lookup(twin), torch.zeros_like(expected))
        assert torch.equal(lookup(model), expected)
    other = llama()
    scale_embedding(other)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(lookup(other), expected)
    compiled = torch.compile(model.model.embed_tokens, backend="eager", fullgraph=True)
    assert torch.equal(compiled(TOKENS), expected)


def test_embedding_scale_takes_dtype_and_device():
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(4, 9)).to(torch.bfloat16)
    assert scale_embedding(model, "0") == "0.scale"
    assert model[0].scale.is_meta
    assert model[0].scale.dtype == torch.bfloat16


def test_scale_embedding_by_path():
    model = nn.ModuleDict({"tokens": nn.Embedding(4, 9), "head": nn.Linear(9, 4)})
    plain = model["tokens"](torch.tensor([1]))
    assert scale_embedding(model, "tokens") == "tokens.scale"
    torch.testing.assert_close(model["tokens"](torch.tensor([1])), 3 * plain)
    embedding = nn.Embedding(4, 9)
    assert scale_embedding(embedding, "") == "scale"


def gemma3():
    return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**SIZES))


def t5():
    return hf.T5Model(
        hf.T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def scaled():
    model = llama()
    scale_embedding(model)
    return model


class WithoutEmbedding(nn.Sequential):
    """As of transformers: the method exists, and says that this network has no such layer."""

    def get_input_embeddings(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (
            lambda: WithoutEmbedding(nn.Embedding(4, 8)),
            None,
            "WithoutEmbedding has no get_input_embeddings.* '0'",
        ),
        (
            lambda: nn.Sequential(nn.Embedding(4, 8)),
            None,
            "Sequential has no get_input_embeddings.* '0'",
        ),
        (lambda: nn.Linear(4, 8), None, "The model has no nn.Embedding"),
        (llama, "model.embed", "No module at 'model.embed'. Pass path= .*'model.embed_tokens'"),
        (llama, "model.norm", "'model.norm' is a LlamaRMSNorm, which has no weight of shape"),
        (scaled, None, "'model.embed_tokens' has a scale already"),
        (gemma3, None, "does more than a lookup and may already scale"),
        (t5, None, "'shared' shares its weight with encoder.embed_tokens, decoder.embed_tokens"),
    ],
)
def test_scale_embedding_errors_are_explained(make, path, message):
    with pytest.raises(ValueError, match=message):
        scale_embedding(make(), path)


ZEROED = [f"transformer_blocks.{i}.norm1.linear" for i in range(2)] + ["proj_out_1", "proj_out_2"]


def dit():
    """Return diffusers' DiT with the original's zero initialization, which diffusers omits."""
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        sample_size=8,
        norm_num_groups=2,
        num_embeds_ada_norm=10,
    )
    for path in ZEROED:
        nn.init.zeros_(model.get_submodule(path).weight)
        nn.init.zeros_(model.get_submodule(path).bias)
    return model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_drop_zero_init_changes_only_zero_weights():
    model = dit()
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    changed = drop_zero_init(model, generator=generator())
    assert sorted(changed) == sorted(ZEROED)
    assert torch.equal(torch.get_rng_state(), state)
    for name, p in model.named_parameters():
        path, _, kind = name.rpartition(".")
        if path in ZEROED and kind == "weight":
            bound = math.sqrt(6 / sum(p.shape))  # Xavier uniform
            assert bound * 0.9 < p.abs().max() <= bound
            assert p.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        else:
            assert torch.equal(p, before[name]), name
    assert all(not model.get_submodule(path).bias.any() for path in ZEROED)


def test_drop_zero_init_gives_converted_dit_gradients():
    model = dit()
    convert(model)

    def call():
        images, ones = torch.randn(2, 4, 8, 8), torch.ones(2, dtype=torch.long)
        return model(images, timestep=ones, class_labels=ones).sample

    assert not call().any()
    drop_zero_init(model, generator=generator())
    call().square().sum().backward()
    assert model.norm_out.alpha.grad.abs() > 0


def test_drop_zero_init_is_deterministic_in_any_dtype():
    models = [dit(), dit(), dit().to(torch.bfloat16)]
    for model, seed in zip(models, (1, 1, 1), strict=True):
        drop_zero_init(model, generator=generator(seed))
    one, same, half = (m.proj_out_2.weight for m in models)
    assert torch.equal(one, same)
    assert torch.equal(one.to(torch.bfloat16), half)
    other = dit()
    drop_zero_init(other, generator=generator(2))
    assert not torch.equal(one, other.proj_out_2.weight)


def test_drop_zero_init_only_selected_layers():
    model = dit()
    changed = drop_zero_init(model, generator=generator(), only=("proj_out_*",))
    assert changed == ("proj_out_1", "proj_out_2")
    assert not model.transformer_blocks[0].norm1.linear.weight.any()
    assert drop_zero_init(model, generator=generator(), only="transformer_blocks") == tuple(
        ZEROED[:2]
    )


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: nn.Linear(2, 2), {}, r"'\*' matches no zero-init.* Linear, which has none.$"),
        (dit, {"only": ("final*",)}, r"'final\*' matches no .*which has transformer_blocks.0"),
        (dit, {"only": ()}, "only is empty"),
        (dit, {"generator": None}, "generator = None is not a torch.Generator"),
        (lambda: nn.Linear(2, 2, device="meta"), {}, "meta device and has no values yet"),
    ],
)
def test_drop_zero_init_errors_are_explained(make, options, message):
    with pytest.raises(ValueError, match=message):
        drop_zero_init(make(), **{"generator": generator(), **options})
