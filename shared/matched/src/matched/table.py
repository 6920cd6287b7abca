"""A table of a paper as data: arms, rows and, at each scale, the run behind every cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from matched.run import Run, differences, field_of, matched

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
    """One column: the norm layer that tells its runs from the other arms'."""

    name: str
    norm: Any


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


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A table at one size of experiment; its results never mix with another scale's.

    Attributes:
        name: "smoke", "mini" or "paper".
        runs: row key → the row's run, from which the arms' runs are derived; or row key →
            {arm name: run} where a table's arms differ in more than the norm.
        seeds: every cell is run once with each.
        resources: what one run asks of the machine.
        note: printed under the table: what stands in for what.
        metrics: replace the paper's, where this scale measures something else.
    """

    name: Literal["smoke", "mini", "paper"]
    runs: Mapping[str, Run | Mapping[str, Run]]
    seeds: tuple[int, ...]
    resources: Resources
    note: str = ""
    metrics: tuple[Metric, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in SCALES:
            raise ValueError(f"scale {self.name!r} is not one of {', '.join(SCALES)}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"scale {self.name}: seeds {self.seeds} must be distinct, one or more")


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
            "weights" or "batches" where the fingerprints must differ.
    """

    arms: tuple[Arm, ...]
    scales: tuple[Scale, ...]
    exceptions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, names in (
            ("arms", [arm.name for arm in self.arms]),
            ("scales", [scale.name for scale in self.scales]),
        ):
            if not names or len(set(names)) != len(names):
                raise ValueError(f"{what} {names} of a table must be distinct, one or more")

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    def cells(self, scale: Scale) -> Iterator[Cell]:
        """Every cell's runs: by row, then seed, then arm, so that pairs finish together."""
        for row in scale.runs:
            for seed in scale.seeds:
                for arm in self.arms:
                    if (run := self._run(scale, row, arm, seed)) is not None:
                        yield Cell(row=row, arm=arm.name, seed=seed, run=run)

    def _run(self, scale: Scale, row: str, arm: Arm, seed: int) -> Run | None:
        base = scale.runs[row]
        if isinstance(base, Run):
            return matched(base, norm=arm.norm, seed=seed)
        if arm.name not in base:
            return None
        return matched(base[arm.name], norm=arm.norm, seed=seed)

    def check(self, scale: Scale) -> None:
        """Every arm's runs differ from the baseline's in the norm and the exceptions alone.

        Raises:
            ValueError: naming the first pair that is not matched, and what differs.
        """
        allowed = {"norm", *self.exceptions}
        pairs = pairs_of(list(self.cells(scale)), self.baseline.name)
        for one, other in pairs:
            wrong = unmatched(differences(one.run, other.run), allowed)
            if wrong:
                shown = "; ".join(f"{path}: {a!r} / {b!r}" for path, (a, b) in wrong.items())
                raise ValueError(
                    f"row {one.row}: the arms {one.arm} and {other.arm} are not matched, "
                    f"they differ in {shown}. Make them equal, or name the field among the "
                    "table's exceptions with the reason"
                )


def pairs_of(cells: list[Cell], baseline: str) -> list[tuple[Cell, Cell]]:
    """Each cell of another arm with the baseline's cell of the same row and seed."""
    bases = {(cell.row, cell.seed): cell for cell in cells if cell.arm == baseline}
    return [
        (bases[cell.row, cell.seed], cell)
        for cell in cells
        if cell.arm != baseline and (cell.row, cell.seed) in bases
    ]


def unmatched(found: dict[str, tuple[Any, Any]], allowed: set[str]) -> dict[str, tuple[Any, Any]]:
    """The differences that lie in no allowed field."""
    return {path: pair for path, pair in found.items() if field_of(path) not in allowed}
