"""Golden values of the official code, in the copy of Caduceus's trainer (0060a6d).

They were measured with the official modules, optimizer groups and, for DyT, the authors' release
(DyT aab5dde) on the weights and inputs of ``formula``, without dropout, in
float32 on a CPU with torch 2.11.
"""

import pytest
import torch
import torch.nn.functional as F

import dyt
from dyt import Norm
from dyt_hyenadna.model import build_classifier, build_language_model
from dyt_hyenadna.optimizer_groups import optimizer_groups

from .formula import (
    CLASSES,
    NETWORK,
    fingerprint,
    ids_by_formula,
    labels_by_formula,
    weights_by_formula,
)

LAYERS = "backbone.layers"
GRADIENTS = (
    "backbone.embeddings.word_embeddings.weight",
    f"{LAYERS}.0.mixer.filter_fn.bias",
    f"{LAYERS}.0.mixer.filter_fn.implicit_filter.0.weight",
    f"{LAYERS}.0.mixer.filter_fn.implicit_filter.1.freq",
    f"{LAYERS}.0.norm1.weight",
    f"{LAYERS}.1.mixer.in_proj.weight",
    f"{LAYERS}.1.mixer.short_filter.weight",
    f"{LAYERS}.1.mlp.fc1.weight",
)
GOLDEN = {
    ("ln", "lm"): {
        "logits": (-2.8280973, -0.97812808, 2.4309676),
        "all_logits": -0.0151773406,
        "gradients": (
            *(0.033022439, 0.0025954149, -0.0013339442, 2.53602e-05),
            *(0.0089376888, -0.0017862655, -0.075992877, -0.0040172802),
        ),
        "losses": (
            *(3.6830912, 3.9893913, 3.5490482, 3.2794447, 2.6851707),
            *(2.832823, 2.8851662, 2.8635855, 2.7585335, 2.5975549),
        ),
    },
    ("ln", "classifier"): {
        "logits": (0.78813994, -2.5259593, -1.7342355),
        "all_logits": 0.654065712,
        "gradients": (
            *(0.0022763242, -0.0016848149, -0.001033565, 2.1096412e-05),
            *(-0.00039018395, -0.00026664592, -0.07857755, -0.0075658034),
        ),
        "losses": (
            *(1.5785238, 2.1621859, 1.5003994, 1.1763685, 1.5640709),
            *(1.2181282, 1.0772605, 1.3478659, 1.0859858, 1.132741),
        ),
    },
    ("dyt", "lm"): {
        "logits": (-1.6530985, -1.5863355, 1.0090309),
        "all_logits": -0.0190562606,
        "gradients": (
            *(0.014062332, 4.4691567e-05, -0.00013939529, -1.0139623e-06),
            *(-5.3161135e-07, -2.3137985e-05, -0.0033560582, 0.0056235453),
        ),
        "losses": (
            *(3.1924016, 3.4239798, 3.7277286, 3.279891, 2.8564255),
            *(2.9356213, 3.0201943, 3.3262732, 3.0967715, 2.7675645),
        ),
    },
    ("dyt", "classifier"): {
        "logits": (1.0809768, -1.6011568, -1.6515936),
        "all_logits": 0.628350788,
        "gradients": (
            *(-0.00034665647, 3.2458837e-05, -9.717902e-05, -6.7699108e-07),
            *(2.889123e-07, 9.9968044e-07, -0.0053388516, 0.0057468889),
        ),
        "losses": (
            *(1.4787909, 2.082428, 1.9745865, 1.3489202, 1.8804998),
            *(1.7893597, 1.2463742, 1.7084407, 1.5896906, 1.153372),
        ),
    },
}


def build(arm, kind):
    """Return a network with the weights of ``formula``, in evaluation mode (no dropout)."""
    if kind == "lm":
        model = build_language_model(NETWORK, 0)
    else:
        model = build_classifier(NETWORK, CLASSES, 0)
    if arm == "dyt":
        dyt.convert(model, Norm.dyt(0.5))
    model.load_state_dict(weights_by_formula(model.state_dict()))
    return model.eval()


def forward(model, kind, step=0):
    """Return logits and loss of the batch of a step."""
    ids = ids_by_formula(step)
    logits = model(ids)
    if kind == "lm":
        return logits, F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return logits, F.cross_entropy(logits, labels_by_formula(step))


@pytest.mark.parametrize(("arm", "kind"), GOLDEN)
def test_outputs_and_gradients_equal_the_official_ones(arm, kind):
    model, golden = build(arm, kind), GOLDEN[arm, kind]
    logits, loss = forward(model, kind)
    loss.backward()
    assert logits.flatten()[:3].tolist() == pytest.approx(golden["logits"], abs=5e-6)
    assert fingerprint(logits) == pytest.approx(golden["all_logits"], abs=5e-6)
    assert loss.item() == pytest.approx(golden["losses"][0], abs=1e-5)
    for name, expected in zip(GRADIENTS, golden["gradients"], strict=True):
        gradient = model.get_parameter(name).grad
        size = gradient.square().mean().sqrt().item()
        assert fingerprint(gradient) == pytest.approx(expected, abs=1e-5 * size), name


@pytest.mark.parametrize(("arm", "kind"), GOLDEN)
def test_ten_official_optimizer_steps_give_the_official_losses(arm, kind):
    model = build(arm, kind)
    groups = optimizer_groups(model, lr=1e-3, weight_decay=0.1, official=True)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    losses = []
    for step in range(10):
        _, loss = forward(model, kind, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(GOLDEN[arm, kind]["losses"], abs=1e-5)
