"""Filters on rows that have the same image, url or caption as others, wherever in the pool those are."""

import dataclasses

import numpy as np
import pyarrow as pa

from filters.base import Grouping
from metadata import balancing, uids
from metadata.errors import CurateError, unknown

#: Columns that groups may be made by.
COLUMNS = ("sha256", "url", "text")


def _check(step: "Distinct | GroupSize") -> None:
    if step.by not in COLUMNS:
        raise unknown("column", step.by, COLUMNS, where=step.name)
    if step.at_most < 1:
        raise CurateError(f"{step.name}: at_most is {step.at_most}, but a group has at least 1 row. Give at least 1.")


@dataclasses.dataclass(frozen=True)
class Distinct(Grouping):
    """Keeps at most `at_most` rows of those that have the same value.

    Those with the smallest hashes of (uid, seed) stay, so they are the same in any order of rows and files. Values are
    the same if all their bytes are; of sha256, in either case. An empty caption is a value like any other. A row whose
    value is null can't be shown to be a duplicate: it stays, and the manifest counts it in `rows_in_no_group`.

    Args:
        by: `sha256` for the image's bytes, `url` or `text`.
        seed: of the choice among rows with the same value, from 0.
    """

    by: str
    at_most: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)
        if not 0 <= self.seed < 1 << 64:
            raise CurateError(f"distinct: seed is {self.seed}, but it lies from 0 to 2**64 - 1. Give 0.")
        object.__setattr__(self, "columns", ("uid", self.by))

    @property
    def deciding(self) -> int:  # type: ignore[override]
        return self.at_most

    def ranks(self, batch: pa.RecordBatch) -> np.ndarray:
        return balancing.row_hashes(uids.parse(batch.column("uid")), self.seed)

    def judge(self, sizes: np.ndarray, places: np.ndarray) -> np.ndarray:
        return places < self.at_most


@dataclasses.dataclass(frozen=True)
class GroupSize(Grouping):
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
        _check(self)
        object.__setattr__(self, "columns", (self.by,))

    @property
    def deciding(self) -> int:  # type: ignore[override]
        return self.at_most + 1

    def judge(self, sizes: np.ndarray, places: np.ndarray) -> np.ndarray:
        return sizes <= self.at_most
