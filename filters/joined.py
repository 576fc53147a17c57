"""Scores that others have worked out: parquet files of uids and scores, joined to a pool's rows by uid."""

import dataclasses
import glob
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from filters.base import Scorer
from metadata import uids
from metadata.errors import CurateError, printable, reason

_BATCH_ROWS = 1 << 17

#: About as many rows are sorted at once: 42 MB, a few times over.
_PART_ROWS = 1 << 21

#: What a score takes in the sorted file: the uid's two words and a float32.
_ROW_BYTES = 20


@dataclasses.dataclass(frozen=True)
class JoinedScore(Scorer):
    """Adds a column of the files' name: float32, the score that they have for the row's uid; null where they have none.

    Null, NaN and infinity in a file are no score. Other rows of the files are left out.

    Args:
        column: as the files call it.
        paths: parquet files with the columns `uid` and `column`, read by the driver only.
    """

    column: str
    paths: tuple[str, ...]
    columns = ("uid",)

    def build(self) -> pa.Buffer:
        """The scores sorted by uid: all first words of the uids, all second words, all scores.

        It is made in a file in the temporary folder, of 20 bytes a score, which is sorted there part by part: memory
        does not grow with the files, as long as uids are spread evenly, as hashes are. Every file is read twice.

        Raises:
            CurateError: a file can't be read, has a wrong uid or too large a score, or a uid has a score twice.
        """
        return pa.py_buffer(_sorted_by_uid(self.column, self.paths))

    def load(self, built: pa.Buffer) -> Callable[[pa.RecordBatch], pa.Array]:
        table = _views(np.frombuffer(built, np.uint8))
        return lambda batch: _find(uids.parse(batch.column("uid")), *table)


def sources(pattern: str, names: Sequence[str], where: str) -> dict[str, tuple[str, ...]]:
    """Which of the files have a column of which of the names; () for a name that no file has. `where` is the step.

    Raises:
        CurateError: no file fits the pattern, one can't be read, has no uid that is text, has a column twice, or one
            that is no number.
    """
    paths = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise CurateError(f"{where}: no file fits {printable(pattern)!r}, but scores are read from there. Check "
                          f"the path.")
    found: dict[str, list[str]] = {name: [] for name in names}
    for path in paths:
        with _opened(path) as file:
            schema = file.schema_arrow
        if "uid" not in schema.names:
            raise CurateError(f"{path}: its columns are {printable(', '.join(schema.names))}, but scores are joined by "
                              f"uid. Add a column `uid`, or leave the file out.")
        for name in ("uid", *found):
            if (times := schema.names.count(name)) > 1:
                raise CurateError(f"{path}: column {printable(name)!r} is there {times} times, but it is needed once. "
                                  f"Mend the file, or leave it out.")
        _check_text(schema.field("uid").type, path)
        for name in found:
            if name in schema.names:
                _check_number(schema.field(name).type, name, path)
                found[name].append(path)
    return {name: tuple(paths) for name, paths in found.items()}


def sha256(paths: Sequence[str]) -> str:
    """Of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def numbers(scores: pa.Array, name: str, where: str) -> np.ndarray:
    """The scores as float32, shape (len(scores),), NaN for null and infinity.

    Raises:
        CurateError: they are no numbers, or one is too large for float32.
    """
    _check_number(scores.type, name, where)
    rounded = scores.cast(pa.float32(), safe=False)
    if pa.types.is_float64(scores.type):
        large = pc.index(pc.and_(pc.is_inf(rounded), pc.is_finite(scores)), True).as_py()
        if large >= 0:
            raise CurateError(f"{where}: column {printable(name)!r} has {scores[large].as_py():g}, but scores are "
                              f"compared in float32, which ends at {np.finfo(np.float32).max:.2g}. Scale them down.")
    values = rounded.to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def _check_text(kind: pa.DataType, path: str) -> None:
    try:
        pa.nulls(0, kind).cast(pa.binary())
    except pa.ArrowException as error:
        raise CurateError(f"{path}: column 'uid' is {kind}, but a uid is text. Mend the file, or leave it out."
                          ) from error  # fmt: skip


def _check_number(kind: pa.DataType, name: str, where: str) -> None:
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise CurateError(f"{where}: column {printable(name)!r} is {kind}, but a score is a number. Leave it out of "
                          f"the weights, or mend it.")


def _opened(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise CurateError(f"{path}: it can't be read ({reason(error)}), but scores are in parquet files. Fetch it "
                          f"again, or leave it out.") from error


def _read(path: str, column: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The file's uids (UID_DTYPE) that have a score, and the scores (float32), batch by batch."""
    first_row = 0
    for batch in _batches(path, ["uid", column]):
        scores = numbers(batch.column(column), column, path)
        some = ~np.isnan(scores)
        yield uids.parse(batch.column("uid"), path, first_row, instead="leave it out")[some], scores[some]
        first_row += batch.num_rows


def _batches(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with _opened(path) as file:
        try:
            for group in range(file.num_row_groups):  # of several at a time it holds more than it gives
                yield from file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise CurateError(f"{path}: row group {group} can't be read ({reason(error)}), but every score is needed. "
                              f"Fetch it again.") from error


def _views(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First words, second words and scores in the bytes of a sorted file."""
    n = len(data) // _ROW_BYTES
    return data[: 8 * n].view("<u8"), data[8 * n : 16 * n].view("<u8"), data[16 * n :].view("<f4")


def _sorted_by_uid(column: str, paths: Sequence[str]) -> np.ndarray:
    """The bytes of the sorted file, mapped."""
    rows = 0
    for path in paths:
        with _opened(path) as file:
            rows += file.metadata.num_rows
    bits = max(1, (rows // _PART_ROWS).bit_length())

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for path in paths:
            for words, scores in _read(path, column):
                yield words, scores, (words["f0"] >> np.uint64(64 - bits)).astype(np.int64)

    counts = np.zeros(1 << bits, np.int64)
    for _, _, part in parts():
        counts += np.bincount(part, minlength=len(counts))
    if not counts.any():
        raise CurateError(f"{', '.join(paths)}: no row has a {printable(column)}, but it has a weight. Leave it out.")
    data = _temporary(int(counts.sum()) * _ROW_BYTES)
    first, second, values = _views(data)
    ends = np.cumsum(counts)
    free = ends - counts
    for words, scores, part in parts():
        order = np.argsort(part, kind="stable")
        own = np.bincount(part, minlength=len(counts))
        places = np.arange(len(part)) + np.repeat(free - (np.cumsum(own) - own), own)
        first[places], second[places], values[places] = words["f0"][order], words["f1"][order], scores[order]
        free += own
    for start, end in zip(ends - counts, ends, strict=True):
        rows_of = slice(start, end)
        order = np.argsort(first[rows_of])
        if (np.diff(first[rows_of][order]) == 0).any():
            order = np.lexsort((second[rows_of], first[rows_of]))
        for array in (first, second, values):
            array[rows_of] = array[rows_of][order]
    _refuse_repeats(first, second, column, paths)
    return data


def _temporary(size: int) -> np.ndarray:
    """So many bytes of a file without a name, mapped: gone when nothing refers to them any more."""
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here; later it would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
            return np.memmap(file, np.uint8, "r+", shape=size)
    except OSError as error:
        raise CurateError(f"{tempfile.gettempdir()}: {size:,} bytes can't be had ({error.strerror}), but scores are "
                          f"sorted there. Make room, or set TMPDIR to another folder.") from error


def _refuse_repeats(first: np.ndarray, second: np.ndarray, column: str, paths: Sequence[str]) -> None:
    for start in range(0, len(first), _PART_ROWS):
        ahead, here = slice(start + 1, start + _PART_ROWS + 1), slice(start, min(start + _PART_ROWS, len(first) - 1))
        same = np.flatnonzero((first[ahead] == first[here]) & (second[ahead] == second[here]))
        if len(same):
            word = np.array([(first[start + same[0]], second[start + same[0]])], uids.UID_DTYPE)
            owners = [path for path in paths if any((words == word).any() for words, _ in _read(path, column))]
            raise CurateError(f"{' and '.join(owners)}: uid {uids.text_of(word)[0]} has a {printable(column)} twice, "
                              f"but which one counts is not known. Remove one of them.")


def _find(words: np.ndarray, first: np.ndarray, second: np.ndarray, scores: np.ndarray) -> pa.FloatArray:
    """The score of each uid, null where it has none."""
    order = np.argsort(words["f0"])  # so the search walks through the file, which may be larger than memory
    wanted = words[order]
    at = np.searchsorted(first, wanted["f0"])
    found, left = np.zeros(len(words), bool), np.arange(len(words))
    while len(left):  # once, but for uids that share their first word
        left = left[at[left] < len(first)]
        left = left[first[at[left]] == wanted["f0"][left]]
        equal = second[at[left]] == wanted["f1"][left]
        found[left[equal]] = True
        left = left[~equal]
        at[left] += 1
    values, missing = np.zeros(len(words), np.float32), np.ones(len(words), bool)
    values[order[found]], missing[order[found]] = scores[at[found]], False
    return pa.array(values, mask=missing)
