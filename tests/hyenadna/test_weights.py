"""Official checkpoint layouts: names both ways, strict loading, damaged and foreign files."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch

import dyt
from dyt import Norm
from dyt_hyenadna import weights
from dyt_hyenadna.model import build_classifier, build_language_model
from dyt_hyenadna.network_config import HyenaNetwork

from ..messages import refused

TINY = HyenaNetwork(width=8, layers=2, max_length=18, filter_width=8)

BLOCK = (
    *("mixer.out_proj.weight", "mixer.out_proj.bias", "mixer.in_proj.weight", "mixer.in_proj.bias"),
    *("mixer.short_filter.weight", "mixer.short_filter.bias", "mixer.filter_fn.bias"),
    *("mixer.filter_fn.pos_emb.z", "mixer.filter_fn.pos_emb.t"),
    *(
        f"mixer.filter_fn.implicit_filter.{i}.{kind}"
        for i in (0, 2, 4)
        for kind in ("weight", "bias")
    ),
    *(f"mixer.filter_fn.implicit_filter.{i}.freq" for i in (1, 3, 5)),
    *("mixer.filter_fn.implicit_filter.6.weight", "mixer.filter_fn.modulation.deltas"),
    *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
    *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
)
"""Names of a block in ``state_dict()`` of the official ConvLMHeadModel."""
LANGUAGE_MODEL = {
    *("backbone.embeddings.word_embeddings.weight", "backbone.ln_f.weight", "backbone.ln_f.bias"),
    *(f"backbone.layers.{i}.{name}" for i in (0, 1) for name in BLOCK),
    "lm_head.weight",
}
LIGHTNING = {f"model.{name}" for name in LANGUAGE_MODEL}
LIGHTNING_CHECKPOINTED = {
    name.replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer.") for name in LIGHTNING
}
LIGHTNING_CLASSIFIER = {
    *(LIGHTNING - {"model.lm_head.weight"}),
    *("decoder.0.output_transform.weight", "decoder.0.output_transform.bias"),
}
HUGGING_FACE = {
    name if name == "lm_head.weight" else f"hyena.{name}"
    for name in LANGUAGE_MODEL
    if not name.endswith(("3.freq", "5.freq"))
}
"""Names of the official port's HyenaDNAForCausalLM, whose shared frequencies are stored once."""


def language_model(seed=0, arm="ln", network=TINY):
    model = build_language_model(network, seed)
    if arm == "dyt":
        dyt.convert(model, Norm.dyt(0.5))
    return model


def assert_equal_weights(first, second):
    state = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("lightning", LIGHTNING),
        ("lightning-checkpointed", LIGHTNING_CHECKPOINTED),
        ("huggingface", HUGGING_FACE),
    ],
)
def test_language_model_exports_official_names_and_loads_them(layout, names):
    model, other = language_model(1), language_model(2)
    official = weights.official_state(model.state_dict(), layout)
    assert set(official) == names
    assert set(weights.load_state(other, official, "it")) == LANGUAGE_MODEL
    assert_equal_weights(model, other)


def test_classifier_exports_lightning_names_and_loads_them():
    model, other = build_classifier(TINY, 3, 1), build_classifier(TINY, 3, 2)
    official = weights.official_state(model.state_dict(), "lightning")
    assert set(official) == LIGHTNING_CLASSIFIER
    # HyenaDNA's own trainer, unlike Caduceus's, stores an unused output layer as well.
    official["model.lm_head.weight"] = torch.zeros(16, 8)
    weights.load_state(other, official, "it")
    assert_equal_weights(model, other)


def test_classifier_has_no_counterpart_on_hugging_face():
    state = build_classifier(TINY, 3, 1).state_dict()
    assert refused(weights.official_state, state, "huggingface") == (
        "Hugging Face's port has no classifier that pools like this one; expected the state dict "
        "of a language model, or the backbone's part of it"
    )


@pytest.mark.parametrize("arm", ["ln", "dyt"])
def test_from_official_is_the_inverse_of_official_state(arm):
    state = language_model(1, arm).state_dict()
    for layout in ("lightning", "lightning-checkpointed", "huggingface"):
        back = weights.from_official(weights.official_state(state, layout))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], state[name]) for name in state)


def test_load_backbone_keeps_the_head_and_inherits_alpha():
    pretrained = language_model(1, "dyt")
    with torch.no_grad():
        pretrained.backbone.layers[1].norm2.alpha.fill_(0.7)
    classifier = build_classifier(TINY, 2, 2)
    dyt.convert(classifier, Norm.dyt(0.5))
    head = classifier.head.weight.clone()
    names = weights.load_backbone(classifier, pretrained.state_dict())
    assert classifier.backbone.layers[1].norm2.alpha.item() == pytest.approx(0.7)
    assert_equal_weights(pretrained.backbone, classifier.backbone)
    assert torch.equal(classifier.head.weight, head)
    assert set(names) == {n for n in classifier.state_dict() if n.startswith("backbone.")}
    assert "backbone.layers.1.norm2.alpha" in names


@pytest.mark.parametrize("layout", ["lightning", "lightning-checkpointed", "huggingface"])
def test_load_backbone_reads_every_layout(layout):
    pretrained, classifier = language_model(1), build_classifier(TINY, 2, 2)
    state = weights.official_state(pretrained.state_dict(), layout)
    weights.load_backbone(classifier, state)
    assert_equal_weights(pretrained.backbone, classifier.backbone)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 16}, r"word_embeddings.weight is \(16, 16\) in it and \(16, 8\) here"),
        ({"vocabulary": 20}, r"word_embeddings.weight is \(24, 8\) in it and \(16, 8\) here"),
        ({"max_length": 20}, r"pos_emb.z is \(1, 20, 5\) in it and \(1, 18, 5\) here"),
        ({"layers": 3}, "backbone.layers.2.*is unknown to the model"),
        ({"layers": 1}, "backbone.layers.1.*is missing in it"),
    ],
)
def test_load_backbone_refuses_another_architecture_in_one_line(change, named):
    pretrained, classifier = language_model(1, network=replace(TINY, **change)), language_model(2)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    with pytest.raises(ValueError, match=named) as raised:
        weights.load_backbone(classifier, pretrained.state_dict())
    assert "\n" not in str(raised.value) and "Nothing was loaded" in str(raised.value)
    assert all(torch.equal(before[n], t) for n, t in classifier.state_dict().items())


@pytest.mark.parametrize(("pretrained", "tuned"), [("ln", "dyt"), ("dyt", "ln")])
def test_load_backbone_refuses_another_norm(pretrained, tuned):
    with pytest.raises(ValueError, match=r"norm1\.alpha is (missing in it|unknown)"):
        weights.load_backbone(language_model(1, tuned), language_model(2, pretrained).state_dict())


def test_from_official_refuses_an_untied_output_layer():
    state = dict(language_model().state_dict())
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    assert refused(weights.from_official, state) == (
        "lm_head.weight differs from backbone.embeddings.word_embeddings.weight; expected equal "
        "tensors, which are one parameter in HyenaDNA"
    )
    weights.load_backbone(language_model(2), state)  # which does not need the output layer


def test_from_official_refuses_different_frequencies_of_one_filter():
    state = dict(language_model().state_dict())
    name = "backbone.layers.0.mixer.filter_fn.implicit_filter.5.freq"
    state[name] = state[name] + 1
    assert refused(weights.from_official, state).startswith(
        f"{name} differs from {name.replace('5.freq', '1.freq')}; expected equal tensors"
    )


class Callback:
    """Object of a class that no reader of the checkpoint needs to have."""

    def __init__(self):
        self.best = {"value": 1.0}


class Malicious:
    """Object whose unpickling would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_load_reads_lightning_checkpoints_without_running_their_code(tmp_path):
    model, other = language_model(1), language_model(2)
    content = {
        "state_dict": OrderedDict(weights.official_state(model.state_dict(), "lightning")),
        "hyper_parameters": Malicious(tmp_path / "written"),
        "callbacks": {Callback: Callback()},
        "epoch": 3,
    }
    torch.save(content, tmp_path / "last.ckpt")
    weights.load(other, tmp_path / "last.ckpt")
    assert_equal_weights(model, other)
    assert not (tmp_path / "written").exists()


def test_legacy_lightning_checkpoints_run_no_code_either(tmp_path):
    model = language_model(1)
    content = {
        "state_dict": weights.official_state(model.state_dict(), "lightning"),
        "hyper_parameters": Malicious(tmp_path / "written"),
    }
    file = tmp_path / "last.ckpt"
    torch.save(content, file, _use_new_zipfile_serialization=False)
    weights.load(language_model(2), file)
    assert not (tmp_path / "written").exists()


def test_load_reads_safetensors_of_the_port(tmp_path):
    from safetensors.torch import save_file

    model, other = language_model(1), language_model(2)
    state = weights.official_state(model.state_dict(), "huggingface")
    save_file({name: t.clone() for name, t in state.items()}, tmp_path / "model.safetensors")
    weights.load(other, tmp_path / "model.safetensors")
    assert_equal_weights(model, other)


def test_read_accepts_artifacts_of_runs(tmp_path):
    model = language_model(1)
    torch.save({"model": model.state_dict()}, tmp_path / "pretrained.pth")
    assert weights.read(tmp_path / "pretrained.pth").keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["last.ckpt", "pretrained.pth", "model.safetensors"])
def test_read_names_missing_and_damaged_files_in_one_line(tmp_path, name):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        weights.read(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x80\x02damaged")
    with pytest.raises(ValueError, match="cannot be read as") as raised:
        weights.read(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["last.ckpt", "pretrained.pth"])
def test_read_refuses_a_file_with_one_flipped_bit(tmp_path, name):
    state = language_model(1).state_dict()
    torch.save(
        {"state_dict": {f"model.{key}": tensor for key, tensor in state.items()}}, tmp_path / name
    )
    content = bytearray((tmp_path / name).read_bytes())
    weight = state["backbone.layers.0.mlp.fc1.weight"].numpy().tobytes()
    content[content.index(weight) + len(weight) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"the checksum of .* in it is wrong"):
        weights.read(tmp_path / name)


def test_read_refuses_weights_of_another_model(tmp_path):
    torch.save({"state_dict": {"model.fc.weight": torch.zeros(2)}}, tmp_path / "last.ckpt")
    assert refused(weights.read, tmp_path / "last.ckpt") == (
        f"{tmp_path / 'last.ckpt'} has no weights of HyenaDNA; expected names that contain "
        "'backbone.', in a state dict or in one under 'state_dict' or 'model'"
    )
    torch.save({"backbone.x": 3}, tmp_path / "numbers.pth")
    assert "has no weights of HyenaDNA" in refused(weights.read, tmp_path / "numbers.pth")


def test_load_names_file_network_and_the_first_three_keys(tmp_path):
    wider = language_model(1, network=replace(TINY, width=16))
    torch.save({"model": wider.state_dict()}, tmp_path / "pretrained.pth")
    message = refused(weights.load, language_model(), tmp_path / "pretrained.pth")
    assert message.startswith(
        f"{tmp_path / 'pretrained.pth'} is of another architecture than this HyenaLanguageModel: "
    )
    assert message.endswith(". Nothing was loaded")
    count, _, keys = message.partition(" keys differ, the first: ")
    assert int(count.rpartition(" ")[2]) > 3 and len(keys.split("; ")) == 3


def test_load_backbone_names_the_pretrained_network():
    message = refused(
        weights.load_backbone, language_model(), language_model(arm="dyt").state_dict()
    )
    assert message.startswith("the pretrained network is of another architecture than this Hyena")
