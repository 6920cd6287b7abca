"""LLaMA: sizes of the papers, initial weights, parity with transformers, checkpointed layers."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from dyt import Norm
from dyt_llama import initial_weights
from dyt_llama import network_config as sizes
from dyt_llama.model import (
    Llama,
    build,
    build_on_meta,
    checkpoint_layers,
    parameter_count,
    transformers_config,
)
from dyt_llama.network_config import Network, llama_of
from matched.training import weights_digest
from matched.training.seeding import generator

from .tiny import CPU, DYT, NETWORK, OWN

TOKENS = (torch.arange(24).reshape(2, 12) * 7 + 3) % NETWORK.vocabulary


def built(norm=OWN, seed=0, network=NETWORK):
    """A network with initial weights, and with an embedding scale if it has DyT."""
    return build(network, norm, seed=seed, device=CPU, embedding_scale=norm == DYT)


def counts(network):
    """Return the number of norms, and of parameters and keys with the paper's norm and with DyT."""
    with torch.device("meta"):
        own = Llama(network)
    dyt = build_on_meta(network, DYT, embedding_scale=True)
    *norms, scale = dyt.differing
    assert scale == "model.embed_tokens.scale"
    assert {p.device.type for p in dyt.model.parameters()} == {"meta"}
    sizes = [(parameter_count(model), len(model.state_dict())) for model in (own, dyt.model)]
    return [len(norms), *sizes[0], *sizes[1]]


def loss_and_gradients(model):
    loss = model(TOKENS[:, :-1], targets=TOKENS[:, 1:])
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters()}


class TestSizes:
    @pytest.mark.parametrize(
        "name, parameters, keys, norms",
        [
            ("LLAMA_7B", 6_738_415_616, 291, 65),
            ("LLAMA_13B", 13_015_864_320, 363, 81),
            ("LLAMA_34B", 33_743_970_304, 435, 97),
            ("LLAMA_70B", 68_976_648_192, 723, 161),
            ("LLAMA_1B4", 1_288_800_256, 219, 49),
        ],
    )
    def test_parameters_and_keys_of_the_papers_sizes(self, name, parameters, keys, norms):
        network = getattr(sizes, name)
        one, two = (counts(replace(network, depth=depth)) for depth in (1, 2))
        # Each further layer adds as much as the second one.
        found = [a + (network.depth - 1) * (b - a) for a, b in zip(one, two, strict=True)]
        assert found == [norms, parameters, keys, parameters + norms + 1, keys + norms + 1]

    def test_all_layers_of_a_paper_size_are_built(self):
        assert counts(sizes.LLAMA_1B4) == [49, 1_288_800_256, 219, 1_288_800_306, 269]

    def test_llama_of_gives_the_papers_models_at_their_sizes(self):
        assert llama_of(4096, 32) == sizes.LLAMA_7B
        assert llama_of(5120, 40) == sizes.LLAMA_13B
        assert llama_of(8192, 48, kv_heads=8) == sizes.LLAMA_34B

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"heads": 5}, "heads 5 does not divide width 32"),
            ({"kv_heads": 3}, "kv_heads 3 does not divide heads 4"),
            ({"heads": 32, "kv_heads": 32}, "rotary positions need an even number"),
            ({"depth": 0}, "depth is 0; expected a whole number"),
            ({"std": 0.0}, "std is 0.0; expected a positive number"),
        ],
    )
    def test_network_refuses_sizes_that_do_not_fit(self, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(NETWORK, **changes)

    def test_configuration_of_transformers_has_every_size(self):
        network = replace(NETWORK, rope_theta=500.0, norm_eps=1e-3, std=0.05)
        expected = {
            "vocab_size": 300,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 16,
            "rms_norm_eps": 1e-3,
            "initializer_range": 0.05,
            "tie_word_embeddings": False,
            "use_cache": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
        }
        config = transformers_config(network)
        assert {name: getattr(config, name) for name in expected} == expected
        assert config.rope_parameters["rope_theta"] == 500.0
        assert config._attn_implementation == "sdpa"


class TestNorms:
    def test_dyt_layers_have_alpha0_of_attention_and_of_the_rest(self):
        model = built(DYT).model
        alphas = {n: p.item() for n, p in model.named_parameters() if n.endswith("alpha")}
        assert len(alphas) == 7
        for name, alpha in alphas.items():
            assert alpha == (1.5 if "input_layernorm" in name else 0.5)
        assert not any(name.endswith("norm.bias") for name in model.state_dict())

    def test_embedding_scale_is_the_root_of_the_width(self):
        model = built(DYT).model
        assert model.model.embed_tokens.scale.item() == pytest.approx(math.sqrt(32))
        embedded = model.model.embed_tokens(TOKENS)
        plain = torch.nn.functional.embedding(TOKENS, model.model.embed_tokens.weight)
        torch.testing.assert_close(embedded, plain * math.sqrt(32))
        assert not any("scale" in name for name in built(OWN).model.state_dict())

    def test_arms_have_the_same_fingerprint(self):
        digests = {weights_digest(b.model, b.differing) for b in (built(OWN), built(DYT))}
        assert len(digests) == 1
        assert digests != {weights_digest(built(OWN, seed=1).model, built(OWN).differing)}

    def test_alpha0_pattern_without_a_layer_is_refused(self):
        with pytest.raises(ValueError, match=r"'\*\.attn_norm' sets the α0 of no layer"):
            build_on_meta(NETWORK, Norm.dyt(0.5, alpha0_at=(("*.attn_norm", 1.0),)))


class TestInitialWeights:
    @pytest.mark.parametrize("std", [0.02, 0.08])
    def test_weights_are_normal_with_the_same_std_at_any_depth(self, std):
        network = Network(
            width=64, depth=2, heads=4, kv_heads=4, ffn=128, vocabulary=512, positions=8, std=std
        )
        for name, weight in built(network=network).model.state_dict().items():
            if "norm" in name:
                assert (weight == 1).all()
            else:
                assert weight.std().item() == pytest.approx(std, rel=0.05)
                assert abs(weight.mean().item()) < 0.05 * std

    def test_weights_do_not_depend_on_norm_or_on_other_layers(self):
        one = built(OWN).model.state_dict()
        for other in (built(DYT), built(OWN, network=replace(NETWORK, depth=2))):
            for name, weight in other.model.state_dict().items():
                if "norm" not in name and "scale" not in name:
                    assert torch.equal(weight, one[name])

    @pytest.mark.parametrize("block", [1, 100, 10**6])
    def test_fill_normal_draws_blocks_of_rows_alone(self, monkeypatch, block):
        monkeypatch.setattr(initial_weights, "BLOCK", block)
        weight = torch.empty(23, 8)
        initial_weights.fill_normal(weight, 0.02, 0, "weights", "name")
        assert weight.isfinite().all() and len(weight.unique()) > 180
        again = torch.empty(23, 8)
        initial_weights.fill_normal(again, 0.02, 0, "weights", "name")
        assert torch.equal(weight, again)

    @pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
    def test_weights_are_drawn_for_their_names(self, name):
        weight = built(seed=7).model.get_parameter(name)
        source = generator(7, "weights", name, 0)
        expected = torch.empty_like(weight).normal_(0.0, 0.02, generator=source)
        assert torch.equal(weight, expected)

    def test_fill_normal_has_a_generator_for_every_block_of_rows(self, monkeypatch):
        monkeypatch.setattr(initial_weights, "BLOCK", 100)
        weight = torch.empty(23, 8)
        initial_weights.fill_normal(weight, 0.5, 3, "name")
        for block, rows in enumerate(weight.split(12)):
            drawn = torch.empty(12, 8).normal_(0.0, 0.5, generator=generator(3, "name", block))
            assert torch.equal(rows, drawn[: len(rows)])
        small = torch.empty(3, 7)  # its last numbers depend on how many are drawn
        initial_weights.fill_normal(small, 0.5, 3, "name")
        expected = torch.empty(3, 7).normal_(0.0, 0.5, generator=generator(3, "name", 0))
        assert torch.equal(small, expected)

    def test_rotary_frequencies_are_those_of_transformers_in_fp32(self):
        reference = LlamaForCausalLM(transformers_config(NETWORK)).model.rotary_emb.inv_freq
        frequencies = built().model.model.rotary_emb.inv_freq
        assert frequencies.dtype == torch.float32 and torch.equal(frequencies, reference)


class TestParity:
    def test_logits_equal_those_of_transformers(self):
        model = built().model
        reference = LlamaForCausalLM(transformers_config(NETWORK))
        reference.load_state_dict(model.state_dict())
        expected = reference(TOKENS).logits
        torch.testing.assert_close(model(TOKENS).logits, expected, rtol=0, atol=1e-6)

    def test_loss_equals_the_cross_entropy_of_the_logits(self):
        model = built(DYT).model
        logits = model(TOKENS[:, :-1]).logits
        expected = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), TOKENS[:, 1:].flatten(), reduction="sum"
        )
        loss = model(TOKENS[:, :-1], targets=TOKENS[:, 1:])
        torch.testing.assert_close(loss, expected)

    def test_attention_is_causal(self):
        model = built(DYT).model
        changed = TOKENS.clone()
        changed[:, 6:] = 1
        before, after = model(TOKENS).logits, model(changed).logits
        assert torch.equal(before[:, :6], after[:, :6])
        assert not torch.equal(before[:, 6:], after[:, 6:])

    def test_generate_uses_the_trained_network(self):
        model = built(DYT).model.eval()
        generated = model.generate(TOKENS[:1, :4], max_new_tokens=3, do_sample=False)
        tokens = TOKENS[:1, :4]
        for _ in range(3):
            best = model(tokens).logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, best], dim=1)
        assert torch.equal(generated, tokens)


class TestCheckpointedLayers:
    @pytest.mark.parametrize(
        "fraction, chosen",
        [(0.0, []), (1.0, [0, 1, 2, 3]), (0.5, [0, 2]), (0.25, [1]), (0.75, [0, 1, 3])],
    )
    def test_checkpoint_layers_are_spread_evenly(self, fraction, chosen):
        model = build_on_meta(replace(NETWORK, depth=4), OWN).model
        assert checkpoint_layers(model, fraction) == len(chosen)
        layers = enumerate(model.model.layers)
        assert [n for n, layer in layers if "forward" in vars(layer)] == chosen

    def test_checkpointed_layers_give_the_same_gradients(self):
        plain, recomputed = built(DYT).model, built(DYT).model
        checkpoint_layers(recomputed, 0.5)
        (loss, gradients), (other_loss, others) = map(loss_and_gradients, (plain, recomputed))
        assert loss == other_loss
        for name, gradient in gradients.items():
            assert torch.equal(gradient, others[name])

    def test_checkpointed_layers_are_computed_twice(self):
        model = built(OWN).model
        calls = []
        for number, layer in enumerate(model.model.layers):
            layer.mlp.register_forward_pre_hook(lambda *_, n=number: calls.append(n))
        checkpoint_layers(model, 0.5)
        loss_and_gradients(model)
        assert sorted(calls) == [0, 0, 1, 2, 2]
        calls.clear()
        with torch.no_grad():
            model(TOKENS)
        assert sorted(calls) == [0, 1, 2]
