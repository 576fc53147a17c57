"""Removal lists: what must not be in a training set, by name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Filter, Scorer
from metadata import removals
from metadata.errors import unknown


@dataclasses.dataclass(frozen=True)
class Listed(Scorer):
    """Adds whether a row is on a removal list: bool, never null.

    Args:
        by: as in NotListed.
        path: of the list; read by the driver only. Lists of the same bytes are the same list.
        sha256: of the list.
    """

    by: str
    path: str = dataclasses.field(compare=False)
    sha256: str
    is_kept: ClassVar[bool] = False

    @property
    def column(self) -> str:  # type: ignore[override]
        return f"listed_{self.by}_{self.sha256[:16]}"

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (removals.COLUMNS[self.by],)

    def build(self) -> pa.Buffer:
        return pa.py_buffer(removals.read(self.path, self.by).packed)

    def load(self, built: pa.Buffer) -> Callable[[pa.RecordBatch], pa.Array]:
        lookup = removals.Lookup(built, self.by)
        return lambda batch: pa.array(lookup.find(batch.column(self.columns[0])))


@dataclasses.dataclass(frozen=True)
class NotListed(Filter):
    """Keeps rows that are not on a removal list.

    Uids and sha256 are the same in either case; a url must be the same to the last byte. A domain stands for itself and
    all below it, in any case, in letters or in punycode, and whatever user information or port a URL has. A row whose
    value is null, and a URL in which there is no host name, are on no list and stay.

    Args:
        by: `uid`, `sha256`, `url` or `domain`: what the list has.
        file: path or address of a parquet file with a column of that name, or with only one; of CSV with a column of
            that name; or of text with one a line. CSV and text may be compressed (.gz). The driver reads it, once.
    """

    by: str
    file: str
    paths: ClassVar[tuple[str, ...]] = ("file",)
    _read: removals.Removals | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.by not in removals.COLUMNS:
            raise unknown("kind of list", self.by, removals.COLUMNS, where=self.name)

    def with_files(self, files: Mapping[str, str]) -> "NotListed":
        """Itself, with its list read. Raises CurateError where it can't be, see metadata.removals.read."""
        named = super().with_files(files)
        assert isinstance(named, NotListed)
        made, found = dataclasses.replace(named), removals.read(named.file, named.by)
        scorer = Listed(made.by, made.file, found.sha256)
        for name, value in {"_read": found, "scorers": (scorer,), "columns": (scorer.column,)}.items():
            object.__setattr__(made, name, value)
        return made

    def describe(self) -> dict[str, Any]:
        """What the list is: where it lies does not matter."""
        assert self._read is not None
        return {"by": self.by, "values": self._read.values, "sha256": self._read.sha256}

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        return pc.invert(batch.column(self.columns[0]))
