"""Steps that compare the rows of a group, see filters.base.Grouping: plain functions over one piece or range of keys.

A group's rows may be in any files, so each piece's are written by ranges of their keys, hashes of what groups share;
then each range is judged on its own, and each piece gathers what was said of its rows. Memory holds a piece or a range,
and of features a block. Of a group larger than is needed to judge it, a piece hands on only as many, so one value can't
make a range large.

    work/groups-S/NNNNNN.bin        the piece's rows that reach step S, as ROW in parts: those of each range, sorted,
                                    then those that are dropped whatever other pieces have
    work/groups-S/NNNNNN.features   of those of the ranges, in the same order, what the step compares rows by, if it
                                    compares features; gone when all ranges are judged
    work/groups-S/NNNNNN.json       how many there are; written last
    work/judged-S/NNNNNN.bin        of one range: the rows that the step drops, as uint32 in a part for each piece
    work/groups-S-bound/, work/judged-S-bound/    the same for many at once, where there are many, see parts.Shuffle
    work/fate-(S+1)/NNNNNN.npy      the verdict, where select looks for it

Rows are numbered among those of their piece that reach the step.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from filters.base import ROW, Filter, Grouping
from pipeline import parts, select, storage
from pipeline.carried import Carried, Ordered
from pipeline.pieces import Piece, naming

_DROPPED = np.dtype("<u4")


def spread_piece(
    piece: Piece, filters: Sequence[Filter], step: Grouping, number: int, choice: select.Choice
) -> dict[str, int]:
    """Writes the piece's rows by ranges of keys; gives how many reach the step, and how many of them are in no group.

    Args:
        filters: of the steps before it.
        number: of the step.
    """
    marker = _rows_path(piece, number, choice.folder).removesuffix(".bin") + ".json"
    if not storage.exists(marker):
        storage.write_json(marker, _spread(piece, filters, step, number, choice))
    return storage.read_json(marker)


def _spread(
    piece: Piece, filters: Sequence[Filter], step: Grouping, number: int, choice: select.Choice
) -> dict[str, int]:
    reached, found = 0, [np.empty(0, ROW)]
    with _carrying(step, choice.folder) as carried:
        for batch in select.reaching(piece, filters, step, choice):
            with naming(piece):
                rows = step.rows(batch)
            if carried and step.carried:
                carried.add(batch.column(step.carried[0]), rows["row"])
            rows["row"] += reached
            found.append(rows)
            reached += batch.num_rows
        rows = np.concatenate(found)
        del found  # memory holds the rows only once
        order = _order(rows)
        over = _sizes_and_places(_begins(rows, order))[1] >= step.deciding
        rows = rows[order]
        dropped = rows[over]
        if not step.keeps_others:
            others = np.zeros(reached - len(rows), ROW)
            others["row"] = np.setdiff1d(np.arange(reached), rows["row"], assume_unique=True)
            dropped = np.append(dropped, others)
        if carried:
            carried.write(_features_path(piece, number, choice.folder), order[~over])
    path = _rows_path(piece, number, choice.folder)
    parts.write(path, [*_ranges(rows[~over], choice.partitions), dropped])
    return {"rows": reached, "rows_in_no_group": reached - len(rows)}


def _carrying(step: Grouping, folder: str) -> contextlib.AbstractContextManager[Carried | None]:
    """What holds the features that the step compares rows by; None if it compares by none."""
    return Carried(*step.carried, folder) if step.carried else contextlib.nullcontext()


def _order(rows: np.ndarray) -> np.ndarray:
    """Positions of the rows by key, then by what orders a group. Only those that share half a key need more of it."""
    order = np.argsort(rows["high"], kind="stable")
    high = rows["high"][order]
    same = high[1:] == high[:-1]
    shared = np.flatnonzero(np.append(same, False) | np.append(False, same)) if len(rows) else order
    few = rows[order[shared]]
    order[shared] = order[shared][np.lexsort((few["rank"], few["order"], few["low"], few["high"]))]
    return order


def _begins(rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Of each of the rows, in order: whether it is the first of its group. bool."""
    begins, high = np.ones(len(rows), bool), rows["high"][order]
    begins[1:] = high[1:] != high[:-1]
    alike = np.flatnonzero(~begins)  # few, as a rule
    begins[alike] = rows["low"][order[alike]] != rows["low"][order[alike - 1]]
    return begins


def _sizes_and_places(begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each of the rows, in order: how many its group has here, and how many of those come before it. int64."""
    starts = np.flatnonzero(begins)
    sizes = np.diff(starts, append=len(begins))
    places = np.arange(len(begins))
    places -= np.repeat(starts, sizes)
    return np.repeat(sizes, sizes), places


def _ranges(rows: np.ndarray, partitions: int) -> list[np.ndarray]:
    """The rows, which are in order, cut by the first bits of their keys."""
    shift = np.uint64(64 - (partitions.bit_length() - 1))
    return np.split(rows, np.searchsorted(rows["high"] >> shift, np.arange(1, partitions, dtype=np.uint64)))


def judge_partition(
    partition: int, pieces: Sequence[Piece], step: Grouping, number: int, choice: select.Choice
) -> None:
    """Writes which rows the step drops of the groups in one range of keys."""
    path = _judged_path(partition, number, choice.folder)
    if storage.exists(path):
        return
    rows, sizes = rows_of(pieces, number, choice).read_joined(partition)
    ends = np.cumsum(sizes)
    order = _order(rows)
    begins, numbers = _begins(rows, order), rows["row"].copy()
    del rows  # of which only their numbers are needed from now on
    dropped = np.empty(len(order), bool)
    with _carrying(step, choice.folder) as carried:
        if carried:
            for piece in pieces:
                own = parts.bounds(_rows_path(piece, number, choice.folder), partition)
                carried.add_part(_features_path(piece, number, choice.folder), *own)
        features = Ordered(carried, order) if carried else _no_features
        dropped[order] = ~step.judge(*_sizes_and_places(begins), features)
    by_piece = zip(np.split(numbers, ends[:-1]), np.split(dropped, ends[:-1]), strict=True)
    parts.write(path, [own[gone] for own, gone in by_piece])


def _no_features(start: int, end: int) -> np.ndarray:
    raise RuntimeError(f"features of rows {start} to {end} are asked for by a step that carries none")


def settle_piece(piece: Piece, pieces: int, number: int, choice: select.Choice) -> None:
    """Writes the fates of the piece's rows after the step, once all ranges are judged.

    Args:
        pieces: how many the pool has.
    """
    path = select.fate_path(piece, number + 1, choice.folder)
    if storage.exists(features := _features_path(piece, number, choice.folder)):
        storage.remove(features)
    if storage.exists(path):
        return
    fate = select.load(select.fate_path(piece, number, choice.folder)) if number else np.zeros(piece.rows, np.uint8)
    rows_path, ranges = _rows_path(piece, number, choice.folder), choice.partitions
    (over,) = parts.read(rows_path, ranges, ranges + 1, ranges + 1, ROW)
    (judged,) = judged_of(pieces, number, choice).read(piece.index, piece.index + 1)
    dropped = np.concatenate([over["row"], *judged])
    fate[np.flatnonzero(fate == 0)[dropped]] = number + 1
    select.save(path, fate)


@dataclasses.dataclass(frozen=True)
class Decided(Filter):
    """A grouping's place among the filters, for the record: its verdict is in the pieces' fates already."""

    step: Grouping
    counts: Mapping[str, int]
    columns = ()

    @property
    def name(self) -> str:
        return self.step.name

    def describe(self) -> dict[str, Any]:
        return self.step.describe() | dict(self.counts)

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        raise RuntimeError(f"{self.name}: rows reach the step whose fates don't have its verdict")


def decided(step: Grouping, counts: Sequence[Mapping[str, int]]) -> Decided:
    """What stands for the step once its verdict is in the fates of all pieces.

    Args:
        counts: of every piece, see spread_piece.
    """
    return Decided(step, {name: sum(count[name] for count in counts) for name in ("rows", "rows_in_no_group")})


def rows_of(pieces: Sequence[Piece], number: int, choice: select.Choice) -> parts.Shuffle:
    """The pieces' rows, to be read by range."""
    paths = [_rows_path(piece, number, choice.folder) for piece in pieces]
    bound = storage.join(choice.folder, "work", f"groups-{number}-bound")
    # Behind the ranges each file has what is dropped whatever others have.
    return parts.Shuffle(paths, choice.partitions, ROW, bound, choice.files_at_once, further=1)


def judged_of(pieces: int, number: int, choice: select.Choice) -> parts.Shuffle:
    """What was judged of the ranges, to be read by piece, of which there are so many."""
    paths = [_judged_path(partition, number, choice.folder) for partition in range(choice.partitions)]
    bound = f"{judged_folder(number, choice.folder)}-bound"
    return parts.Shuffle(paths, pieces, _DROPPED, bound, choice.files_at_once)


def _rows_path(piece: Piece, number: int, folder: str) -> str:
    return storage.join(folder, "work", f"groups-{number}", f"{piece.name}.bin")


def _features_path(piece: Piece, number: int, folder: str) -> str:
    return storage.join(folder, "work", f"groups-{number}", f"{piece.name}.features")


def judged_folder(number: int, folder: str) -> str:
    """Where there is a file for each range of keys that has been judged."""
    return storage.join(folder, "work", f"judged-{number}")


def _judged_path(partition: int, number: int, folder: str) -> str:
    return storage.join(judged_folder(number, folder), f"{partition:06d}.bin")
