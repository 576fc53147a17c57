"""Filters on the width and height an image had when the pool was built."""

import dataclasses

import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Filter
from metadata.errors import CurateError

SIDES = ("original_width", "original_height")


@dataclasses.dataclass(frozen=True)
class ImageSize(Filter):
    """Keeps images whose shorter side is at least `min_side_px` pixels. A null side is dropped.

    Source: DataComp (arXiv:2304.14108), basic filtering.
    """

    min_side_px: int = 200
    columns = SIDES

    def __post_init__(self) -> None:
        if self.min_side_px < 1:
            raise CurateError(f"{self.name}: min_side_px is {self.min_side_px}, but the least is 1. Give pixels.")

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        shorter = pc.min_element_wise(*(batch.column(side) for side in SIDES), skip_nulls=False)
        return pc.greater_equal(shorter, self.min_side_px).fill_null(False)


@dataclasses.dataclass(frozen=True)
class AspectRatio(Filter):
    """Keeps images whose longer side is at most `max_ratio` times the shorter one.

    The quotient is taken and compared in float64. A side that is null, zero or negative is dropped.

    Source: DataComp (arXiv:2304.14108), basic filtering.
    """

    max_ratio: float = 3.0
    columns = SIDES

    def __post_init__(self) -> None:
        if not self.max_ratio >= 1:
            raise CurateError(f"{self.name}: max_ratio is {self.max_ratio}, but it is at least 1, a square's. "
                              f"Give the longer side over the shorter one.")

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        sides = [batch.column(side) for side in SIDES]
        shorter, longer = (
            pc.cast(pick(*sides, skip_nulls=False), pa.float64(), safe=False)
            for pick in (pc.min_element_wise, pc.max_element_wise)
        )
        ratio = pc.divide(longer, shorter)  # in floats, so a side of 0 gives infinity or NaN and does not raise
        return pc.and_(pc.greater(shorter, 0.0), pc.less_equal(ratio, self.max_ratio)).fill_null(False)
