"""Adaptations to newer libraries, on stand-ins for these libraries; torch is the real one."""

import argparse
import importlib
import math
import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn

from dyt_upstream.shims import flash_attn, old_libraries

from .conftest import module


@pytest.fixture
def old_names(monkeypatch):
    """Undo what ``restore_removed_names`` does."""
    for name in ("torch._six", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(np, "float", None, raising=False)
    monkeypatch.delattr(np, "float")
    added = []
    monkeypatch.setattr(torch.serialization, "add_safe_globals", added.extend)
    return added


class TestOldLibraries:
    @pytest.mark.parametrize("has_tensorboard", [False, True])
    def test_removed_names_are_restored(self, old_names, monkeypatch, has_tensorboard):
        found = {"tensorboard": object() if has_tensorboard else None}
        monkeypatch.setattr(importlib.util, "find_spec", found.get)
        old_libraries.restore_removed_names()
        six = sys.modules["torch._six"]
        assert (six.inf, six.string_classes, np.float) == (math.inf, (str, bytes), float)
        assert ("torch.utils.tensorboard" in sys.modules) != has_tensorboard
        assert old_names == [argparse.Namespace], "of which checkpoints contain one"
        six.mark = 1
        old_libraries.restore_removed_names()
        assert sys.modules["torch._six"].mark == 1, "kept at a second call"

    def test_silent_writer_accepts_every_call(self):
        writer = old_libraries.SilentWriter("runs", log_dir="here")
        assert writer.log_dir == "here" and old_libraries.SilentWriter().log_dir is None
        assert writer.add_scalar("loss", 1.0, global_step=3) is None


class TestFlashAttn:
    def test_layers_are_those_of_flash_attn(self):
        torch.manual_seed(0)
        embeddings = flash_attn.Embeddings(4, 10, 0, padding_idx=None)
        assert embeddings.word_embeddings.weight.shape == (10, 4)
        ids = torch.tensor([[3, 1]])
        assert torch.equal(embeddings(ids), embeddings.word_embeddings.weight[ids])
        mlp = flash_attn.Mlp(4, hidden_features=6, activation=torch.tanh, device=None)
        assert (mlp.fc1.weight.shape, mlp.fc2.weight.shape) == ((6, 4), (4, 6))
        x = torch.randn(2, 3, 4)
        assert torch.equal(mlp(x), mlp.fc2(torch.tanh(mlp.fc1(x))))
        with pytest.raises(AssertionError):
            flash_attn.Embeddings(4, 10, 8)

    def test_block_passes_residual_and_branch_separately(self):
        def scaled(factor):
            class Scaled(nn.Module):
                def __init__(self, width):
                    super().__init__()
                    self.width = width

                def forward(self, x, shift=0.0):
                    return factor * x + shift

            return Scaled

        block = flash_attn.Block(
            4, scaled(3.0), scaled(5.0), scaled(2.0), resid_dropout1=0.1, resid_dropout2=0.2
        )
        assert (block.dropout1.p, block.dropout2.p) == (0.1, 0.2)
        assert [layer.width for layer in (block.mixer, block.norm1, block.mlp, block.norm2)] == (
            [4] * 4
        )
        block.eval()
        x = torch.ones(1, 2, 4)
        # residual 1; mixer 3 · (2 · 1) = 6, so residual 7; MLP 5 · (2 · 7) = 70.
        branch, residual = block(x)
        assert torch.equal(branch, 70 * x) and torch.equal(residual, 7 * x)
        # residual 1 + 10; mixer 3 · 22 + 1, so residual 78; MLP 5 · 156.
        branch, residual = block(x, 10 * x, mixer_kwargs={"shift": 1.0})
        assert torch.equal(branch, 780 * x) and torch.equal(residual, 78 * x)

    def test_modules_that_the_trainer_imports_exist(self, monkeypatch):
        before = dict(sys.modules)
        flash_attn.provide_flash_attn()
        new = {name: sys.modules.pop(name) for name in set(sys.modules) - set(before)}
        content = {
            name: {key: value for key, value in vars(made).items() if not key.startswith("__")}
            for name, made in new.items()
        }
        mixin = content["flash_attn.utils.generation"].pop("GenerationMixin")
        assert (mixin.__name__, mixin.__bases__) == ("GenerationMixin", (object,))
        parents = {"flash_attn", "flash_attn.modules", "flash_attn.utils"}
        assert {name: content[name] for name in set(content) - parents} == {
            "flash_attn.modules.mha": {"MHA": None, "ParallelMHA": None},
            "flash_attn.utils.distributed": {"sync_shared_params": None, "all_gather_raw": None},
            "flash_attn.modules.block": {"Block": flash_attn.Block},
            "flash_attn.modules.embedding": {
                "GPT2Embeddings": flash_attn.Embeddings,
                "ParallelGPT2Embeddings": None,
            },
            "flash_attn.modules.mlp": {
                "Mlp": flash_attn.Mlp,
                "FusedMLP": None,
                "ParallelFusedMLP": None,
            },
            "flash_attn.utils.generation": {},
        }
        for name, made in new.items():
            assert made.__spec__.name == name
            parent, _, child = name.rpartition(".")
            assert not parent or getattr(new[parent], child) is made


class Tokenizer:
    """Stand-in for the tokenizer of transformers 5."""

    def __init__(self, *arguments, **options):
        self.given = (arguments, options)


class TestHyenaDNA:
    @pytest.fixture
    def shim(self, load, monkeypatch):
        monkeypatch.setattr(Tokenizer, "__init__", Tokenizer.__init__)
        monkeypatch.setattr(Tokenizer, "get_vocab", None, raising=False)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        self.provided = []
        monkeypatch.setattr(flash_attn, "provide_flash_attn", lambda: self.provided.append(1))
        return load("hyenadna", a=module("transformers", PreTrainedTokenizer=Tokenizer))

    def test_tokenizer_has_its_former_option_and_a_late_vocabulary(self, shim):
        made = Tokenizer("a", add_special_tokens=False, padding_side="left")
        assert made.given == (("a",), {"padding_side": "left"})
        assert made.get_vocab() == {}
        made._vocab_str_to_int = {"A": 7}
        assert made.get_vocab() == {"A": 7}
        assert made.get_vocab() is not made._vocab_str_to_int

    def test_optional_packages_are_found_last_and_empty(self, shim, monkeypatch):
        assert self.provided == [1]
        finder = sys.meta_path[-1]
        assert type(finder).__name__ == "_OptionalPackages"
        assert finder.find_spec("wandbx") is None and finder.find_spec("torch.wandb") is None
        for name in ("wandb", "polars", "Bio", "genomic_benchmarks", "liftover"):
            spec = finder.find_spec(f"{name}.part")
            assert (spec.name, spec.submodule_search_locations) == (f"{name}.part", [])
        made = finder.create_module(finder.find_spec("wandb"))
        assert made.__name__ == "wandb" and made.Settings.__name__ == "Settings"
        assert made.Settings.run is None and made.Settings()
        with pytest.raises(AttributeError):
            made.__path__  # noqa: B018

    def test_installed_flash_attn_is_kept(self, load, monkeypatch):
        monkeypatch.setattr(Tokenizer, "__init__", Tokenizer.__init__)
        monkeypatch.setattr(Tokenizer, "get_vocab", None, raising=False)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "flash_attn" or None)
        monkeypatch.setattr(flash_attn, "provide_flash_attn", lambda: pytest.fail("replaced"))
        load("hyenadna", a=module("transformers", PreTrainedTokenizer=Tokenizer))


@pytest.mark.parametrize("has_hook", [True, False])
def test_caduceus_networks_tie_their_output_layer(load, has_hook):
    seen = []

    class Base:
        pass

    if has_hook:

        def hook(cls, **options):
            seen.append(cls.__name__)

        Base.__init_subclass__ = classmethod(hook)
    stand_in = module("transformers", PreTrainedModel=Base, PreTrainedTokenizer=Tokenizer)
    load("caduceus", a=stand_in, b=module("dyt_upstream.shims.hyenadna"))

    class Network(Base):
        __module__ = "caduceus.modeling_caduceus"

        def __init__(self, head):
            self.head, self.inputs, self.tied = head, nn.Embedding(5, 3), 0

        def tie_weights(self):
            self.tied += 1

        def get_output_embeddings(self):
            return self.head

        def get_input_embeddings(self):
            return self.inputs

    class Other(Base):
        def tie_weights(self):
            pass

    class Inherits(Network):
        __module__ = "caduceus.other"

    assert seen == (["Network", "Other", "Inherits"] if has_hook else [])
    network = Network(nn.Linear(3, 5, bias=False))
    network.tie_weights(missing_keys=set(), recompute_mapping=False)
    assert network.tied == 1 and network.head.weight is network.inputs.weight
    reverse_complement = Network(object())
    reverse_complement.tie_weights()
    assert reverse_complement.tied == 1
    with pytest.raises(TypeError):
        Other().tie_weights(missing_keys=set())  # of another package: not replaced
    assert "tie_weights" not in vars(Inherits)


@pytest.mark.usefixtures("old_names")
class TestOfficialVision:
    def test_dino_lists_no_models_without_network(self, load, monkeypatch):
        answers = iter([["xcit"], URLError("no network"), RuntimeError("other")])

        def hub_list(*arguments, **options):
            assert (arguments, options) == (("facebookresearch/xcit",), {"force_reload": True})
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(torch.hub, "list", hub_list)
        load("dino")
        arguments = {"github": "facebookresearch/xcit", "force_reload": True}
        github = arguments.pop("github")
        assert torch.hub.list(github, **arguments) == ["xcit"]
        assert torch.hub.list(github, **arguments) == []
        with pytest.raises(RuntimeError):
            torch.hub.list(github, **arguments)
        assert sys.modules["torch._six"].inf == math.inf

    def test_mae_finds_the_timm_that_it_asserts(self, load, monkeypatch):
        class Block:
            def __init__(self, width, *, norm):
                self.given = (width, norm)

        class VisionTransformer:
            def forward_features(self, x):
                return x + 1

            def head(self, x):
                return 10 * x

        monkeypatch.setattr(torch.cuda, "synchronize", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        vit = module("timm.models.vision_transformer")
        vit.Block, vit.VisionTransformer = Block, VisionTransformer
        factory = module("timm.optim.optim_factory")
        optim = module("timm.optim", optim_factory=factory, param_groups_weight_decay="renamed")
        models = module("timm.models", vision_transformer=vit)
        timm = module("timm", __version__="1.0.0", models=models, optim=optim)
        load("mae", a=timm, b=models, c=vit, d=optim, e=factory)
        assert timm.__version__ == "0.3.2"
        assert vit.Block(8, norm="LN", qk_scale=None).given == (8, "LN")
        assert isinstance(vit.Block(8, norm="LN"), Block)
        assert vit.VisionTransformer().forward(2) == 30, "without pooling once more"
        assert factory.add_weight_decay == "renamed"
        assert torch.cuda.synchronize("cuda:0") is None
        assert "torch._six" in sys.modules

    @pytest.mark.parametrize("installed", [True, False])
    def test_convnext_finds_the_timm_that_it_was_written_for(self, load, monkeypatch, installed):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: object() if installed else None
        )
        monkeypatch.setattr(torch.cuda, "synchronize", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: installed)
        for name in ("tensorboardX", "timm.optim.novograd"):
            monkeypatch.setitem(sys.modules, name, None)
            monkeypatch.delitem(sys.modules, name)
        models = module("timm.models")
        models.model_entrypoint = lambda name: lambda **options: (name, options)
        nadam = module("timm.optim.nadam", NAdamLegacy="old nadam")
        radam = module("timm.optim.radam", RAdamLegacy="old radam")
        optim = module("timm.optim", nadam=nadam, radam=radam)
        timm = module("timm", models=models, optim=optim)
        load("convnext", a=timm, b=models, c=optim, d=nadam, e=radam)
        expected = ("convnext_tiny", {"pretrained": False, "num_classes": 10})
        assert models.create_model("convnext_tiny", num_classes=10) == expected
        assert models.create_model("x", True) == ("x", {"pretrained": True})
        assert (nadam.Nadam, radam.RAdam) == ("old nadam", "old radam")
        assert ("tensorboardX" in sys.modules) == (not installed)
        assert ("timm.optim.novograd" in sys.modules) == (not installed)
        if not installed:
            writer = sys.modules["tensorboardX"].SummaryWriter
            assert writer is old_libraries.SilentWriter
            assert sys.modules["timm.optim.novograd"].NovoGrad is None
            assert torch.cuda.synchronize() is None
        else:
            assert torch.cuda.synchronize is None, "a GPU's is kept"
