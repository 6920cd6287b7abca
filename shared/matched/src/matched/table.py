"""Tables as data: arms, rows, scales and the run of every cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, Literal

from matched.checks import check_choice, check_counts, check_divides, short_repr
from matched.run import Run, derive_run
from matched.search import Search, runs_of

SCALES = ("smoke", "mini", "paper")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that runs report: its key in result.json and how tables print it."""

    key: str
    label: str
    unit: str = ""
    direction: Literal["higher", "lower", "none"]

    def __post_init__(self) -> None:
        check_choice(self, "direction", ("higher", "lower", "none"))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One column of a table: a name, a norm, and what else may differ from the baseline arm.

    Attributes:
        norm: norm layer of the arm's runs. None keeps the norm in each run's own config, for
            tables whose rows differ in the norm as well.
        allowed_differences: fields that may differ between the baseline and this arm only, each
            with its reason, as in ``Table``.
    """

    name: str
    norm: Any = None
    allowed_differences: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources of one run; not part of its signature.

    Attributes:
        gpus: number of GPUs over all nodes, with one process per GPU. 0 runs on the CPU.
        processes: number of processes of a run on the CPU.
        cpus: cores per process, including its data-loading workers.
        memory_gb: memory per process.
        minutes: expected time of one run; longer jobs are cut and requeued at the cluster's limit.
        cpu_minutes: expected time on one CPU core, for runs with ``gpus`` that a machine without
            GPUs can compute as well; 0 for runs that need GPUs.
        runs_per_job: number of runs that share a Slurm job, one after the other, so that short
            runs pay for queueing and imports once.
        shard: shard weights and optimizer state over the processes (FSDP2) instead of keeping a
            copy on each (DDP).
        shard_degree: with ``shard``, number of processes over which one copy of the weights is
            sharded. Each group of so many consecutive ranks, such as the GPUs of a node, has its
            own copy, and only gradients cross groups (HSDP). 0 is one copy over all processes.

    Raises:
        ValueError: for a number that is not whole or too small, and a shard_degree that does not
            divide the processes.
    """

    gpus: int = 0
    processes: int = 1
    cpus: int = 1
    memory_gb: int = 4
    minutes: int
    cpu_minutes: int = 0
    runs_per_job: int = 1
    shard: bool = False
    shard_degree: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "processes", "cpus", "memory_gb", "minutes", "runs_per_job")
        check_counts(self, "gpus", "cpu_minutes", minimum=0)
        if self.shard_degree < 0 or (self.shard_degree and not self.shard):
            raise ValueError(
                f"shard_degree is {self.shard_degree} and shard {self.shard}; expected 0, or with "
                "shard a number of processes"
            )
        if self.shard_degree:
            processes = "the number of processes"
            check_divides("shard_degree", self.shard_degree, processes, self.world_size)

    @property
    def world_size(self) -> int:
        """Number of processes of one run."""
        return self.gpus or self.processes

    def without_gpus(self) -> Resources:
        """Return the resources on a CPU core if the run has ``cpu_minutes``, or else these."""
        if not self.cpu_minutes:
            return self
        return replace(self, gpus=0, cpus=1, minutes=self.cpu_minutes, cpu_minutes=0)

    @property
    def num_workers(self) -> int:
        """Data-loading workers per process: ``cpus - 1`` for GPU runs, otherwise 0."""
        return self.cpus - 1 if self.gpus else 0


@dataclass(frozen=True, kw_only=True)
class ArmNorms:
    """Norms of some arms at one scale, such as another α0 for narrower networks.

    Attributes:
        norms: arm name → norm.
        by_row: row key → arm name → norm, for rows that need other norms than ``norms``.
        reason: why they differ from the table's, printed under the table.
    """

    norms: Mapping[str, Any] = field(default_factory=dict)
    by_row: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reason: str

    def norm(self, row: str, arm: Arm) -> Any:
        """Return the norm of an arm in one row; that of the table unless this replaces it."""
        return self.by_row.get(row, {}).get(arm.name, self.norms.get(arm.name, arm.norm))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A table at one size of experiment; results of different scales are never mixed.

    Attributes:
        name: "smoke", "mini" or "paper".
        runs: row key → the row's run, from which the runs of all arms are derived; or row key →
            {arm name: run} if the arms differ in more than the norm or the rows differ in the
            norm. In place of an arm's run there may be a ``Search``.
        seeds: every cell is run once with each.
        resources: resources of one run.
        resource_overrides: other resources for some runs, by path: "row" is the run of that row,
            in all arms, and "row/name" the run that it needs under that name.
        note: printed under the table: what the scale uses in place of the paper's models and data.
        metrics: metrics of this scale if they are not the paper's; a table of no paper needs them.
        arm_norms: norms of the arms at this scale if they are not the table's.
        labels: row key or arm name → its name in print at this scale, where the table's own would
            be wrong, such as the width of another network.
        on_data: data source → this scale on that data, with the same rows, for ``--set data=…``.
            Unlike a change of the field alone, it fits networks and settings to the data.
    """

    name: Literal["smoke", "mini", "paper"]
    runs: Mapping[str, Run | Mapping[str, Run | Search]]
    seeds: tuple[int, ...]
    resources: Resources
    resource_overrides: Mapping[str, Resources] = field(default_factory=dict)
    note: str = ""
    metrics: tuple[Metric, ...] = ()
    arm_norms: ArmNorms | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    on_data: Mapping[str, Scale] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in SCALES:
            raise ValueError(f"scale {self.name!r} is not one of {', '.join(SCALES)}")
        self._check_types()
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(
                f"scale {self.name}: seeds {self.seeds} must be non-empty and distinct"
            )
        for data, other in self.on_data.items():
            if other.name != self.name or list(other.runs) != list(self.runs):
                raise ValueError(
                    f"scale {self.name}: on_data[{data!r}] is the scale {other.name} with the rows "
                    f"{', '.join(other.runs)}; expected {self.name} with {', '.join(self.runs)}"
                )
        paths = dict.fromkeys(
            path
            for row, runs in self.runs.items()
            for cell in ([runs] if isinstance(runs, Run) else runs.values())
            for run in runs_of(cell)
            for path, _ in runs_with_needs(run, row)
        )
        if unknown := [path for path in self.resource_overrides if path not in paths]:
            raise ValueError(
                f"scale {self.name}: resource_overrides names {', '.join(unknown)}, "
                "which is neither a row nor a run that a row needs; known are "
                f"{', '.join(paths) or 'none'}"
            )

    def _check_types(self) -> None:
        """Refuse values of other types, which a plan or a table would stumble over later."""
        if not isinstance(self.seeds, (tuple, list)) or any(type(s) is not int for s in self.seeds):
            raise self._wrong("seeds", self.seeds, "whole numbers, such as (0, 1)")
        for name, one in (("resources", self.resources), *self.resource_overrides.items()):
            if not isinstance(one, Resources):
                raise self._wrong(name, one, "Resources(minutes=…)")
        if not isinstance(self.metrics, (tuple, list)) or any(
            not isinstance(metric, Metric) for metric in self.metrics
        ):
            raise self._wrong("metrics", self.metrics, "a tuple, metrics=(Metric(…),)")
        keys = [metric.key for metric in self.metrics]
        if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
            raise ValueError(
                f"scale {self.name}: metrics has {', '.join(twice)} twice; name it once"
            )
        if not isinstance(self.runs, Mapping):
            raise self._wrong("runs", self.runs, "{row key: Run(…)}")
        for row, runs in self.runs.items():
            cells = runs.values() if isinstance(runs, Mapping) else [runs]
            allowed = (Run, Search) if isinstance(runs, Mapping) else Run
            if not isinstance(row, str) or any(not isinstance(cell, allowed) for cell in cells):
                expected = "a key of text with a Run, or {arm name: Run or Search}"
                raise self._wrong(f"row {row!r}", runs, expected)

    def _wrong(self, what: str, value: object, expected: str) -> ValueError:
        return ValueError(f"scale {self.name}: {what} is {short_repr(value)}; expected {expected}")

    def search(self, row: str, arm: str) -> Search | None:
        """Return the search of a row and arm; None if the cell is one run, or is missing."""
        runs = self.runs[row]
        cell = None if isinstance(runs, Run) else runs.get(arm)
        return cell if isinstance(cell, Search) else None


def runs_with_needs(run: Run, path: str) -> Iterator[tuple[str, Run]]:
    """Yield the runs that ``run`` needs, at any depth, then ``run`` itself, each with its path.

    The path of ``run`` is ``path``, and that of a need is ``path/name``, as in
    ``Scale.resource_overrides``.
    """
    for name, need in run.needs.items():
        yield from runs_with_needs(need, f"{path}/{name}")
    yield path, run


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a table with its row, arm and seed.

    Attributes:
        value: label of the trial, if the row and arm have a ``Search``; otherwise empty.
    """

    row: str
    arm: str
    seed: int
    run: Run
    value: str = ""

    def __str__(self) -> str:
        return f"{self.row} · {self.column} · seed {self.seed}"

    @property
    def column(self) -> str:
        """The arm, and the value that a search tries: "DyT", "DyT · 0.5"."""
        return f"{self.arm} · {self.value}" if self.value else self.arm


@dataclass(frozen=True, kw_only=True)
class Table:
    """Arms, scales and rows; the first arm is the baseline that the other arms are compared with.

    Attributes:
        arms: the columns.
        scales: the sizes at which the table can be run.
        allowed_differences: what may differ between all arms in addition to the norm, each with its
            reason: a config field, or "weights" or "batches" if the fingerprints must differ.
            What differs in one arm only belongs in ``Arm.allowed_differences``.
        title, labels: heading, and row key → the row's name in print, for tables of no paper;
            the defaults are the name of the recipe's file, and the keys. A paper's table has its
            own in paper.toml.
    """

    arms: tuple[Arm, ...]
    scales: tuple[Scale, ...]
    allowed_differences: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, named in (("arms", self.arms), ("scales", self.scales)):
            all_names = [item.name for item in named]
            if not all_names or len(set(all_names)) != len(all_names):
                raise ValueError(f"{what} {all_names} of a table must be non-empty and distinct")
        if names := ", ".join(self.baseline.allowed_differences):
            raise ValueError(
                f"the arm {self.baseline.name} is the baseline that the others are compared "
                f"with: move its allowed_differences ({names}) "
                "to the arm that differs, or to the table if all arms do"
            )
        for scale in self.scales:
            if not scale.runs:
                raise ValueError(
                    f"scale {scale.name} has no rows; give its runs, {{row key: Run(…)}}"
                )
            for one in (scale, *scale.on_data.values()):
                self._check_norms(one)

    def _check_norms(self, scale: Scale) -> None:
        """Refuse unknown arms in arm_norms, and arms without a norm in a row shared by all."""
        names = [arm.name for arm in self.arms]
        replaced = scale.arm_norms or ArmNorms(reason="")
        named_arms = dict.fromkeys([*replaced.norms, *chain(*replaced.by_row.values())])
        for what, named, known in (
            ("arms", named_arms, names),
            ("rows", replaced.by_row, scale.runs),
        ):
            if unknown := [name for name in named if name not in known]:
                raise ValueError(
                    f"scale {scale.name}: arm_norms names {', '.join(unknown)}; the table's "
                    f"{what} are {', '.join(known)}"
                )
        for row, run in scale.runs.items():
            without_norm = [arm.name for arm in self.arms if _norm_at(scale, row, arm) is None]
            if without_norm and isinstance(run, Run):
                raise ValueError(
                    f"row {row} at {scale.name} scale is one run for all arms, and no norm "
                    f"is given for {', '.join(without_norm)}: give each arm its norm, or give the "
                    "row as {arm name: run} with a norm in the config of every run"
                )

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    def allowed_differences_of(self, arm: str) -> set[str]:
        """Return what may differ between the baseline's runs and this arm's: "norm" and more."""
        (own,) = (one.allowed_differences for one in self.arms if one.name == arm)
        return {"norm", *self.allowed_differences, *own}

    def allowed_difference_notes(self) -> Iterator[str]:
        """Yield a sentence for every allowed difference, with its arm if it has one."""
        reasons = dict(self.allowed_differences)
        for arm in self.arms:
            reasons |= {f"{name} ({arm.name})": r for name, r in arm.allowed_differences.items()}
        for name, reason in reasons.items():
            yield f"Allowed to differ: {name}, because {reason}"

    def cells(self, scale: Scale) -> tuple[Cell, ...]:
        """Return all cells by row, then seed, then arm, so that the runs of a pair end together."""
        known = self._cells.get(id(scale))
        if known is None:
            known = self._cells[id(scale)] = scale, tuple(self._derive_cells(scale))
        return known[1]

    @cached_property
    def _cells(self) -> dict[int, tuple[Scale, tuple[Cell, ...]]]:
        """Cells derived so far, by id of their scale, which is kept so that the id stays its own.

        Deriving 10,000 runs takes longer than reading their results.
        """
        return {}

    def _derive_cells(self, scale: Scale) -> Iterator[Cell]:
        for row in scale.runs:
            for seed in scale.seeds:
                for arm in self.arms:
                    norm = _norm_at(scale, row, arm)
                    for value, run in _runs_of_arm(scale, row, arm):
                        derived = derive_run(run, norm=norm, seed=seed)
                        yield Cell(row=row, arm=arm.name, seed=seed, run=derived, value=value)


def _runs_of_arm(scale: Scale, row: str, arm: Arm) -> Iterator[tuple[str, Run]]:
    """Yield the runs of a row and arm: one without a value, those of a search, or none."""
    runs = scale.runs[row]
    cell = runs if isinstance(runs, Run) else runs.get(arm.name)
    if isinstance(cell, Search):
        yield from ((trial.label, trial.run) for trial in cell.trials)
    elif cell is not None:
        yield "", cell


def _norm_at(scale: Scale, row: str, arm: Arm) -> Any:
    """Return the norm of an arm in one row of a scale."""
    return scale.arm_norms.norm(row, arm) if scale.arm_norms else arm.norm
