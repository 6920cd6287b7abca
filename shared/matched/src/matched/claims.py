"""Claims of a paper as statements that results can refute; recipes/claims.py lists them.

``matched.report.verdicts`` judges them, at each scale by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CellKey:
    """One row and arm of a table.

    Attributes:
        table: its name, or the path of a recipe file from the project's folder.
    """

    table: str
    row: str
    arm: str


@dataclass(frozen=True, kw_only=True)
class NotWorse:
    """In every row, an arm is not worse than another by more than a margin.

    The margin of a row is the largest change that the paper prints in the table, or the standard
    deviation of the other arm over seeds if that is larger. Supported if the 95 % t interval of the
    paired difference is above minus the margin, refuted if it is below.

    Attributes:
        tables: all rows of these tables, by the first metric of the scale that the row has.
        arm: of the table, or an extra arm, which is judged where a report shows it.
        than: the other arm; the table's baseline if empty. If the paper prints both arms, changes
            are those between them.
    """

    tables: tuple[str, ...]
    arm: str = "DyT"
    than: str = ""


@dataclass(frozen=True, kw_only=True)
class Better:
    """The first cell of every pair is better than the second.

    Supported if the 95 % t interval of the difference, paired by seed, is above 0, or if the
    second cell diverged in every seed; refuted if it is below 0.

    Attributes:
        metrics: keys of the metrics to compare; if empty, the first metric of the scale.
        within_spread: the first cell may also be worse by the standard deviation of the second
            over seeds, so that the claim is "not worse".
    """

    pairs: tuple[tuple[CellKey, CellKey], ...]
    metrics: tuple[str, ...] = ()
    within_spread: bool = False


@dataclass(frozen=True, kw_only=True)
class Diverges:
    """Training of every cell diverges more often than not.

    Supported if the exact (Clopper-Pearson) 95 % interval of the share of seeds that diverge is
    above one half, refuted if it is below.
    """

    cells: tuple[CellKey, ...]


@dataclass(frozen=True, kw_only=True)
class Above:
    """A metric of every cell is above a threshold.

    Supported if the 95 % t interval of its mean over seeds is above the threshold, refuted if it is
    below.
    """

    cells: tuple[CellKey, ...]
    metric: str
    threshold: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Falls:
    """The values that searches find best fall along the rows, or along the arms, of tables.

    For each series of cells and each seed, the slope of log2 of the seed's best value against the
    position of the cell. Supported if its 95 % t interval over seeds is below 0, refuted if it is
    above.

    Attributes:
        along: "rows" compares the rows of each arm in their order, "arms" the arms of each row.
        metrics: what is searched for, such as "alpha0".
    """

    tables: tuple[str, ...]
    along: Literal["rows", "arms"]
    metrics: tuple[str, ...] = ("alpha0",)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The values that searches find best stay within a factor along the rows, or along the arms.

    For each series of cells and each seed, the largest of the seed's best values divided by the
    smallest. Supported if the 95 % t interval of its log2 over seeds ends at log2 of the factor or
    below, refuted if it is above.

    Attributes:
        along, metrics: as in ``Falls``.
        factor: one step of the values that are tried, which noise alone can make.
    """

    tables: tuple[str, ...]
    along: Literal["rows", "arms"]
    metrics: tuple[str, ...] = ("alpha0",)
    factor: float = 2.5


Test = NotWorse | Better | Diverges | Above | Falls | Constant


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a paper and the test that can refute it.

    Attributes:
        source: where the paper makes it.
        test: None if the tables that it needs have no recipe yet; ``missing`` names them.
    """

    statement: str
    source: str
    test: Test | None
    missing: str = ""

    def __post_init__(self) -> None:
        if (self.test is None) != bool(self.missing):
            raise ValueError(
                f"claim {self.statement!r}: give either a test, or what is missing for one"
            )
