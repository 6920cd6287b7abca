"""Pretraining: parity with a plain training script, metrics, resume, and what is refused."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from dyt import alphas
from dyt_llama import pretraining, weights
from dyt_llama.chunked_loss import IGNORED
from dyt_llama.model import build, build_on_meta, transformers_config
from dyt_llama.token_data import Manifest, Samples, TokenStream
from matched.training.batches import BatchLayout, EpochSampler

from ..learners import learner_of
from ..messages import refused
from .tiny import (
    CONFIG,
    CPU,
    DYT,
    GLOSSES,
    NETWORK,
    OWN,
    RMSNORM,
    context,
    lines,
    pretrained,
    tokenized,
)


@pytest.fixture(scope="module")
def run(glosses_run, tmp_path_factory):
    """Directory and outcome of a finished pretraining."""
    directory = tmp_path_factory.mktemp("pretraining")
    return directory, pretrained(directory, glosses_run)


class PlainTraining:
    """A LLaMA of transformers trained in plain PyTorch, with the batches of ``config``.

    fms-fsdp's schedule, gradient clipping, and AdamW with weight decay of every parameter.
    """

    def __init__(self, config, tokens):
        reseeded = build(config.network, OWN, seed=config.seed, device=CPU).model
        self.model = LlamaForCausalLM(transformers_config(config.network))
        self.model.load_state_dict(reseeded.state_dict())
        self.config = config
        self.samples = Samples(TokenStream(tokens, Manifest.read(tokens), "train"), config.length)

    def batches(self):
        """One (B, T + 1) batch per step."""
        whole = replace(self.config, micro_batch=self.config.batch)
        sampler = EpochSampler(whole, len(self.samples), BatchLayout.of(whole, 0, 1), 0)
        for keys in sampler:
            yield torch.stack([self.samples[index] for _, index in keys])

    def losses(self):
        config, losses = self.config, []
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        warmup = max(1, min(2000, config.steps // 20))
        for step, batch in enumerate(self.batches()):
            rising = 1 - (1 - min(step, warmup) / warmup) ** 2
            falling = 0.1 + 0.45 * (1 + math.cos(math.pi * step / config.steps))
            for group in optimizer.param_groups:
                group["lr"] = config.lr * min(rising, falling)
            logits = self.model(batch[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses


class TestParity:
    @pytest.mark.parametrize("checkpointed", [0.0, 0.5])
    def test_losses_equal_a_plain_training_over_50_steps(self, glosses_run, tmp_path, checkpointed):
        config = replace(
            CONFIG, **RMSNORM, steps=50, micro_batch=8, log_steps=1, checkpointed=checkpointed
        )
        pretrained(tmp_path, glosses_run, config)
        losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
        expected = PlainTraining(config, glosses_run).losses()
        assert losses == pytest.approx(expected, abs=1e-6 * max(expected))
        assert losses[-1] < losses[0] - 0.5

    def test_accumulated_micro_batches_give_the_same_losses(self, glosses_run, tmp_path, run):
        pretrained(tmp_path, glosses_run, replace(CONFIG, micro_batch=2))
        one, other = ([x["loss"] for x in lines(d) if "loss" in x] for d in (tmp_path, run[0]))
        assert one == pytest.approx(other, rel=1e-5)


class TestMetrics:
    def test_loss_is_the_mean_of_the_last_log_steps(self, run):
        directory, outcome = run
        logged = [line["loss"] for line in lines(directory) if "loss" in line]
        assert outcome.metrics["loss"] == logged[-1]
        assert outcome.steps == 12 and not outcome.diverged
        assert set(outcome.metrics) == {
            "loss",
            "validation_loss",
            "perplexity",
            "bits_per_byte",
            "best_validation_loss",
        }
        found = [line["evaluation"] for line in lines(directory) if "evaluation" in line]
        lowest = min(evaluation["validation_loss"] for evaluation in found)
        assert outcome.metrics["best_validation_loss"] == lowest

    def test_perplexity_of_a_huge_loss_is_infinite(self, glosses_run, tmp_path):
        manifest = Manifest.read(glosses_run)
        where = context(tmp_path, needs={"tokens": glosses_run})
        samples = pretraining._samples(where, CONFIG, manifest, "held_out")
        evaluate = pretraining.HeldOutLoss(samples, manifest, CONFIG, where, CPU)
        for loss, perplexity in ((2.0, math.exp(2)), (699.0, math.exp(699)), (700.0, math.inf)):
            found = evaluate(lambda tokens, targets, n=loss: n * targets.numel())
            assert found["validation_loss"] == pytest.approx(loss)
            assert found["perplexity"] == pytest.approx(perplexity)

    @pytest.mark.parametrize("world_size", [1, 2, 3, 4])
    def test_processes_share_the_held_out_samples(self, glosses_run, tmp_path, world_size):
        """Five samples in batches of two: all processes call the model equally often."""
        manifest, found, calls = Manifest.read(glosses_run), [], []
        where = context(tmp_path, needs={"tokens": glosses_run})
        samples = pretraining._samples(where, CONFIG, manifest, "held_out")

        def model(tokens, targets):
            calls[-1] += 1
            for row, target in zip(tokens, targets, strict=True):
                if (target != IGNORED).all():
                    found.append([*row.tolist(), int(target[-1])])
                    assert target[:-1].tolist() == row[1:].tolist()
                else:
                    assert (target == IGNORED).all()
            return 2.0 * (targets != IGNORED).sum()

        config = replace(CONFIG, eval_samples=5, eval_batch=2)
        for rank in range(world_size):
            calls.append(0)
            place = replace(where, rank=rank, world_size=world_size)
            evaluate = pretraining.HeldOutLoss(samples, manifest, config, place, CPU)
            assert evaluate(model)["validation_loss"] == 2.0
        expected = [samples[i * len(samples) // 5].tolist() for i in range(5)]
        assert sorted(found) == sorted(expected)
        assert calls == [{1: 3, 2: 2, 3: 1, 4: 1}[world_size]] * world_size

    def test_learner_has_the_lowest_validation_loss_and_what_differs(
        self, glosses_run, tmp_path, monkeypatch
    ):
        config = replace(CONFIG, weight_decay=0.3, betas=(0.8, 0.7))
        learner = learner_of(monkeypatch, pretraining, pretrained, tmp_path, glosses_run, config)
        assert learner.selection_metric == ("validation_loss", "lower")
        expected = build_on_meta(NETWORK, DYT, embedding_scale=True).differing
        assert learner.norms == expected and learner.alphas is alphas
        (group,) = learner.optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-2, (0.8, 0.7), 0.3)
        assert str(learner.dataset) == f"{len(learner.dataset):,} samples of 16 tokens"

    def test_validation_loss_is_that_of_the_held_out_samples(self, run, glosses_run):
        directory, outcome = run
        model = weights.load(directory / "weights")
        manifest = Manifest.read(glosses_run)
        samples = Samples(TokenStream(glosses_run, manifest, "held_out"), 16)
        chosen = torch.stack([samples[i * len(samples) // 5] for i in range(5)])
        with torch.no_grad():
            logits = model(chosen[:, :-1]).logits
        expected = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), chosen[:, 1:].flatten()
        ).item()
        metrics = outcome.metrics
        assert metrics["validation_loss"] == pytest.approx(expected, rel=1e-5)
        assert metrics["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
        ratio = manifest.total("held_out", "tokens") / manifest.total("held_out", "bytes")
        assert metrics["bits_per_byte"] == pytest.approx(expected * ratio / math.log(2), rel=1e-5)

    def test_weights_have_the_tokenizer_of_the_tokens(self, run, glosses_run):
        tokenizer, manifest = weights.load_tokenizer(run[0] / "weights"), Manifest.read(glosses_run)
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (manifest.bos, manifest.eos)
        stream = TokenStream(glosses_run, manifest, "train")
        first = stream.read(0, int(stream.files[0].document_ends()[0])).tolist()
        text = tokenizer.decode(first, skip_special_tokens=True)
        assert [*tokenizer(text).input_ids, manifest.eos] == first

    def test_alpha_of_every_layer_is_logged(self, run):
        evaluations = [line for line in lines(run[0]) if "evaluation" in line]
        assert [line["step"] for line in evaluations] == [6, 12]
        assert len(evaluations[-1]["alpha"]) == 7

    def test_arms_share_the_fingerprint(self, run, glosses_run, tmp_path):
        pretrained(tmp_path, glosses_run, replace(CONFIG, **RMSNORM, steps=4))
        one, other = (
            json.loads((directory / "fingerprint.json").read_text())
            for directory in (run[0], tmp_path)
        )
        assert one == other

    def test_diverged_run_has_its_best_evaluation(self, glosses_run, tmp_path, monkeypatch):
        loss, calls = pretraining.mean_loss, []

        def diverging(model, tokens):
            calls.append(tokens)
            return loss(model, tokens) * (1.0 if len(calls) <= 12 else math.nan)

        monkeypatch.setattr(pretraining, "mean_loss", diverging)
        outcome = pretrained(tmp_path, glosses_run, replace(CONFIG, steps=20))
        assert outcome.diverged and outcome.metrics["validation_loss"] < 6


class TestResume:
    def test_resumed_run_is_bit_identical(self, run, glosses_run, tmp_path, monkeypatch):
        directory, outcome = run

        class Crash(Exception):
            pass

        loss, calls = pretraining.mean_loss, []

        def crashing(model, tokens):
            calls.append(tokens)
            if len(calls) == 14:
                raise Crash
            return loss(model, tokens)

        with monkeypatch.context() as patch:
            patch.setattr(pretraining, "mean_loss", crashing)
            with pytest.raises(Crash):
                pretrained(tmp_path, glosses_run, checkpoint_steps=5)
        assert pretrained(tmp_path, glosses_run) == outcome
        for name in ("metrics.jsonl", "fingerprint.json", "weights/dyt_model.safetensors"):
            assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()

    def test_resume_refuses_tokens_of_another_tokenizer(self, glosses_run, tmp_path):
        tokens = tmp_path / "tokens-run"
        tokenized(tokens, replace(GLOSSES, vocabulary=260))
        pretrained(tmp_path / "run", tokens, replace(CONFIG, steps=2))
        pretrained(tmp_path / "run", tokens, replace(CONFIG, steps=2))
        message = "began on the tokens .* of tokenizer .*, and its tokenization now has .* of tok"
        with pytest.raises(ValueError, match=message) as error:
            pretrained(tmp_path / "run", glosses_run, replace(CONFIG, steps=2))
        for run in (tokens, glosses_run):
            assert f"of tokenizer {Manifest.read(run).tokenizer}" in str(error.value)


class TestSettings:
    def test_optimizer_decays_every_parameter_or_matrices_only(self):
        model = build(NETWORK, DYT, seed=0, device=CPU).model
        (group,) = pretraining.optimizer(model, CONFIG).param_groups
        assert len(group["params"]) == len(list(model.parameters()))
        assert group["weight_decay"] == 0.1
        matrices, others = pretraining.optimizer(
            model, replace(CONFIG, decay="matrices")
        ).param_groups
        assert {p.ndim for p in matrices["params"]} == {2} and others["weight_decay"] == 0.0
        assert len(matrices["params"]) + len(others["params"]) == len(group["params"])

    @pytest.mark.slow
    def test_compiled_layers_give_the_same_losses(self, run, glosses_run, tmp_path):
        pretrained(tmp_path, glosses_run, replace(CONFIG, compile=True))
        one, other = ([x["loss"] for x in lines(d) if "loss" in x] for d in (tmp_path, run[0]))
        assert one == pytest.approx(other, rel=1e-4)


class TestRefused:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"length": 17}, "length is 17, but the network has 16 positions"),
            ({"decay": "none"}, "decay is 'none'; expected 'all' or 'matrices'"),
            ({"checkpointed": 1.5}, "checkpointed is 1.5; expected 0 to 1"),
            ({"norm": "DyT"}, "norm is 'DyT'; expected a dyt.Norm"),
        ],
    )
    def test_config_refuses_settings_out_of_range(self, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **changes)

    def test_network_without_embeddings_for_all_tokens_is_refused(self, glosses_run, tmp_path):
        network = replace(NETWORK, vocabulary=299)
        with pytest.raises(ValueError, match="but the network has 299 embeddings"):
            pretrained(tmp_path, glosses_run, replace(CONFIG, network=network))

    def test_text_smaller_than_a_batch_is_refused(self, glosses_run, tmp_path):
        config = replace(CONFIG, batch=10**6, micro_batch=10**6)
        with pytest.raises(ValueError, match="a batch of 1000000 is more than the"):
            pretrained(tmp_path, glosses_run, config)

    def test_damaged_tokens_are_refused(self, glosses_copy, tmp_path):
        path = glosses_copy / "tokens" / "train-00000.bin"
        path.write_bytes(path.read_bytes()[:-2])
        with pytest.raises(ValueError, match="they do not belong together"):
            pretrained(tmp_path / "run", glosses_copy)

    def test_run_without_held_out_text_is_refused(self, glosses_copy, tmp_path):
        path = glosses_copy / "tokens" / "tokens.json"
        content = json.loads(path.read_text())
        content["splits"]["held_out"] = []
        path.write_text(json.dumps(content))
        assert refused(pretrained, tmp_path / "run", glosses_copy) == (
            "the held-out text has fewer than 17 tokens; raise held_out of the tokenization, or "
            "add text"
        )

    def test_world_size_that_does_not_divide_is_refused(self):
        with pytest.raises(ValueError, match="does not divide evenly over 3 processes"):
            BatchLayout.of(CONFIG, 0, 3)
