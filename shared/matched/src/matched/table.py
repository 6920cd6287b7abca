"""A table of a paper as data: arms, rows and, at each scale, the run behind every cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from matched.run import Run, derive_run

SCALES = ("smoke", "mini", "paper")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that runs report: its key in result.json, and how tables print it."""

    key: str
    label: str
    unit: str = ""
    direction: Literal["higher", "lower", "none"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One column: what tells its runs from the other arms'.

    Attributes:
        norm: the norm layer of its runs. None: the runs of the scale bring their own, for tables
            whose rows differ in the norm too.
        exceptions: what else may differ between the baseline and this arm alone, as in ``Table``.
    """

    name: str
    norm: Any = None
    allowed_differences: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one run asks of the machine; not part of its signature.

    Attributes:
        gpus: over all nodes; one process runs on each. 0 runs on the CPU.
        processes: of a run on the CPU.
        cpus: cores per process, its data-loading workers included.
        memory_gb: per process.
        minutes: expected time of one run; longer jobs are cut and requeued at the cluster's limit.
        runs_per_job: how many runs share a Slurm job, one after the other, so that short runs
            pay for queueing and imports once.
        shard: spread weights and optimizer state over the processes (FSDP2) rather than keep a
            copy on each (DDP).
    """

    gpus: int = 0
    processes: int = 1
    cpus: int = 1
    memory_gb: int = 4
    minutes: int
    runs_per_job: int = 1
    shard: bool = False

    @property
    def tasks(self) -> int:
        """Processes of one run."""
        return self.gpus or self.processes

    @property
    def num_workers(self) -> int:
        """Data-loading workers of a process: its cores but one; on the CPU it loads by itself."""
        return self.cpus - 1 if self.gpus else 0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A table at one size of experiment; its results never mix with another scale's.

    Attributes:
        name: "smoke", "mini" or "paper".
        runs: row key → the row's run, from which the arms' runs are derived; or row key →
            {arm name: run} where a table's arms differ in more than the norm, or its rows differ
            in the norm too.
        seeds: every cell is run once with each.
        resources: what one run asks of the machine.
        others: what some runs ask for instead, by their place: "row" stands for that row's own
            runs, of all arms, and "row/name" for the run that these need under that name.
        note: printed under the table: what stands in for what.
        metrics: replace the paper's, where this scale measures something else.
    """

    name: Literal["smoke", "mini", "paper"]
    runs: Mapping[str, Run | Mapping[str, Run]]
    seeds: tuple[int, ...]
    resources: Resources
    resource_overrides: Mapping[str, Resources] = field(default_factory=dict)
    note: str = ""
    metrics: tuple[Metric, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in SCALES:
            raise ValueError(f"scale {self.name!r} is not one of {', '.join(SCALES)}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"scale {self.name}: seeds {self.seeds} must be distinct, one or more")
        known = dict.fromkeys(
            place
            for row, runs in self.runs.items()
            for run in ([runs] if isinstance(runs, Run) else runs.values())
            for place, _ in with_needs(run, row)
        )
        if unknown := [place for place in self.resource_overrides if place not in known]:
            raise ValueError(
                f"scale {self.name}: resource_overrides names {', '.join(unknown)}, "
                "which is neither a row nor a run that a row needs; known are "
                f"{', '.join(known) or 'none'}"
            )


def with_needs(run: Run, place: str) -> Iterator[tuple[str, Run]]:
    """The run and all it needs, what is needed first, each with its place: a key of ``others``."""
    for name, need in run.needs.items():
        yield from with_needs(need, f"{place}/{name}")
    yield place, run


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a table and where it stands in it."""

    row: str
    arm: str
    seed: int
    run: Run

    def __str__(self) -> str:
        return f"{self.row} · {self.arm} · seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a paper: the first arm is the baseline that the others are compared with.

    Attributes:
        arms: the columns.
        scales: the sizes at which the table can be run.
        exceptions: what else may differ between arms, each with its reason: a config field, or
            "weights" or "batches" where the fingerprints must differ. What may differ in one arm
            alone stands there.
    """

    arms: tuple[Arm, ...]
    scales: tuple[Scale, ...]
    allowed_differences: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, names in (
            ("arms", [arm.name for arm in self.arms]),
            ("scales", [scale.name for scale in self.scales]),
        ):
            if not names or len(set(names)) != len(names):
                raise ValueError(f"{what} {names} of a table must be distinct, one or more")
        if names := ", ".join(self.baseline.allowed_differences):
            raise ValueError(
                f"the arm {self.baseline.name} is the baseline, which the others are compared "
                f"with: move its allowed_differences ({names}) "
                "to the arm that differs, or to the table where all do"
            )
        for scale in self.scales:
            self._check_norms(scale)

    def _check_norms(self, scale: Scale) -> None:
        """Every run has its norm from its arm, or brings its own."""
        bare = [arm.name for arm in self.arms if arm.norm is None]
        shared = [row for row, run in scale.runs.items() if isinstance(run, Run)]
        if bare and shared:
            raise ValueError(
                f"row {shared[0]} at {scale.name} scale is one run for all arms, and no norm is "
                f"given for {', '.join(bare)}: give each arm its norm, or give the row as "
                "{arm name: run}, every run with a norm of its own"
            )

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    def allowed_differences_of(self, arm: str) -> set[str]:
        """What may differ, besides the norm, between the baseline's runs and this arm's."""
        (own,) = (one.allowed_differences for one in self.arms if one.name == arm)
        return {*self.allowed_differences, *own}

    def allowed_difference_reasons(self) -> Iterator[tuple[str, str]]:
        """Every exception as users read it, "lr" or of one arm "lr (DyT)", and its reason."""
        yield from self.allowed_differences.items()
        for arm in self.arms:
            for name, why in arm.allowed_differences.items():
                yield f"{name} ({arm.name})", why

    def cells(self, scale: Scale) -> Iterator[Cell]:
        """Every cell's runs: by row, then seed, then arm, so that pairs finish together."""
        for row in scale.runs:
            for seed in scale.seeds:
                for arm in self.arms:
                    if (run := self._run(scale, row, arm, seed)) is not None:
                        yield Cell(row=row, arm=arm.name, seed=seed, run=run)

    def _run(self, scale: Scale, row: str, arm: Arm, seed: int) -> Run | None:
        given = scale.runs[row]
        run = given if isinstance(given, Run) else given.get(arm.name)
        return None if run is None else derive_run(run, norm=arm.norm, seed=seed)
