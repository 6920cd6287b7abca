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
        "logits": (-2.7971458, -0.8430873, 2.4548442),
        "all_logits": -0.0266741597,
        "gradients": (
            *(0.0343996844, 0.000806926049, 9.5227305, 0.259690992),
            *(0.0303151664, -0.00105967705, 0.14958619, -0.00268260824),
        ),
        "losses": (
            *(3.4105878, 3.8029616, 3.9439106, 3.3522627, 3.1174855),
            *(3.2954586, 3.5494027, 3.5400822, 3.0786905, 3.0159843),
        ),
    },
    ("ln", "classifier"): {
        "logits": (0.9223818, -1.9540888, -1.6362925),
        "all_logits": 0.6206184604,
        "gradients": (
            *(0.000273101689, -0.00133001819, -1.61083033, 0.0289197667),
            *(0.00337434892, -0.00203060301, -0.0495093144, 0.00869640029),
        ),
        "losses": (
            *(1.4952803, 2.244478, 1.903843, 1.2686731, 1.7652824),
            *(1.6107392, 1.33259, 1.7732778, 1.3064541, 1.1286366),
        ),
    },
    ("dyt", "lm"): {
        "logits": (-1.6538236, -1.5866799, 1.0096163),
        "all_logits": -0.0188641124,
        "gradients": (
            *(0.0104484873, 3.71873609e-05, -0.0522384917, 0.000729064963),
            *(-8.48741736e-06, -0.000106944491, -0.00716239695, 0.00542325394),
        ),
        "losses": (
            *(3.193397, 3.3205214, 3.743928, 3.3079302, 2.8745551),
            *(2.9904401, 3.1958101, 3.5007906, 3.1122425, 2.7638135),
        ),
    },
    ("dyt", "classifier"): {
        "logits": (1.0887741, -1.5947107, -1.6567736),
        "all_logits": 0.6306287355,
        "gradients": (
            *(-0.000358459584, 2.84988091e-05, -0.0213578718, 0.000333395864),
            *(-7.08736097e-06, -3.68303895e-05, -0.0132208663, 0.00477020449),
        ),
        "losses": (
            *(1.4817846, 2.0910375, 1.9808009, 1.3579481, 1.9088829),
            *(1.8305769, 1.2684203, 1.7442132, 1.6399635, 1.1782558),
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
    assert loss.item() == pytest.approx(golden["losses"][0], abs=1e-6)
    found = [fingerprint(model.get_parameter(name).grad) for name in GRADIENTS]
    assert found == pytest.approx(golden["gradients"], rel=1e-5, abs=5e-7)


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
