"""A pool's files with what a model adds: its scores as a column, its features in the npz beside the file.

    metadata/NAME.parquet   the file's columns and rows as they are, and clip_MODEL_similarity_score, float32
    metadata/NAME.npz       the arrays of the file's own npz where that is a local one, and MODEL_img, MODEL_txt
    work/files/NNNNNN.json  what became of its rows; there when both are
"""

import contextlib
import dataclasses
import shutil
import zipfile
import zlib
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metadata.errors import CurateError, printable, reason
from metadata.schema import score_column
from pipeline import storage
from pipeline.encoding import OUTCOMES, part_path
from pipeline.features import Npz, npz_path, open_npz
from pipeline.parquet_file import open_parquet

#: Rows of a row group of what is written.
_GROUP_ROWS = 1 << 16


@dataclasses.dataclass(frozen=True)
class ScoredFile:
    """A pool file that is to be scored.

    Attributes:
        path, size, etag: of the pool's.
        name: of what is written, without ending.
        model: what its columns are called by.
        parts: numbers of its first part and the one after its last.
        hidden: columns that are left out.
    """

    index: int
    path: str
    size: int
    etag: str
    name: str
    model: str
    parts: tuple[int, int]
    hidden: frozenset[str]


def record_path(out: str, file: ScoredFile) -> str:
    """Where the record of a file that is written is."""
    return storage.join(out, "work", "files", f"{file.index:06d}.json")


def write(file: ScoredFile, out: str, dims: int) -> None:
    """Writes the file and its npz, unless they are there, and removes its parts."""
    if not storage.exists(record := record_path(out, file)):
        parquet = storage.join(out, "metadata", f"{file.name}.parquet")
        statuses = np.concatenate(list(_values(file, out, "status")))
        _write_npz(file, out, npz_path(parquet), len(statuses), dims)
        _write_parquet(file, out, parquet)
        counts = np.bincount(statuses, minlength=len(OUTCOMES))
        storage.write_json(record, {
            "name": file.name, "rows": len(statuses),
            "statuses": {name: int(n) for name, n in zip(OUTCOMES, counts, strict=True) if n},
            "parquet_sha256": storage.sha256(parquet), "npz_sha256": storage.sha256(npz_path(parquet)),
        })  # fmt: skip
    for number in range(*file.parts):
        storage.remove(part_path(out, number))


def _values(file: ScoredFile, out: str, array: str) -> Iterator[np.ndarray]:
    """An array of the file's parts, one after the other."""
    for number in range(*file.parts):
        with storage.open_read(part_path(out, number)) as stream, np.load(stream, allow_pickle=False) as part:
            yield part[array]


def _write_parquet(file: ScoredFile, out: str, path: str) -> None:
    scores = pa.array(np.concatenate(list(_values(file, out, "score"))), from_pandas=True)  # NaN is null
    with open_parquet(file.path, file.size) as parquet, storage.atomic(path) as target:
        if parquet.etag != file.etag:
            raise CurateError(f"{file.path}: the file has changed since the run began, but a run reads one pool. "
                              f"Run the command again when nothing writes to the pool.")  # fmt: skip
        names = [name for name in parquet.schema.names if name not in file.hidden]
        schema = pa.schema([parquet.schema.field(name) for name in names], parquet.schema.metadata)
        schema, first = schema.append(pa.field(score_column(file.model), pa.float32())), 0
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for batch in parquet.batches(range(len(parquet.group_rows)), names, _GROUP_ROWS):
                own = scores.slice(first, batch.num_rows)
                writer.write_batch(pa.record_batch([*(batch.column(name) for name in names), own], schema=schema))
                first += batch.num_rows


def _write_npz(file: ScoredFile, out: str, path: str, rows: int, dims: int) -> None:
    header = {"descr": "<f2", "fortran_order": False, "shape": (rows, dims)}
    with storage.atomic(path) as target, zipfile.ZipFile(target, "w") as made, own_npz(file.path) as npz:
        if npz:
            check_free(npz.path, npz.members, array_names(file.model), "array")
            with zipfile.ZipFile(npz.file) as source:  # type: ignore[arg-type]
                for entry in npz.members.values():
                    _copy(npz.path, source, entry, made)
        for array, name in zip(("img", "txt"), array_names(file.model), strict=True):
            with _member(made, f"{name}.npy") as member:
                np.lib.format.write_array_header_1_0(member, header)
                for values in _values(file, out, array):
                    member.write(np.ascontiguousarray(values, "<f2").data.cast("B"))


def _copy(path: str, source: zipfile.ZipFile, entry: zipfile.ZipInfo, made: zipfile.ZipFile) -> None:
    try:
        with source.open(entry) as read, _member(made, entry.filename) as member:
            shutil.copyfileobj(read, member, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise CurateError(f"{path}: {printable(entry.filename)!r} can't be read ({reason(error)}), but all arrays of "
                          f"the pool's are taken along. Fetch it again, and run the command again: what was scored "
                          f"is kept.") from error  # fmt: skip


def _member(made: zipfile.ZipFile, name: str) -> Any:
    """A member to be written, stored and without a time."""
    return made.open(zipfile.ZipInfo(name), "w", force_zip64=True)


def array_names(model: str) -> list[str]:
    """Names of a model's arrays."""
    return [f"{model}_img", f"{model}_txt"]


@contextlib.contextmanager
def own_npz(parquet: str) -> Iterator[Npz | None]:
    """The npz beside a pool's file, open, where there is a local one: what is elsewhere stays there."""
    path = npz_path(parquet)
    if storage.is_local(path) and storage.exists(path):
        with open_npz(path) as npz:
            yield npz
    else:
        yield None


def check_free(where: str, there: Container[str], wanted: Sequence[str], kind: str) -> None:
    """Raises CurateError if one of the wanted names is taken."""
    if taken := [name for name in wanted if name in there]:
        raise CurateError(f"{where}: has a {kind} {taken[0]!r}, but the scores are to be called so. Give another name "
                          f"by --as.".replace("a array", "an array"))  # fmt: skip
