"""The authors' LLaMA with DyT, on ibm-fms: logits, loss and gradients.

Needs ibm-fms 0.0.8 on PYTHONPATH. The release stores the rows of q and k as neighbouring pairs,
transformers as halves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from claims import Claim, largest_difference, perturb
from torch import Tensor, nn

from dyt import Norm
from dyt_llama.model import build
from dyt_llama.network_config import Network

LOGITS, LOSS, GRADIENTS = 5e-6, 2e-6, 1e-5
NETWORK = Network(
    width=64, depth=3, heads=4, kv_heads=2, ffn=96, vocabulary=80, positions=32, norm_eps=1e-5
)
ALPHA0 = {"attn": 0.8, "ffn": 0.2, "dec": 0.3}
NORM = Norm.dyt(
    ALPHA0["ffn"],
    alpha0_at=(("*.input_layernorm", ALPHA0["attn"]), ("model.norm", ALPHA0["dec"])),
)


def claims(checkout: Path) -> Iterator[Claim]:
    sys.path.insert(0, str(checkout / "other_tasks" / "LLaMA" / "fms_fsdp" / "models"))
    import llama

    torch.manual_seed(0)
    ours = build(NETWORK, NORM, seed=0, device=torch.device("cpu"), embedding_scale=True).model
    theirs = official(llama)
    perturb(ours)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # logits of about 1
    state = to_official(dict(ours.named_parameters()))
    expected = dict(theirs.named_parameters())
    assert state.keys() == expected.keys(), state.keys() ^ expected.keys()
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(state[name])
    ids = torch.randint(NETWORK.vocabulary, (2, NETWORK.positions))
    logits = [ours(ids).logits, theirs(ids)]
    losses = [F.cross_entropy(x[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) for x in logits]
    for loss in losses:
        loss.backward()
    yield Claim(
        text="LLaMA with DyT: logits",
        bound=LOGITS,
        measured=largest_difference(logits[:1], logits[1:]),
        note=f"largest {logits[1].abs().max().item():.1f}",
    )
    yield Claim(
        text="LLaMA with DyT: loss",
        bound=LOSS,
        measured=largest_difference(losses[:1], losses[1:]),
        note=f"loss {losses[1].item():.4f}",
    )
    gradients = to_official({name: p.grad for name, p in ours.named_parameters()})
    yield Claim(
        text="LLaMA with DyT: gradients, α and the embedding's scale among them, relative to each "
        "tensor's largest",
        bound=GRADIENTS,
        measured=max(
            largest_difference([gradients[name]], [p.grad]) / p.grad.abs().max().item()
            for name, p in expected.items()
        ),
        note=f"{len(expected)} tensors",
    )


def official(llama: object) -> nn.Module:
    """Return the release's network."""
    config = llama.LLaMAConfig(
        src_vocab_size=NETWORK.vocabulary,
        emb_dim=NETWORK.width,
        nheads=NETWORK.heads,
        kvheads=NETWORK.kv_heads,
        nlayers=NETWORK.depth,
        hidden_grow_factor=NETWORK.ffn / NETWORK.width,
        multiple_of=1,
        max_expected_seq_len=NETWORK.positions,
        norm_eps=NETWORK.norm_eps,
        **{f"{name}_alpha_init_value": value for name, value in ALPHA0.items()},
    )
    model = llama.LLaMA(config)
    model.rot_emb.compute_freqs_cis(torch.device("cpu"), NETWORK.positions)
    return model.eval()


def to_official(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights or gradients under the release's names and in its layout."""
    top = {
        "shared_scale": "model.embed_tokens.scale",
        "shared.emb.weight": "model.embed_tokens.weight",
        "shared.head.weight": "lm_head.weight",
        "dec_norm.alpha": "model.norm.alpha",
        "dec_norm.weight": "model.norm.weight",
    }
    named = {official: tensors[ours] for official, ours in top.items()}
    for i in range(NETWORK.depth):
        a, b = f"layers.{i}.", f"model.layers.{i}."
        q, k, v, o = (tensors[f"{b}self_attn.{name}_proj.weight"] for name in "qkvo")
        gate, up, down = (tensors[f"{b}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        qkv = torch.cat([paired(q, NETWORK.heads), paired(k, NETWORK.kv_heads), v])
        named |= {
            f"{a}attn.in_proj.qkv_fused.weight": qkv,
            f"{a}attn.dense.weight": o,
            f"{a}ff_sub_layer.wg1_fused.weight": torch.cat([gate, up]),
            f"{a}ff_sub_layer.w2.weight": down,
        }
        for ours, theirs in (("input_layernorm", "ln"), ("post_attention_layernorm", "ff_ln")):
            for name in ("alpha", "weight"):
                named[f"{a}{theirs}.{name}"] = tensors[f"{b}{ours}.{name}"]
    return named


def paired(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head from halves to neighbouring pairs."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)
