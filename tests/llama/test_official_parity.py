"""Parity with the authors' release: numbers of its patched LLaMA with the same weights.

They were computed with other_tasks/LLaMA/fms_fsdp/models/llama.py of the CVPR release (aab5dde) on
ibm-fms 0.0.8, with the weights of ``formula_model``; rows of q and k are permuted from halves to
neighbouring pairs there.
"""

import math

import pytest
import torch

from dyt import Norm
from dyt_llama.model import build
from dyt_llama.network_config import Network

from .tiny import CPU

NETWORK = Network(
    width=32, depth=2, heads=4, kv_heads=2, ffn=48, vocabulary=40, positions=16, norm_eps=1e-5
)
NORM = Norm.dyt(0.2, alpha0_at=(("*.input_layernorm", 0.8), ("model.norm", 0.3)))
TOKENS = (torch.arange(24).reshape(2, 12) * 7 + 3) % NETWORK.vocabulary


def formula(shape, number):
    """Values of a weight as a function of its number."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.3 * torch.sin(0.7 * i + 1.3 * number + 0.1 * (i % 7) * number)).reshape(shape).float()


@pytest.fixture
def formula_model():
    """A LLaMA with DyT whose weights follow from their numbers."""
    model = build(NETWORK, NORM, seed=0, device=CPU, embedding_scale=True).model
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if name.endswith("alpha"):
                parameter.mul_(1 + 0.05 * math.sin(number))
            elif "norm" in name:
                parameter.copy_(1 + formula(parameter.shape, number))
            elif name.endswith("scale"):
                parameter.mul_(1.1)
            else:
                parameter.copy_(formula(parameter.shape, number))
    return model


def test_logits_equal_the_release_s_patched_llama(formula_model):
    with torch.no_grad():
        logits = formula_model(TOKENS).logits
    expected = [
        -0.1061356, 0.4009532, -0.1606977, -0.0724351, 0.0637194, 0.1316186, -0.267138, -0.1371338
    ]  # fmt: skip
    torch.testing.assert_close(logits[1, -1, :8], torch.tensor(expected), rtol=0, atol=1e-6)
    assert logits.double().pow(2).sum().item() == pytest.approx(24.013096193690924, rel=1e-5)
    assert logits.double().sum().item() == pytest.approx(0.4307662961509777, abs=1e-4)


def test_loss_and_gradients_equal_the_release_s_patched_llama(formula_model):
    targets = TOKENS[:, 1:]
    loss = formula_model(TOKENS[:, :-1], targets=targets) / targets.numel()
    loss.backward()
    assert loss.item() == pytest.approx(3.6934800148010254, rel=1e-6)
    gradients = {n: p.grad for n, p in formula_model.named_parameters() if p.numel() == 1}
    expected = {
        "model.embed_tokens.scale": 0.004484741948544979,
        "model.layers.0.input_layernorm.alpha": -0.01309378631412983,
        "model.layers.0.post_attention_layernorm.alpha": -0.007275987416505814,
        "model.layers.1.input_layernorm.alpha": 0.005310565698891878,
        "model.layers.1.post_attention_layernorm.alpha": -0.0024624611251056194,
        "model.norm.alpha": 0.03665394335985184,
    }
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert gradient.item() == pytest.approx(expected[name], rel=1e-4, abs=1e-7)
