"""Choosing rows, as plain functions over one piece at a time. The Beam twins are in pipeline.transforms.

Every function writes whole files under the run's folder, named by the piece, and does nothing where they are there
already: a run that was killed continues, and a runner may run any piece twice.

    work/scores/COLUMN/       columns that scorers added, see pipeline.scores
    work/passes/NNNNNN.S.P    empty: pass P of the fit or grouping that is step S has seen the piece
    work/fate-K/NNNNNN.npy    uint8 (rows,): which of the first K steps dropped each row, 0 for none, and 128 more where
                              the row lacks the score or features that the step goes by (only before fits, and before
                              and after groupings, for which see pipeline.groups)
    work/uids/NNNNNN.bin      the piece's uids as UID_DTYPE, in three parts for each partition: the kept ones, the
                              dropped ones, and the further copies of kept ones
    work/uids-bound/          the same for many pieces at once, where a pool has many, see parts.Shuffle
    work/rows/NNNNNN.npy      int64: positions in the piece of the kept rows, each as often as it is taken
    kept/NNNNNN.parquet       the kept rows: uid and the columns that decided; with `copies`, how often each is taken,
                              where the last step takes rows more than once
    dropped/NNNNNN.parquet    uid and step of the others, on demand
    work/select/NNNNNN.json   the counts; written last, so it marks the piece as done
"""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters.base import Filter, Fit, Grouping, Scorer, Step
from filters.soft_cap import COPIES
from metadata import uids
from metadata.errors import CurateError
from pipeline import parts, storage
from pipeline.pieces import Piece, batches, naming
from pipeline.scores import Scores

#: Kinds of uids that each partition has: kept, dropped, further copies of kept.
_KINDS = 3

#: What a fate has besides the step's number, of which there are at most 127: the row lacks what the step goes by.
_LACKING = 128

#: Readers of ranges times files grow as the square of a pool, so there are no more ranges than memory asks for. And
#: partitions times kinds are numbered by 16 bits.
MAX_PARTITION_BITS = 13


@dataclasses.dataclass(frozen=True)
class Choice:
    """What every worker needs to know to choose rows.

    Attributes:
        folder: the run's folder.
        checkpoints: numbers of steps after which each row's fate is kept, see `checkpoints`.
        kept_columns: the pool's columns that kept/ has beside the uid.
        scorers: what works out columns; kept/ has those that are to be kept.
        files_at_once: of those that pieces leave for ranges, and ranges for pieces: how many a reader opens.
        partitions: into how many ranges of uids the subset is cut to be sorted; a power of two from 2 to 8,192.
        keep_dropped: dropped uids are written too.
    """

    folder: str
    checkpoints: tuple[int, ...]
    kept_columns: tuple[str, ...]
    partitions: int
    keep_dropped: bool = False
    scorers: tuple[Scorer, ...] = ()
    files_at_once: int = 128


def checkpoints(steps: Sequence[Step]) -> tuple[int, ...]:
    """Numbers of steps after which each row's fate is kept, ascending.

    Before a Fit or a Grouping, so that its passes and what follows start there, and a costly step runs once; and after
    a Grouping, whose verdict is in the fates alone.
    """
    before = {n for n, step in enumerate(steps) if isinstance(step, Fit | Grouping)}
    after = {n for n, step in enumerate(steps, 1) if isinstance(step, Grouping)}
    return tuple(sorted((before | after) - {0}))


def apply(
    filters: Sequence[Filter], batch: pa.RecordBatch, fate: np.ndarray, first: int, first_row: int, scores: Scores
) -> None:
    """Writes into `fate` (uint8, 0 for rows still in) which filter drops which row, counted from `first` + 1, and why.

    Each filter is given only the rows that are left, so costly ones, and scorers, see few.

    Args:
        first_row: number of the batch's first row in its piece.
    """
    if not filters:
        return
    alive = np.flatnonzero(fate == 0)
    if len(alive) < batch.num_rows:
        batch = batch.take(pa.array(alive))
    for number, step in enumerate(filters, first + 1):
        # Of no rows, too: kept/ has the columns in every file.
        batch = scores.complete(batch, alive + first_row, step.scorers)
        if not batch.num_rows:
            continue
        with naming(scores.piece):
            keep = np.asarray(step.keep(batch))
        if keep.dtype != np.bool_ or keep.shape != (batch.num_rows,):
            raise TypeError(f"{step.name}.keep gave {keep.dtype}{keep.shape} for {batch.num_rows} rows")
        if not keep.all():
            gone = alive[~keep]
            fate[gone] = number
            if step.by_score:
                fate[gone[step.lacking(batch.select(step.columns).filter(pa.array(~keep)))]] += _LACKING
            alive = alive[keep]
            batch = batch.filter(pa.array(keep))


def walk(
    piece: Piece, filters: Sequence[Filter], columns: Sequence[str], choice: Choice, scores: Scores
) -> Iterator[tuple[pa.RecordBatch, np.ndarray, int]]:
    """The piece's batches, each row's fate after `filters`, and the number of the batch's first row.

    What was decided at the last checkpoint there is, is not decided again.

    A batch has the pool's columns among `columns`, and those that the filters and their scorers still have to read.
    """
    start, known = _checkpoint(piece, len(filters), choice)
    ahead = filters[start:]
    made = {scorer.column for scorer in choice.scorers}
    needed = dict.fromkeys(c for c in (*columns, *scores.unread(ahead)) if c not in made)
    offset = 0
    for batch in batches(piece, needed or ["uid"]):
        fate = np.zeros(batch.num_rows, np.uint8) if known is None else known[offset : offset + batch.num_rows].copy()
        apply(ahead, batch, fate, start, offset, scores)
        yield batch, fate, offset
        offset += batch.num_rows


def fate_path(piece: Piece, steps: int, folder: str) -> str:
    """Where it is kept which of so many steps dropped each row of the piece."""
    return storage.join(folder, "work", f"fate-{steps}", f"{piece.name}.npy")


def _checkpoint(piece: Piece, steps: int, choice: Choice) -> tuple[int, np.ndarray | None]:
    for done in sorted(choice.checkpoints, reverse=True):
        if 0 < done <= steps and storage.exists(path := fate_path(piece, done, choice.folder)):
            return done, load(path)
    return 0, None


def reaching(piece: Piece, filters: Sequence[Filter], step: Step, choice: Choice) -> Iterator[pa.RecordBatch]:
    """The piece's rows that pass `filters`, with the columns of `step`; what it took to know is kept once all came."""
    scores = Scores(piece, choice.folder)
    for scorer in step.scorers:
        if scorer.is_of_piece:
            scores.complete_piece(scorer, _passing(piece, filters, scorer.columns, choice, scores))
    for batch, rows in _passing(piece, filters, scores.unread([step]), choice, scores):
        yield scores.complete(batch, rows, step.scorers)


def _passing(
    piece: Piece, filters: Sequence[Filter], columns: Sequence[str], choice: Choice, scores: Scores
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """The piece's rows that pass `filters`, and their numbers in it; scores and fates are kept once all came."""
    fates = []
    for batch, fate, offset in walk(piece, filters, columns, choice, scores):
        fates.append(fate)
        alive = np.flatnonzero(fate == 0)
        left = batch if len(alive) == batch.num_rows else batch.take(pa.array(alive))
        yield left, alive + offset
    scores.keep()  # first: where fates are known, the filters' columns are not worked out again
    if filters and not storage.exists(path := fate_path(piece, len(filters), choice.folder)):
        save(path, np.concatenate(fates))


def fit_piece(piece: Piece, filters: Sequence[Filter], fit: Fit, choice: Choice) -> Any:
    """The fit's state after the piece's rows that pass `filters`."""
    state, reached = fit.empty(), 0
    for batch in reaching(piece, filters, fit, choice):
        with naming(piece):
            state = fit.add(state, batch)
        reached += batch.num_rows
    return fit.skip(state, piece.rows - reached)


def save(path: str, array: np.ndarray) -> None:
    """Writes the array as .npy."""
    with storage.atomic(path) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def load(path: str) -> np.ndarray:
    """The array in an .npy."""
    return np.load(io.BytesIO(storage.read(path)), allow_pickle=False)


def marker(piece: Piece, folder: str) -> str:
    """The path of the file that says that the piece is done."""
    return storage.join(folder, "work", "select", f"{piece.name}.json")


def pass_marker(piece: Piece, name: str, folder: str) -> str:
    """The path of the file that says, for progress alone, that a fit's pass over the piece is done."""
    return storage.join(folder, "work", "passes", f"{piece.name}.{name}")


def _rows_path(piece: Piece, folder: str) -> str:
    return storage.join(folder, "work", "rows", f"{piece.name}.npy")


def select_piece(piece: Piece, filters: Sequence[Filter], choice: Choice) -> None:
    """Writes the piece's kept rows, uids and counts."""
    if storage.exists(marker(piece, choice.folder)):
        return
    fates, words, positions, times, scores = [], [], [], [], Scores(piece, choice.folder)
    scorers = [scorer for scorer in choice.scorers if scorer.is_kept]
    with storage.atomic(kept := storage.join(choice.folder, "kept", f"{piece.name}.parquet")) as file:
        writer: pq.ParquetWriter | None = None
        for batch, fate, offset in walk(piece, filters, ["uid", *choice.kept_columns], choice, scores):
            alive = np.flatnonzero(fate == 0)
            chosen = batch.select(["uid", *choice.kept_columns]).take(pa.array(alive))
            chosen = scores.complete(chosen, alive + offset, scorers)
            copies = filters[-1].copies(chosen) if filters else None
            if copies is not None:
                chosen = chosen.append_column(COPIES, pa.array(copies, pa.int32()))
            # Uids, captions and scores hardly repeat, so a dictionary of them is only work.
            writer = writer or pq.ParquetWriter(file, chosen.schema, compression="zstd", use_dictionary=False)
            writer.write_batch(chosen)
            fates.append(fate)
            words.append(uids.parse(batch.column("uid"), piece.path, piece.first_row + offset))
            positions.append(alive + offset)
            times.append(np.ones(len(alive), np.int64) if copies is None else copies)
        assert writer is not None  # a piece has rows
        writer.close()
    fate, word, copies = np.concatenate(fates), np.concatenate(words), np.concatenate(times)
    save(_rows_path(piece, choice.folder), np.repeat(np.concatenate(positions), copies))
    kept_uids = word[fate == 0]
    _write_uids(piece, (kept_uids, word[fate != 0], np.repeat(kept_uids, copies - 1)), choice)
    if choice.keep_dropped:
        _write_dropped(piece, word, fate, filters, choice)
    by = fate % _LACKING
    dropped = np.bincount(by, minlength=len(filters) + 1)
    without_score = np.bincount(by[fate > _LACKING], minlength=len(filters) + 1)
    storage.write_json(
        marker(piece, choice.folder),
        {
            "rows": piece.rows,
            "kept": int(dropped[0]),
            "samples": int(copies.sum()),
            "dropped": dropped[1:].tolist(),
            "without_score": without_score[1:].tolist(),
            "sha256": storage.sha256(kept),
        },
    )


def tally_piece(piece: Piece, choice: Choice, chosen: Filter) -> dict[str, np.ndarray]:
    """The state of the filter's tally over the piece, whose rows have been chosen."""
    tally = chosen.tally()
    assert tally is not None
    stored = Scores(piece, choice.folder).stored(tally.column)
    if stored is None:  # no row of the piece reached the filter
        return tally.empty()
    kept = load(_rows_path(piece, choice.folder))
    return tally.add(tally.empty(), stored.column("value"), np.isin(stored.column("row").to_numpy(), kept))


def _write_uids(piece: Piece, kinds: Sequence[np.ndarray], choice: Choice) -> None:
    """Writes the uids by partition, and in each by kind: kept, dropped, further copies of kept."""
    bits = choice.partitions.bit_length() - 1
    words, kind = np.concatenate(kinds), np.repeat(np.arange(_KINDS, dtype=np.uint16), [len(part) for part in kinds])
    part = (words["f0"] >> np.uint64(64 - bits)).astype(np.uint16) * np.uint16(_KINDS) + kind
    order = np.argsort(part, kind="stable")  # of 16 bits, so it is a radix sort
    sizes = np.bincount(part, minlength=_KINDS * choice.partitions)
    parts.write(uids_path(piece, choice.folder), [words[order]], sizes)


def uids_path(piece: Piece, folder: str) -> str:
    """Where the piece's uids are."""
    return storage.join(folder, "work", "uids", f"{piece.name}.bin")


def uids_of(pieces: Sequence[Piece], choice: Choice) -> parts.Shuffle:
    """The pieces' uids, to be read by range."""
    paths = [uids_path(piece, choice.folder) for piece in pieces]
    bound = storage.join(choice.folder, "work", "uids-bound")
    return parts.Shuffle(paths, _KINDS * choice.partitions, uids.UID_DTYPE, bound, choice.files_at_once)


def _write_dropped(piece: Piece, word: np.ndarray, fate: np.ndarray, filters: Sequence[Filter], choice: Choice) -> None:
    gone = np.flatnonzero(fate)
    names = [f.name for f in filters]
    words = sorted(set(names))  # a dictionary with a word twice is not written as the same bytes every time
    steps = pa.DictionaryArray.from_arrays(
        pa.array([words.index(name) for name in names], pa.int8()).take(pa.array(fate[gone] % _LACKING - 1, pa.int8())),
        pa.array(words, pa.string()),
    )
    table = pa.table({"uid": pa.array(uids.text_of(word[gone])), "step": steps})
    storage.write_parquet(
        storage.join(choice.folder, "dropped", f"{piece.name}.parquet"), table, use_dictionary=["step"]
    )


def sort_uids(word: np.ndarray) -> np.ndarray:
    """UID_DTYPE sorted by value, as numpy sorts the structured type, but by its first word: 20 times faster."""
    result = word[np.argsort(word["f0"])]
    if (result["f0"][1:] == result["f0"][:-1]).any():
        result = word[np.lexsort((word["f1"], word["f0"]))]
    return result


def merge_uids(partition: int, pieces: Sequence[Piece], choice: Choice) -> None:
    """Writes work/subset/NNNNNN.bin, the kept uids of one range in order, each as often as it is taken.

    No uid of the pool may repeat; that a row is taken more than once is something else.

    Raises:
        CurateError: a uid occurs twice in the pool; it and its files are named.
    """
    path = subset_path(partition, choice.folder)
    if storage.exists(path):
        return
    kept, dropped, further = uids_of(pieces, choice).read(_KINDS * partition, _KINDS * (partition + 1))
    rows = [np.concatenate(both) for both in zip(kept, dropped, strict=True)]
    first_words = np.sort(np.concatenate([words["f0"] for words in rows]))
    if (first_words[1:] == first_words[:-1]).any():  # by chance about once in 10^19 pairs of uids
        _refuse_duplicates(rows, pieces)
    storage.write(path, sort_uids(np.concatenate(kept + further)).tobytes())


def _refuse_duplicates(rows: Sequence[np.ndarray], pieces: Sequence[Piece]) -> None:
    words = sort_uids(np.concatenate(rows))
    twice = words[1:][words[1:] == words[:-1]]
    if not len(twice):
        return
    times = [int((part == twice[0]).sum()) for part in rows]
    owners = dict.fromkeys(piece.path for piece, count in zip(pieces, times, strict=True) if count)
    made = dict(pieces[0].columns).get("uid") == ""
    advice = (
        "It was made from url and text, so these rows are the same pair: remove the repeats."
        if made
        else "Remove the duplicates, or read the pool with --columns uid= if its uids are not unique."
    )
    raise CurateError(
        f"{' and '.join(owners)}: uid {uids.text_of(twice[:1])[0]} occurs {sum(times)} times, but a uid names one "
        f"row of a pool. {advice}"
    )


def subset_path(partition: int, folder: str) -> str:
    """Where the sorted kept uids of one range are."""
    return storage.join(folder, "work", "subset", f"{partition:06d}.bin")


def write_subset(choice: Choice, samples: int) -> str:
    """Joins the partitions into subset.npy, DataComp's format: UID_DTYPE, shape (samples,), sorted.

    Returns:
        Its sha256.
    """
    path = storage.join(choice.folder, "subset.npy")
    with storage.atomic(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype("u8,u8")), "fortran_order": False, "shape": (samples,)}
        np.lib.format.write_array_header_1_0(file, header)
        written = sum(file.write(storage.read(subset_path(p, choice.folder))) for p in range(choice.partitions))
    if written != samples * uids.UID_DTYPE.itemsize:
        raise CurateError(
            f"{path}: {written // 16} uids were written, but {samples} were kept. This is a defect: please report it."
        )
    return storage.sha256(path)


def fitted_paths(steps: Sequence[Step], folder: str) -> dict[int, str]:
    """By their numbers, where those steps are recorded that are decided by all rows."""
    decided = [number for number, step in enumerate(steps) if isinstance(step, Fit | Grouping)]
    return {number: _fitted_path(number, folder) for number in decided}


def _fitted_path(number: int, folder: str) -> str:
    return storage.join(folder, "work", "fitted", f"{number}.json")


def write_fitted(step: Step, number: int, folder: str) -> None:
    """Records a step as it was decided, with its numbers filled in."""
    storage.write_json(_fitted_path(number, folder), _record(step))


def fitted(steps: Sequence[Step], folder: str) -> list[dict[str, Any]]:
    """The steps as they were applied, for the manifest."""
    paths = fitted_paths(steps, folder)
    return [storage.read_json(paths[number]) if number in paths else _record(step) for number, step in enumerate(steps)]


def _record(step: Step) -> dict[str, Any]:
    return {step.name: step.describe()}


def tally_path(step: int, folder: str) -> str:
    """Where the state of a step's tally is."""
    return storage.join(folder, "work", "tally", f"{step}.npz")


def write_tally(state: dict[str, np.ndarray], step: int, folder: str) -> None:
    """Keeps a tally's state for the driver."""
    with storage.atomic(tally_path(step, folder)) as file:
        np.savez(file, **state)  # type: ignore[arg-type]
