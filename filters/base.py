"""The contracts of curation: a Filter decides row by row, a Fit must first see every row that reaches it.

A Grouping compares rows that are alike, a Scorer adds a column that is costly, and a Tally counts what became of
it. Nothing here or beside it knows of files, models' homes or Beam: batches of Arrow columns go in, booleans come out.
"""

import abc
import dataclasses
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from metadata.errors import CurateError
from metadata.files import absolute
from metadata.keys import KEY_DTYPE


class Reader:
    """What reads columns of a pool: a step, or a scorer that works out a column for one."""

    #: Names of the columns that it reads: the pool's, or those of scorers before it.
    columns: tuple[str, ...]

    def check_columns(self, schema: pa.Schema) -> None:
        """Raises CurateError where the types of a pool's columns show that they don't fit what it needs of them."""


class Scorer(Reader, abc.ABC):
    """Adds a column that is costly to work out: it is done once a row, kept, and then read like any other column.

    Subclasses are frozen dataclasses. Only rows that reach the step that asks for the column are scored.
    """

    #: Name of the column it adds; no two scorers of a recipe share one, unless they are equal.
    column: str
    #: Whether kept rows are written with the column.
    is_kept: ClassVar[bool] = True
    #: Whether a row's value depends on the others: it is given all rows of a piece that reach the step in one batch,
    #: whose features are mapped from a file. Only a Fit may have such a scorer, and it reads the pool's columns alone.
    is_of_piece: ClassVar[bool] = False

    def build(self) -> pa.Buffer:
        """What every worker needs to score, made once by the driver and kept as a file; empty where that is nothing."""
        return pa.py_buffer(b"")

    @abc.abstractmethod
    def load(self, built: pa.Buffer) -> Callable[[pa.RecordBatch], pa.Array]:
        """The function that scores a batch, a value a row. Called once a process; `built` may be memory-mapped."""


class Step(Reader, abc.ABC):
    """One line of a recipe. Subclasses are frozen dataclasses whose fields are the recipe's parameters."""

    #: What works out those of its columns that the pool does not have, in the order in which it must be done.
    scorers: tuple[Scorer, ...] = ()
    #: Names of its parameters that are paths of files. In place of a path a recipe may give a name, without dot or
    #: slash, that the user gives a path for.
    paths: ClassVar[tuple[str, ...]] = ()
    #: How often a run must see the rows before it can choose them by the step.
    passes: ClassVar[int] = 0
    #: Whether it must be the last step of a recipe.
    comes_last: ClassVar[bool] = False
    #: Whether a sample of a pool tells about what share the step keeps of the whole; else it keeps more of a sample.
    is_told_by_sample: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """What recipes and manifests call it: the class's name in snake case, so CaptionLength is caption_length."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def readers(self) -> tuple[Reader, ...]:
        """What reads columns for it: its scorers in order, then itself."""
        return (*self.scorers, self)

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all columns that its scorers and itself read."""
        return tuple(column for reader in self.readers for column in reader.columns)

    def with_files(self, files: Mapping[str, str]) -> "Step":
        """Itself, with what it needs of files read: the driver's preparation of a run, before anything is described.

        Paths become absolute: a cluster's workers are in another folder.

        Args:
            files: paths by the names that a recipe may give instead of a path.
        """
        paths = {field: files.get(given, given) for field in self.paths if (given := getattr(self, field)) is not None}
        paths = {field: absolute(path) for field, path in paths.items()}
        return dataclasses.replace(self, **paths) if paths else self  # type: ignore[type-var]

    def describe(self) -> dict[str, Any]:
        """Its parameters as JSON: what a manifest records and what a run's identity is made of."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


class Filter(Step):
    """Keeps rows that pass a test of their own. Pure: no I/O, no Beam, and the same row always gets the same answer."""

    #: Whether it goes by a score or by features, which a row may lack: it drops such a row, and the run counts it.
    by_score: ClassVar[bool] = False

    @abc.abstractmethod
    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """Boolean without nulls, shape (batch.num_rows,): True stays. A null value in a column it reads is dropped."""

    def lacking(self, batch: pa.RecordBatch) -> np.ndarray:
        """Which of these rows lack the score or the features: bool, shape (batch.num_rows,). All were dropped by it."""
        raise NotImplementedError(f"{self.name} goes by no score")

    def check_columns(self, schema: pa.Schema) -> None:
        """Tries it on no rows of a pool's columns."""
        if not self.scorers:  # what scorers add is not there yet
            self.keep(pa.RecordBatch.from_pylist([], schema=schema))

    def copies(self, batch: pa.RecordBatch) -> np.ndarray | None:
        """How often each row is taken: int64, shape (batch.num_rows,), 0 where it is dropped; None for once each.

        Only a step that comes last may have a filter that takes rows more than once.
        """
        return None

    def tally(self) -> "Tally | None":
        """What is to be counted once the rows are chosen; a Fit that finishes as a filter with one `tells` of it."""
        return None


#: What is known of a row in a group: the group's key, two numbers; what orders a group, `order` ascending and of equal
#: ones `rank`; and the row's number.
ROW = np.dtype([*KEY_DTYPE.descr, ("rank", "<u8"), ("order", "<f4"), ("row", "<u4")])


class Grouping(Step):
    """A filter that compares the rows of a group, in whatever files they are: those that share a value, or a cluster.

    It says of each row in which group it is and where, and judges a group whole; to bring a group together is the
    pipeline's, which does so by ranges of keys, in memory that does not grow with the pool. Keys are spread evenly over
    the numbers of 128 bits. Rows are those that reached the step.
    """

    passes: ClassVar[int] = 1
    is_told_by_sample: ClassVar[bool] = False  # rows of a group are rarely in one sample
    #: So many of a group decide about it, the first in order: all others are dropped, however many they are.
    deciding: int = sys.maxsize
    #: The feature that a group's rows are compared by, which the pipeline brings along with them, and its dimensions.
    carried: tuple[str, int] | None = None
    #: Whether a row that is in no group stays.
    keeps_others: ClassVar[bool] = True

    @abc.abstractmethod
    def rows(self, batch: pa.RecordBatch) -> np.ndarray:
        """The rows that are in a group: ROW, in the batch's order, numbered from its first; from each row alone."""

    @abc.abstractmethod
    def judge(self, sizes: np.ndarray, places: np.ndarray, features: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """Which rows of some whole groups stay, one group after the other, each in its order: bool, shape (rows,).

        Args:
            sizes: int64, shape (rows,): how many rows each one's group has; or fewer, but no fewer than `deciding`.
            places: int64, shape (rows,): how many rows of its group come before it.
            features: those of the rows from one number up to another: in the type of the feature that is `carried`,
                shape (rows, dims). They are read from a file: ask for a thousand at a time.
        """


class Fit(Step):
    """A filter with a number in it that depends on the whole pool: a quantile, counts.

    `state` is anything picklable whose size does not grow with the pool. For any split of the rows and any order of
    merges, `finish` gives the same result (tests hold every Fit to that law). Rows are those that reached the step.
    """

    #: `finish` of all passes but the last gives the Fit of the next.
    passes: ClassVar[int] = 1

    @abc.abstractmethod
    def empty(self) -> Any:
        """The state before any row."""

    @abc.abstractmethod
    def add(self, state: Any, batch: pa.RecordBatch) -> Any:
        """`state` with the rows of `batch` in it; may change `state` in place."""

    def skip(self, state: Any, rows: int) -> Any:
        """`state` with so many rows of the pool in it that the steps before have dropped; for most fits the same."""
        return state

    @abc.abstractmethod
    def merge(self, state: Any, other: Any) -> Any:
        """Both states' rows in one; may change `state` in place."""

    def grown(self, state: Any, times: float) -> Any:
        """`state` as a pool leaves it of which its rows are a sample, and which has `times` as many.

        For most fits the same, for all that they look at is shares. One that compares counts with a number of rows that
        the user gives multiplies them.
        """
        return state

    @abc.abstractmethod
    def finish(self, state: Any) -> "Filter | Fit":
        """The filter with its numbers filled in, or the Fit of the next pass."""

    def unreached(self) -> CurateError:
        """The error of one that can't finish without a row, where none has reached it."""
        return CurateError(f"{self.name}: no row reaches it, but it needs some. The steps before it keep none: check "
                           f"their parameters against the pool's values.")

    #: Whether what it finishes as has a tally, and `tell` makes something of that.
    tells: ClassVar[bool] = False

    def tell(self, tally: dict[str, np.ndarray], fitted: dict[str, Any]) -> "Told":
        """What a run tells of the step: made by the driver when all is counted.

        Args:
            tally: the state of the tally over the whole pool.
            fitted: what the filter describes itself as.
        """
        raise NotImplementedError(f"{self.name} tells nothing")


class Tally(abc.ABC):
    """Counts over one scorer's column, of the rows that reached a step and of those among them that a run keeps.

    Its state is a dict of arrays, and the law of fits holds for it.
    """

    column: str

    @abc.abstractmethod
    def empty(self) -> dict[str, np.ndarray]:
        """The state before any row."""

    @abc.abstractmethod
    def add(self, state: dict[str, np.ndarray], values: pa.Array, kept: np.ndarray) -> dict[str, np.ndarray]:
        """`state` with those rows in it: their values, and bool of the same length for which of them the run keeps."""

    def merge(self, state: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Both states' rows in one: sums."""
        return {name: state[name] + other[name] for name in state}


@dataclasses.dataclass(frozen=True)
class Told:
    """What a step leaves beside the choice: JSON for the manifest, and files of the run's folder by name."""

    record: dict[str, Any]
    files: dict[str, bytes]
