"""Tests of weights in the official layouts: names both ways, tied tensors, refusals."""

import pytest
import torch
from safetensors.torch import save_file

import dyt
from dyt_caduceus import weights
from dyt_caduceus.model import build_classifier, build_language_model, convert_norms
from dyt_caduceus.network_config import CaduceusNetwork
from dyt_caduceus.sources import CADUCEUS_WEIGHTS, weights_file

from ..messages import refused

VARIANTS = {
    "ph": {"variant": "ph"},
    "ps": {"variant": "ps"},
    "ps with strand_exchange": {"variant": "ps", "strand_exchange": True},
}


def language_model(variant="ps", seed=0, norm=None, **sizes):
    network = CaduceusNetwork(**{"width": 16, "layers": 2, **VARIANTS[variant], **sizes})
    model = build_language_model(network, seed)
    if norm is not None:
        convert_norms(model, norm)
    return model


def classifier(variant="ps", seed=1, norm=None, **sizes):
    network = CaduceusNetwork(**{"width": 16, "layers": 2, **VARIANTS[variant], **sizes})
    model = build_classifier(network, 3, seed)
    if norm is not None:
        convert_norms(model, norm)
    return model


def assert_equal_states(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# Names of one block of the official checkpoints, without "caduceus.backbone.layers.0.".
MAMBA = ("A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight")
MAMBA = (*MAMBA, "dt_proj.weight", "dt_proj.bias", "out_proj.weight")
NAMES = {
    "ph": ("norm.weight", "mixer.", "norm_f.weight", "word_embeddings.weight", "lm_head.weight"),
    "ps": (
        "norm.submodule.weight",
        "mixer.submodule.",
        "norm_f.submodule.weight",
        "word_embeddings.embedding.weight",
        "lm_head.lm_head.weight",
    ),
    "ps with strand_exchange": (
        "norm.weight",
        "mixer.submodule.",
        "norm_f.weight",
        "word_embeddings.embedding.weight",
        "lm_head.lm_head.weight",
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_state_has_exactly_the_official_names(variant):
    norm, mixer, last, embedding, head = NAMES[variant]
    block = [f"{mixer}mamba_{d}.{name}" for d in ("fwd", "rev") for name in MAMBA]
    expected = {
        *(f"caduceus.backbone.layers.{i}.{name}" for i in range(2) for name in [norm, *block]),
        f"caduceus.backbone.{last}",
        f"caduceus.backbone.embeddings.{embedding}",
        head,
    }
    if variant != "ph":
        maps = ("caduceus.backbone.embeddings.word_embeddings", "lm_head")
        expected |= {f"{name}.complement_map" for name in maps}
    state = language_model(variant).state_dict()
    assert set(weights.official_state(state, "huggingface")) == expected
    lightning = weights.official_state(state, "lightning")
    assert set(lightning) == {f"model.{name}" for name in expected}


@pytest.mark.parametrize("norm", [None, dyt.Norm.dyt()], ids=["RMSNorm", "DyT"])
@pytest.mark.parametrize("layout", ["lightning", "huggingface"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_official_layouts_load_both_ways(variant, layout, norm, tmp_path):
    source = language_model(variant, norm=norm)
    official = weights.official_state(source.state_dict(), layout)
    assert_equal_states(weights.from_official(official), source.state_dict())
    file = tmp_path / "weights.ckpt"
    torch.save({"state_dict": official, "epoch": 3}, file)
    target = language_model(variant, seed=5, norm=norm)
    assert set(weights.load(target, file)) == set(source.state_dict())
    assert_equal_states(target.state_dict(), source.state_dict())


def test_weights_of_safetensors_may_leave_tied_tensors_out(tmp_path):
    source = language_model("ps")
    official = weights.official_state(source.state_dict(), "huggingface")
    stored = {name: t for name, t in official.items() if "fwd.in_proj" not in name}
    stored = {name: t for name, t in stored.items() if "rev.out_proj" not in name}
    del stored["caduceus.backbone.embeddings.word_embeddings.embedding.weight"]
    save_file({name: t.clone() for name, t in stored.items()}, tmp_path / "model.safetensors")
    CADUCEUS_WEIGHTS.check(tmp_path)
    target = language_model("ps", seed=5)
    weights.load(target, weights_file(tmp_path))
    assert_equal_states(target.state_dict(), source.state_dict())


def test_weights_untied_by_transformers_are_refused():
    state = weights.official_state(language_model("ph").state_dict(), "huggingface")
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    assert refused(weights.from_official, state) == (
        "backbone.embeddings.word_embeddings.weight differs from lm_head.weight; expected equal "
        "tensors, which are one parameter in Caduceus"
    )
    state = weights.official_state(language_model("ph").state_dict(), "huggingface")
    name = "caduceus.backbone.layers.1.mixer.mamba_rev.in_proj.weight"
    state[name] = state[name] + 1
    with pytest.raises(ValueError, match=r"in_proj.weight differs from .*in_proj.weight; expected"):
        weights.from_official(state)


@pytest.mark.parametrize("target", VARIANTS)
@pytest.mark.parametrize("source", VARIANTS)
def test_load_refuses_weights_of_another_variant(source, target):
    model, state = language_model(target, seed=5), language_model(source).state_dict()
    if source == target:
        weights.load_state(model, state, "weights.ckpt")
        return
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert refused(weights.load_state, model, state, "weights.ckpt") == (
        f"weights.ckpt has weights of the variant {source}, but the network's config is of the "
        f"variant {target}; set variant and strand_exchange as the weights have them. Nothing was "
        "loaded"
    )
    assert_equal_states(model.state_dict(), before)


MISMATCHES = {
    "width": ({"width": 24}, r"word_embeddings.embedding.weight is \(16, 24\) in it and \(16, 16"),
    "vocabulary": ({"padded_vocabulary": 24}, r"weight is \(24, 16\) in it and \(16, 16\) here"),
    "layers": ({"layers": 3}, r"layers.2.norm.submodule.weight is unknown to the model"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_load_backbone_names_the_first_keys_that_differ(case):
    sizes, message = MISMATCHES[case]
    with pytest.raises(ValueError, match=f"{message}.*Nothing was loaded") as error:
        weights.load_backbone(classifier(), language_model(**sizes).state_dict())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_load_backbone_keeps_alpha_and_the_classifiers_head(variant):
    source = language_model(variant, norm=dyt.Norm.dyt(alpha0=0.9))
    target = classifier(variant, norm=dyt.Norm.dyt(alpha0=0.5))
    head = target.head.weight.clone()
    names = weights.load_backbone(target, source.state_dict())
    assert torch.equal(target.head.weight, head)
    assert len([name for name in names if name.endswith("alpha")]) == 3
    assert list(dyt.alphas(target).values()) == pytest.approx([0.9] * 3)
    assert_equal_states(target.backbone.state_dict(), source.backbone.state_dict())
    assert set(names) == {f"backbone.{name}" for name in target.backbone.state_dict()}


def test_load_backbone_refuses_weights_of_another_norm():
    with pytest.raises(ValueError, match=r"norm.submodule.alpha is missing in it"):
        weights.load_backbone(classifier(norm=dyt.Norm.dyt()), language_model().state_dict())
    with pytest.raises(ValueError, match=r"norm.submodule.alpha is unknown to the model"):
        weights.load_backbone(classifier(), language_model(norm=dyt.Norm.dyt()).state_dict())


def test_load_refuses_other_complements():
    state = language_model("ps").state_dict()
    name = "backbone.embeddings.word_embeddings.complement_map"
    state[name] = state[name].flip(0)
    with pytest.raises(ValueError, match=f"{name} has other complements"):
        weights.load_state(language_model("ps"), state, "it")


def test_classifier_states_have_a_lightning_layout_only():
    state = classifier("ph").state_dict()
    official = weights.official_state(state, "lightning")
    heads = [name for name in official if name.startswith("decoder.0.output_transform.")]
    assert len(heads) == 2
    assert_equal_states(weights.from_official(official), state)
    assert refused(weights.official_state, state, "huggingface") == (
        "Hugging Face's classifier has no bias; expected the state dict of a language model, or "
        "the backbone's part of it"
    )


def test_read_refuses_files_without_caduceus(tmp_path):
    torch.save({"state_dict": {"model.backbone.ln_f.weight": torch.ones(3)}}, tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"a.bin has no weights of Caduceus; expected names"):
        weights.read(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"there is no checkpoint .*b.ckpt"):
        weights.read(tmp_path / "b.ckpt")
    (tmp_path / "c.bin").write_bytes(b"half of a file")
    with pytest.raises(ValueError, match=r"c.bin cannot be read"):
        weights.read(tmp_path / "c.bin")


def test_weights_source_describes_its_folder(tmp_path):
    assert CADUCEUS_WEIGHTS.title == "released weights of Caduceus"
    assert refused(CADUCEUS_WEIGHTS.check, tmp_path) == (
        f"{tmp_path} has no weights; expected a folder of kuleshov-group/caduceus-* on Hugging "
        "Face with weights.ckpt or model.safetensors or pytorch_model.bin, or a checkpoint file"
    )
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="git-lfs"):
        CADUCEUS_WEIGHTS.check(tmp_path)


def test_weights_file_is_the_path_or_the_first_one_in_it(tmp_path):
    for name in ("pytorch_model.bin", "model.safetensors", "weights.ckpt"):
        (tmp_path / name).touch()
        assert weights_file(tmp_path) == tmp_path / name
    (tmp_path / "mine.pth").touch()
    assert weights_file(tmp_path / "mine.pth") == tmp_path / "mine.pth"
