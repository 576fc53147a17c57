"""Filters on rows that have the same image, url or caption as others, wherever in the pool those are."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.base import ROW, Grouping
from metadata import balancing, uids
from metadata.errors import CurateError, unknown
from metadata.keys import keys_of

#: Columns that groups may be made by.
COLUMNS = ("sha256", "url", "text")


class _SameValue(Grouping):
    """Groups are the rows with the same value in a column; a row whose value is null is in none."""

    by: str
    at_most: int

    def check(self) -> None:
        """Raises CurateError for parameters out of range."""
        if self.by not in COLUMNS:
            raise unknown("column", self.by, COLUMNS, where=self.name)
        if self.at_most < 1:
            raise CurateError(f"{self.name}: at_most is {self.at_most}, but a group has at least 1 row. Give at "
                              f"least 1.")  # fmt: skip

    def ranks(self, batch: pa.RecordBatch) -> np.ndarray:
        """What orders a group: uint64, shape (batch.num_rows,); by default nothing does."""
        return np.zeros(batch.num_rows, np.uint64)

    def rows(self, batch: pa.RecordBatch) -> np.ndarray:
        valid = pc.is_valid(batch.column(self.by))
        batch, numbers = batch.filter(valid), np.flatnonzero(valid)
        rows, key = np.zeros(len(numbers), ROW), keys_of(batch.column(self.by), self.by)
        rows["high"], rows["low"] = key["high"], key["low"]
        rows["rank"], rows["row"] = self.ranks(batch), numbers
        return rows


@dataclasses.dataclass(frozen=True)
class Distinct(_SameValue):
    """Keeps at most `at_most` rows of those that have the same value.

    Those with the smallest hashes of (uid, seed) stay, so they are the same in any order of rows and files: as long as
    a pool's uids are unique, which its schema has them be, for rows of one uid are told apart by their order alone.
    Values are the same if all their bytes are; of sha256, in either case. An empty caption is a value like any other. A
    row whose value is null can't be shown to be a duplicate: it stays, and the manifest counts it in
    `rows_in_no_group`.

    Args:
        by: `sha256` for the image's bytes, `url` or `text`.
        seed: of the choice among rows with the same value, from 0.
    """

    by: str
    at_most: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self.check()
        balancing.check_seed(self.seed, self.name)
        object.__setattr__(self, "columns", ("uid", self.by))

    @property
    def deciding(self) -> int:  # type: ignore[override]
        return self.at_most

    def ranks(self, batch: pa.RecordBatch) -> np.ndarray:
        return balancing.row_hashes(uids.parse(batch.column("uid")), self.seed)

    def judge(self, sizes: np.ndarray, places: np.ndarray, features: Callable[[int, int], np.ndarray]) -> np.ndarray:
        return places < self.at_most


@dataclasses.dataclass(frozen=True)
class GroupSize(_SameValue):
    """Keeps rows whose value at most `at_most` rows have, themselves included; of a larger group none stays.

    Values are the same as in Distinct, and so is what becomes of null.

    Args:
        by: `sha256` or `url` for the captions that an image has, `text` for the images that a caption has.

    Source: ALIGN (arXiv:2102.05918): images with more than 1000 alt texts, and alt texts shared by more than 10 images,
        are dropped.
    Differs: rows are counted, so an image that comes twice with the same caption counts twice.
    """

    by: str
    at_most: int

    def __post_init__(self) -> None:
        self.check()
        object.__setattr__(self, "columns", (self.by,))

    @property
    def deciding(self) -> int:  # type: ignore[override]
        return self.at_most + 1

    def judge(self, sizes: np.ndarray, places: np.ndarray, features: Callable[[int, int], np.ndarray]) -> np.ndarray:
        return sizes <= self.at_most
