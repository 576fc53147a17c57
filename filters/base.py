"""The contracts of curation: a Filter decides row by row, a Fit must first see every row that reaches it.

Nothing here or beside it knows of files, models' homes or Beam: batches of Arrow columns go in, booleans come out.
"""

import abc
import dataclasses
import re
from typing import Any, ClassVar

import pyarrow as pa


class Step(abc.ABC):
    """One line of a recipe. Subclasses are frozen dataclasses whose fields are the recipe's parameters."""

    #: Names of the pool's columns that the step reads.
    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        """What recipes and manifests call it: the class's name in snake case, so CaptionLength is caption_length."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def describe(self) -> dict[str, Any]:
        """Its parameters as JSON: what a manifest records and what a run's identity is made of."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


class Filter(Step):
    """Keeps rows that pass a test of their own. Pure: no I/O, no Beam, and the same row always gets the same answer."""

    @abc.abstractmethod
    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """Boolean without nulls, shape (batch.num_rows,): True stays. A null value in a column it reads is dropped."""


class Fit(Step):
    """A filter with a number in it that depends on the whole pool: a quantile, counts, duplicates.

    `state` is anything picklable whose size does not grow with the pool. For any split of the rows and any order of
    merges, `finish` gives the same result (tests hold every Fit to that law). Rows are those that reached the step.
    """

    #: How often it must see the rows: `finish` of all but the last pass gives the Fit of the next.
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

    @abc.abstractmethod
    def finish(self, state: Any) -> "Filter | Fit":
        """The filter with its numbers filled in, or the Fit of the next pass."""
