"""Zero-shot scores: lm-eval's own numbers, resumed, from two processes, and what is refused."""

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval import evaluator
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from dyt_llama import (
    gloss_word,
    lm_eval_command,
    lm_eval_tasks,
    weights,
    zero_shot,
    zero_shot_data,
)
from dyt_llama.config import ZeroShot
from dyt_llama.lm_eval_model import DyTLlamaLM
from dyt_llama.zero_shot_tasks import FIFTEEN, METRICS, averages, metric_keys

from ..messages import refused
from ..processes import run as run_in_processes
from .miniature_tasks import ROWS, write_cache, write_files
from .tiny import DYT
from .zero_shot_runs import ALL, LONG, scored, trained

SHORT = ZeroShot(tasks=("anli_r1", "rte", "record"), batch=1, precision="fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pretrained(glosses_run, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("pretrained"), glosses_run)


@pytest.fixture(scope="module")
def run(pretrained, folder, tmp_path_factory):
    """Directory and outcome of the scores of all fifteen tasks."""
    directory = tmp_path_factory.mktemp("run")
    return directory, scored(directory, pretrained, folder)


def stock(folder, pretrained):
    """A folder of transformers with the same network and tokenizer, saved by transformers."""
    source = pretrained / "weights"
    LlamaForCausalLM.from_pretrained(source).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(source).save_pretrained(folder)
    return folder


def printed(results):
    """lm-eval's results as our metrics."""
    return {
        f"{task}.{metric}": results[task][f"{metric},none"]
        for task in results
        for metric in METRICS[task]
    }


class TestScores:
    def test_score_has_both_averages_and_every_metric(self, run):
        metrics = run[1].metrics
        values = {key: metrics[key] for key in metric_keys(FIFTEEN)}
        assert set(metrics) == {"loss", "score", "accuracy", *values} and metrics["loss"] == 1.5
        assert {"score": metrics["score"], "accuracy": metrics["accuracy"]} == averages(
            values, tuple(FIFTEEN)
        )
        assert 0.2 < metrics["score"] < 0.8 and len(set(values.values())) > 3
        assert 0.01 < values["truthfulqa_mc2.acc"] < 0.99

    def test_details_have_versions_and_documents(self, run, folder):
        details = run[1].details
        assert details["lm_eval"].startswith("0.4.")
        tasks = details["tasks"]
        assert {n: t["documents"] for n, t in tasks.items()} == {n: len(r) for n, r in ROWS.items()}
        assert tasks["truthfulqa_mc2"]["version"] == 3.0 and tasks["boolq"]["version"] == 2.0
        assert details["warnings"] == [] and all(t["cut"] == 0 for t in tasks.values())
        assert details["data"] == folder.name and run[1].steps == 15
        assert set(details) == {"lm_eval", "tasks", "warnings", "data"}
        digests = {
            name: zero_shot.rows_digest(zero_shot_data.read_rows(folder, name)) for name in FIFTEEN
        }
        assert {name: task["data"] for name, task in tasks.items()} == digests
        for name, task in tasks.items():
            assert set(task) == {"version", "documents", "data", "cut", *METRICS[name]}
        fingerprint = json.loads((run[0] / "fingerprint.json").read_text())
        assert fingerprint["weights"] == ""
        assert fingerprint["batches"] == [zero_shot.digest_of(digests.values())]

    def test_blocks_are_silent_and_lm_eval_logs_afterwards(
        self, pretrained, folder, tmp_path, capfd
    ):
        logger = logging.getLogger("lm_eval")
        level = logger.level
        logger.setLevel(logging.DEBUG)
        try:
            scored(tmp_path, pretrained, folder, replace(SHORT, tasks=("rte",)))
            assert logger.level == logging.DEBUG
        finally:
            logger.setLevel(level)
        assert capfd.readouterr().err == ""

    def test_scores_equal_lm_eval_on_a_stock_network(self, run, pretrained, folder, tmp_path):
        model = HFLM(str(stock(tmp_path, pretrained)), device="cpu", dtype="float32", batch_size=1)
        tasks = lm_eval_tasks.load_tasks(tuple(FIFTEEN), folder)
        results = evaluator.simple_evaluate(
            model,
            tasks=list(tasks.values()),
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
        )
        expected = printed(results["results"])
        assert {key: run[1].metrics[key] for key in expected} == expected

    def test_score_keeps_the_global_generators(self, pretrained, folder, tmp_path):
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        scored(tmp_path, pretrained, folder, replace(SHORT, tasks=("rte",)))
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])

    def test_global_generators_are_restored_after_an_error(self):
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        with pytest.raises(KeyError), zero_shot._global_generators_kept():
            random.random(), np.random.rand(), torch.rand(1)
            raise KeyError
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])

    def test_score_of_gloss_word(self, glosses_run, tmp_path, monkeypatch):
        rows = gloss_word.rows()[:12]
        monkeypatch.setattr(gloss_word, "rows", lambda: rows)
        config = ZeroShot(data=("glosses",), tasks=("gloss_word",), batch=8, precision="fp32")
        network = trained(tmp_path / "network", glosses_run, DYT)
        outcome = scored(tmp_path / "run", network, None, config, data={})
        values = [outcome.metrics[f"gloss_word.{metric}"] for metric in ("acc", "acc_norm")]
        assert outcome.metrics["score"] == pytest.approx(sum(values) / 2)
        assert outcome.metrics["accuracy"] == 100 * values[0]
        assert outcome.details["tasks"]["gloss_word"]["documents"] == 12

    def test_bf16_scores_are_near(self, pretrained, folder, tmp_path):
        """The truthful probability mass of mc2 is the one score that is no count."""
        config = replace(ALL, tasks=("truthfulqa_mc2",))
        half = replace(config, precision="bf16")
        one, other = (
            scored(tmp_path / c.precision, pretrained, folder, c).metrics["truthfulqa_mc2.acc"]
            for c in (config, half)
        )
        assert one != other and one == pytest.approx(other, abs=0.1)


class TestResume:
    def test_killed_run_continues_with_the_next_block(
        self, run, pretrained, folder, tmp_path, monkeypatch
    ):
        evaluate, calls = evaluator.evaluate, []

        class Killed(Exception):
            pass

        def counting(*arguments, **options):
            calls.append(arguments)
            if len(calls) == 4:
                raise Killed
            return evaluate(*arguments, **options)

        monkeypatch.setattr(evaluator, "evaluate", counting)
        monkeypatch.setattr(zero_shot, "BLOCK", 1)
        with pytest.raises(Killed):
            scored(tmp_path, pretrained, folder, SHORT)
        outcome = scored(tmp_path, pretrained, folder, SHORT)
        assert outcome.steps == 3 + 2 + 2 and len(calls) == 8  # none twice but the fourth
        for key in metric_keys(SHORT.tasks):
            assert outcome.metrics[key] == run[1].metrics[key]

    def test_blocks_of_other_data_are_not_used(self, pretrained, folder, tmp_path):
        data = shutil.copytree(folder, tmp_path / "data")
        first = scored(tmp_path / "run", pretrained, data, SHORT)
        fingerprint = (tmp_path / "run" / "fingerprint.json").read_text()
        rows = [{**row, "label": 1 - row["label"]} for row in ROWS["rte"]]
        (data / "rte.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        second = scored(tmp_path / "run", pretrained, data, SHORT)
        assert second.metrics["rte.acc"] == 1 - first.metrics["rte.acc"]
        assert len(list((tmp_path / "run").glob("blocks-*"))) == 1
        assert (tmp_path / "run" / "fingerprint.json").read_text() != fingerprint

    @pytest.mark.slow
    def test_two_processes_have_the_scores_of_one(self, run, pretrained, folder, tmp_path):
        run_in_processes(
            Path(__file__).with_name("zero_shot_runs.py"), tmp_path, pretrained, folder
        )
        for rank in range(2):
            metrics = json.loads((tmp_path / f"outcome-{rank}.json").read_text())
            assert metrics == run[1].metrics
        names = [sorted(p.name for p in d.glob("blocks-*/*.json")) for d in (tmp_path, run[0])]
        assert names[0] == names[1] and len(names[0]) == 15


class TestCommand:
    """lm-eval's own command, on its own definitions, with the data in the cache of datasets."""

    def scores(self, tmp_path, cache, start, *arguments):
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(cache),
            "HF_HOME": str(tmp_path / "home"),
        }
        command = [sys.executable, *start, "run", *arguments, "--tasks", ",".join(FIFTEEN)]
        command += ["--device", "cpu", "--batch_size", "1", "--output_path", str(tmp_path / "out")]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (file,) = (tmp_path / "out").glob("**/results_*.json")
        return printed(json.loads(file.read_text())["results"])

    @pytest.mark.slow
    def test_scores_equal_the_command_on_a_stock_network(self, run, pretrained, tmp_path):
        program = (
            "from dyt_llama import squad_metrics; squad_metrics.install(); "
            "from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
        )
        options = f"pretrained={stock(tmp_path / 'stock', pretrained)},dtype=float32"
        expected = self.scores(
            tmp_path,
            write_cache(tmp_path / "cache"),
            ("-c", program),
            *("--model", "hf", "--model_args", options),
        )
        assert len(expected) == 21
        assert {key: run[1].metrics[key] for key in expected} == expected

    @pytest.mark.slow
    def test_command_scores_an_exported_dyt_network(self, glosses_run, folder, tmp_path):
        network = trained(tmp_path / "network", glosses_run, DYT)
        outcome = scored(tmp_path / "run", network, folder)
        exported = shutil.copytree(network / "weights", tmp_path / "exported")
        expected = self.scores(
            tmp_path,
            write_cache(tmp_path / "cache"),
            ("-m", "dyt_llama.lm_eval_command"),
            *("--model", "dyt-llama", "--model_args", f"pretrained={exported}"),
        )
        assert {key: outcome.metrics[key] for key in expected} == expected


class TestModel:
    def test_padded_rows_take_no_part_in_the_softmax(self, glosses_run, tmp_path):
        padded = replace(LONG, vocabulary=320)
        model = trained(tmp_path / "padded", glosses_run, network=padded) / "weights"
        lm = DyTLlamaLM(str(model))
        with torch.no_grad():
            lm.model.lm_head.weight[300:] += 100.0
        logits = lm._model_call(torch.tensor([[0, 5, 7]]))
        assert logits.shape == (1, 3, 300)
        assert torch.equal(logits, lm.model(torch.tensor([[0, 5, 7]])).logits[..., :300])

    def test_prompts_longer_than_the_context_are_counted(self, glosses_run, folder, tmp_path):
        network = replace(LONG, positions=40)
        short = trained(tmp_path / "network", glosses_run, network=network)
        outcome = scored(tmp_path / "run", short, folder, replace(SHORT, tasks=("anli_r1", "rte")))
        assert outcome.details["tasks"]["anli_r1"]["cut"] == 9  # three choices of each
        assert outcome.details["tasks"]["rte"]["cut"] == 4  # two choices of each
        assert outcome.details["warnings"][0] == (
            "anli_r1: 9 prompts are longer than the network's positions, and were cut from the left"
        )

    def test_choice_longer_than_the_context_is_refused(self, glosses_run, folder, tmp_path):
        short = trained(tmp_path / "network", glosses_run, network=replace(LONG, positions=16))
        config = replace(SHORT, tasks=("record",))
        message = refused(scored, tmp_path / "run", short, folder, config)
        assert message.startswith("the choice '   - Later Lisbon sang alone in Lisbon.' has ")
        assert message.endswith(" tokens, and the network 16 positions; leave its task out")

    def test_unknown_dtype_is_refused(self, pretrained):
        assert refused(DyTLlamaLM, str(pretrained / "weights"), dtype="float16") == (
            "dtype is 'float16'; expected float32 or bfloat16"
        )

    def test_options_of_lm_eval_are_those_of_the_model(self, pretrained):
        folder = str(pretrained / "weights")
        lm = DyTLlamaLM(folder, device="cpu", batch_size=3, max_length=99, max_batch_size=64)
        assert (lm.batch_size, lm.max_length, lm.cut, lm.vocabulary) == (3, 99, 0, 300)
        assert lm.device.type == "cpu" and lm.model.dtype == torch.float32
        plain = DyTLlamaLM(folder, device="cpu", dtype="bfloat16")
        assert (plain.batch_size, plain.max_length) == (1, LONG.positions)
        assert plain.model.dtype == torch.bfloat16

    def test_command_knows_the_model_and_the_removed_module(self, monkeypatch):
        calls = []

        class Registry:
            @staticmethod
            def register(name, target):
                calls.append((name, target))

        monkeypatch.setattr(lm_eval_command, "model_registry", Registry)
        monkeypatch.setattr(lm_eval_command, "cli_evaluate", lambda: calls.append("run"))
        monkeypatch.setattr(
            lm_eval_command.squad_metrics, "install", lambda: calls.append("install")
        )
        lm_eval_command.main()
        target = f"{DyTLlamaLM.__module__}:{DyTLlamaLM.__name__}"
        assert calls == [("dyt-llama", target), "install", "run"]
        assert get_model("dyt-llama") is DyTLlamaLM


class TestRefused:
    def test_diverged_pretraining_is_not_scored(self, pretrained, folder, tmp_path):
        network = shutil.copytree(pretrained, tmp_path / "network")
        result = {"outcome": "diverged", "metrics": {"validation_loss": 5.0}}
        (network / "result.json").write_text(json.dumps(result))
        outcome = scored(tmp_path / "run", network, folder)
        assert outcome.diverged and outcome.metrics == {"validation_loss": 5.0}
        assert outcome.details == {"reason": "the pretraining diverged"} and outcome.steps == 0

    def test_unfinished_pretraining_is_refused(self, folder, tmp_path):
        assert refused(scored, tmp_path / "run", tmp_path, folder) == (
            f"{tmp_path} has no result; submit again to compute it"
        )

    def test_missing_data_of_a_task_is_refused(self, pretrained, tmp_path):
        folder = write_files(tmp_path / "data")
        (folder / "rte.jsonl").unlink()
        with pytest.raises(ValueError, match=r"has no data for rte; run `python -m dyt_llama"):
            scored(tmp_path / "run", pretrained, folder, SHORT)

    def test_tokenizer_without_bos_is_refused(self, pretrained, folder, tmp_path):
        network = shutil.copytree(pretrained, tmp_path / "network")
        file = network / weights.FOLDER / weights.TOKENIZER
        file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
        with pytest.raises(ValueError, match="does not begin a text with <s>, but the network was"):
            scored(tmp_path / "run", network, folder, SHORT)
