"""Task of a run: another repository's training script, unmodified, with the norm of the arm.

The script runs in processes of its own, with the checkout as working directory and the folder
output/ of the run directory for its files. It resumes with its own arguments from its own newest
checkpoint. Its log, and that of the attempts before, becomes metrics.jsonl; norms.json lists the
replaced layers.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dyt_upstream import metrics_lines
from dyt_upstream.checkout import open_checkout
from dyt_upstream.config import PLACEHOLDER, Script
from dyt_upstream.processes import ScriptProcess, runner_command, starts_processes
from dyt_upstream.records import ATTEMPT, POSITION, Record, renamed
from dyt_upstream.runner_options import ERROR_PREFIX, USER_ERROR
from dyt_upstream.upstreams import find_script, find_upstream
from matched.surroundings import LAUNCHER
from matched.task import Context, Outcome
from matched.training.distributed import on_rank0, process_group, raise_on_all_ranks

log = logging.getLogger("matched")
OUTPUT = "output"
METRICS = "metrics.jsonl"
REPORT = "norms.json"
SPECIFICATION = "script.json"
FINGERPRINT = "first-steps.json"
MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")
SECONDS_BETWEEN_READINGS = 5.0
SECONDS_BETWEEN_WRITINGS = 60.0


def run(context: Context, config: Script) -> Outcome:
    """Run the script to its end, or until it gives up on its loss; resume where it can.

    Raises:
        ValueError: if the job has fewer processes than the recipe, the script fails, no norm was
            replaced, or the script's log lacks a metric.
        Interrupted: if the process was asked to stop; the script has been ended.
    """
    # A job on this machine has the processes of its largest run, and the others use fewer.
    if context.world_size < config.processes:
        raise ValueError(
            f"the recipe is for {config.processes} processes, on which the script's batch size "
            f"depends, but this job has {context.world_size}; change resources or processes"
        )
    if context.world_size == 1:
        return _Attempt(context, config).run()
    with process_group(context):
        attempt = _Attempt(context, config)
        with raise_on_all_ranks():
            if starts_processes(context, config.processes):
                attempt.compute()
        return on_rank0(attempt.outcome)


class _Attempt:
    """One start of a script; a requeued run has several."""

    def __init__(self, context: Context, config: Script) -> None:
        self.context, self.config = context, config
        self.facts = find_script(config.upstream, config.command)
        self.checkout = open_checkout(config.upstream, context.data, config.commit)
        self.output = context.directory / OUTPUT
        self.earlier: list[Record] = []
        """Records of the attempts from whose checkpoint this one continues."""
        self.process: ScriptProcess | None = None
        self.lines: list[str] = []
        """What the script has printed."""
        self.status = 0
        self.read_at = self.written_at = self.read_seconds = 0.0

    def run(self) -> Outcome:
        self.compute()
        return self.outcome()

    def compute(self) -> None:
        """Run the script in the processes of this node."""
        context, config = self.context, self.config
        context.check_ownership()
        self.output.mkdir(exist_ok=True)
        checkpoint = newest(self.output, self.facts.checkpoints)
        if checkpoint is not None and not self.facts.resumes:
            log.warning("%s cannot resume and starts from the beginning", config.command[0])
            shutil.rmtree(self.output)
            self.output.mkdir()
            checkpoint = None
        if checkpoint is not None:
            self.earlier = metrics_lines.read(context.directory / METRICS)
        arguments = self._arguments(checkpoint)
        log.info("%s at %s: %s", config.upstream, self.checkout.commit, " ".join(arguments))
        specification = self._write_specification(arguments, fresh=checkpoint is None)
        self.process = ScriptProcess(
            runner_command(specification, config.processes, torchrun=config.torchrun),
            self.checkout.path,
            self._environment(),
            lambda line: log.info("%s", line),
        )
        try:
            self.status = self.process.wait(self._poll)
        finally:
            self.lines = self.process.lines()
            self._publish_fingerprint()
            if context.rank == 0:
                self._write_metrics(self._records())
        log.info("%s ended with status %d", config.command[0], self.status)

    def outcome(self) -> Outcome:
        """Return the result of the run from the script's log and exit status."""
        records = self._records()
        diverged = any(re.search(self.facts.diverged, line) for line in self.lines) or any(
            not math.isfinite(record["loss"]) for record in records if "loss" in record
        )
        if self.status != 0 and not diverged:
            raise ValueError(self._failure())
        last, best = self._evaluations(records)
        missing = [name for name in self.config.metrics if name not in last]
        if missing and not diverged:
            found = sorted(
                {name for record in self._raw_records() for name in record} - {*POSITION}
            )
            raise ValueError(
                f"{self.config.command[0]} ended with status {self.status}, but its log has no "
                f"{', '.join(missing)}; it has {', '.join(found) or 'no record'}. See log.txt"
            )
        return Outcome(
            metrics=best if diverged else last,
            diverged=diverged,
            steps=int(records[-1]["step"]) if records else 0,
            best=best,
            details={
                "commit": self.checkout.commit,
                "changed": list(self.checkout.changed),
                "norms": self._norms(),
                "warnings": list(self.checkout.warnings),
            },
        )

    # The start of the script.

    def _arguments(self, checkpoint: Path | None) -> list[str]:
        """Return the command with all placeholders replaced, and what resumes the script."""
        command = [self._fill(word) for word in self.config.command]
        if command[0] != "-m":
            command[0] = str(self.checkout.path / command[0])
        if checkpoint is not None:
            command += [word.replace("{checkpoint}", str(checkpoint)) for word in self.facts.resume]
        return command

    def _fill(self, word: str) -> str:
        def value(match: re.Match[str]) -> str:
            kind, _, name = match[1].partition(".")
            if kind == "data":
                return str(self.context.data[name])
            if kind == "needs":
                return str(self._path_of_need(name))
            values = {
                "output": self.output,
                "checkout": self.checkout.path,
                "seed": self.config.seed,
            }
            return str(values[kind])

        return PLACEHOLDER.sub(value, word)

    def _path_of_need(self, name: str) -> Path:
        """Return the newest checkpoint of a script, or the directory of a run of another task."""
        if name not in self.context.needs:
            raise ValueError(f"the command reads {{needs.{name}}}, but the run needs no {name!r}")
        directory = self.context.needs[name]
        need = json.loads((directory / "config.json").read_text(encoding="utf-8"))["config"]
        if "upstream" not in need:
            return directory
        facts = find_script(need["upstream"], tuple(need["command"]))
        checkpoint = newest(directory / OUTPUT, facts.checkpoints)
        if checkpoint is None:
            raise ValueError(f"{directory / OUTPUT} has no checkpoint {facts.checkpoints!r}")
        return checkpoint

    def _environment(self) -> dict[str, str]:
        # Of several processes, torchrun numbers its own.
        kept = {k: v for k, v in os.environ.items() if not LAUNCHER.fullmatch(k)}
        return {
            **kept,
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": str(self.config.seed),
            **dict(self.config.environment),
        }

    def _write_specification(self, arguments: Sequence[str], *, fresh: bool) -> Path:
        config, directory = self.config, self.context.directory
        specification = {
            "command": list(arguments),
            "norm": dataclasses.asdict(config.norm),
            "skip": list(config.skip),
            "also": list(config.also),
            "seed": config.seed,
            "shims": find_upstream(config.upstream).shims,
            "report": str(directory / REPORT),
            # A resumed script starts with other weights.
            "fingerprint": str(directory / FINGERPRINT) if fresh else "",
        }
        path = directory / SPECIFICATION
        if self.context.rank == 0:
            self.context.write_json(SPECIFICATION, specification)
        else:  # on another node
            path = directory / f"{SPECIFICATION}.{self.context.rank}"
            path.write_text(json.dumps(specification), encoding="utf-8")
        return path

    # While the script runs.

    def _poll(self) -> None:
        """Check ownership, and read the script's files now and then."""
        self.context.check_ownership()
        # A long log takes seconds to read.
        pause = max(SECONDS_BETWEEN_READINGS, 20 * self.read_seconds)
        if time.monotonic() - self.read_at < pause or self.context.rank != 0:
            return
        self.read_at = time.monotonic()
        self._publish_fingerprint()
        assert self.process is not None
        self.lines = self.process.lines()
        records = self._records()
        self.read_seconds = time.monotonic() - self.read_at
        if self.read_at - self.written_at > SECONDS_BETWEEN_WRITINGS:
            self._write_metrics(records)
        step = int(records[-1]["step"]) if records else 0
        shown = finite_metrics(records[-1]) if records else {}
        self.context.write_progress(step, max(step, self.config.total), shown=shown)
        if newest(self.output, self.facts.checkpoints) is not None:
            # A job that adds no file of this name is not requeued.
            marker = self.context.owned_path(f"checkpoints/step_{step}")
            if not marker.exists():
                marker.parent.mkdir(exist_ok=True)
                for old in marker.parent.glob("step_*"):
                    old.unlink()
                marker.touch()

    def _publish_fingerprint(self) -> None:
        path = self.context.directory / FINGERPRINT
        if self.context.rank == 0 and path.exists():
            self.context.write_fingerprint(**json.loads(path.read_text(encoding="utf-8")))

    # The result.

    def _raw_records(self) -> list[Record]:
        return self.facts.records(self.output, self.lines)

    def _records(self) -> list[Record]:
        """Return the records of all attempts, with our names of the numbers."""
        own = [
            {
                **{key: record[key] for key in POSITION if key in record},
                **renamed(record, self.facts.metrics),
            }
            for record in self._raw_records()
        ]
        return metrics_lines.join(self.earlier, own)

    def _evaluations(self, records: Sequence[Record]) -> tuple[dict[str, float], dict[str, float]]:
        """Return the last values of all metrics, and the best record by the first metric."""
        last: dict[str, float] = {}
        for record in records:
            last.update(finite_metrics(record))
        key = self.config.metrics[0]
        scored = [record for record in records if math.isfinite(record.get(key, math.nan))]
        sign = 1 if key in self.facts.higher else -1
        best = max(scored, key=lambda record: sign * record[key], default={})
        return last, dict(best)

    def _write_metrics(self, records: Sequence[Record]) -> None:
        evaluated = set(self.facts.metrics.values()) - {"loss"}
        with self.context.atomic_write(METRICS) as temporary:
            temporary.write_text(metrics_lines.text(records, evaluated), encoding="utf-8")
        self.written_at = time.monotonic()

    def _norms(self) -> Mapping[str, int]:
        """Return the number of norm layers by network, from the report of dyt."""
        path = self.context.directory / REPORT
        if not path.exists():
            return {}
        networks = json.loads(path.read_text(encoding="utf-8"))["networks"]
        counts: dict[str, int] = {}
        for network in networks:
            count = len(network["replacements"])
            counts[network["class"]] = counts.get(network["class"], 0) + count
        return {name: count for name, count in counts.items() if count}

    def _failure(self) -> str:
        """Return why the script failed, in one line."""
        name = self.config.command[0]
        for line in reversed(self.lines):
            if line.startswith(ERROR_PREFIX):
                return line.removeprefix(ERROR_PREFIX)
            if missing := MISSING_MODULE.search(line):
                return (
                    f"{self.config.upstream} needs the Python module {missing[1]!r}, which is not "
                    "installed in this environment; install what its README lists"
                )
        if self.status == USER_ERROR:
            return f"{name} could not be started; see log.txt"
        errors = [line for line in self.lines if re.match(r"\w[\w.]*(Error|Exception)\b", line)]
        last = (errors or self.lines or ["it printed nothing"])[-1]
        return f"{name} ended with status {self.status}: {last}"


def finite_metrics(record: Record) -> dict[str, float]:
    """Return the metrics of a record that are finite."""
    return {k: v for k, v in record.items() if k not in (*POSITION, ATTEMPT) and math.isfinite(v)}


def newest(folder: Path, pattern: str) -> Path | None:
    """Return the newest file of a glob by its time, or None."""
    if not pattern:
        return None
    paths = sorted(folder.glob(pattern), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return paths[-1] if paths else None
