"""Centroids of a pool's features: spherical k-means by faiss, over a sample of the rows.

    OUT.npy           the centroids: float32, shape (number, dims), of unit length
    OUT.json          what they are of, and their sha256; written last
    OUT.npy.work/     what a killed run goes on from; gone at the end
        run.json      what was asked for
        work/last.json            the hash that the sample ends with
        work/pieces/NNNNNN.bin    a piece's rows of the sample: their features; NNNNNN.npz: their hashes
        work/sample.npy           all of them, by hash; sample.json: how many
        work/iteration-NNN.npz    the centroids after so many iterations, every second or so

The sample is the rows with the smallest hashes of (uid, seed), and its order that of the hashes: it is the same however
the pool is cut into files. It stays on disk in the type it has in the pool, and faiss converts it block by block, in
every iteration; a small one is converted once. So memory is about three times the centroids, 24 bytes for each of its
rows, and some 100 MB of blocks, or 256 MB of a small sample.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from filters import features
from metadata import uids
from metadata.balancing import row_hashes
from metadata.errors import CurateError, unknown
from metadata.schema import FEATURES, is_feature
from pipeline import folder, storage
from pipeline.pieces import Inspection, Piece, batches, inspect
from pipeline.pools import Pool
from pipeline.progress import Line

#: Rows that are put in their places at a time.
_ROWS = 8192

#: A sample that takes no more bytes as float32 is held so: converting would take longer than few centroids do.
_SMALL = 1 << 30

#: Products of a row with a centroid, and numbers of rows read, between two checkpoints: a second or two on two cores.
_PACE = 1 << 28


@dataclasses.dataclass(frozen=True)
class Asked:
    """What centroids are made.

    Attributes:
        embedding: a feature column.
        number: of centroids.
        sample: rows to cluster; those of them that have no features are left out.
        iterations: of k-means.
        seed: of the sample, and so of the centroids that k-means begins with.
    """

    embedding: str
    number: int
    sample: int
    iterations: int
    seed: int


def make(pool: Pool, asked: Asked, out: str, overwrite: bool = False) -> dict[str, Any]:
    """Writes the centroids; gives what their JSON says, with "nothing_to_do" if they were there.

    On one machine the same pool and options give the same bytes, whether or not the command was killed in between.

    Args:
        out: a local path that ends in .npy.
        overwrite: replace what is at `out`, and what another run left beside it.

    Raises:
        CurateError: faiss is not installed, the pool has no such features or fewer rows than centroids, a row's
            features are not of unit length, or there is something else at `out` or where its JSON goes.
    """
    _check(asked, out)
    about, work = f"{out.removesuffix('.npy')}.json", f"{out}.work"
    folder.refuse_other_record(about, "centroids", ("embedding", "sha256"))
    _import_faiss()
    found = inspect(pool, ["uid", asked.embedding])
    if found.rows < asked.number:
        raise _too_few(asked, f"--pool {pool.name} has {found.rows:,} rows")
    identity = {"pool": pool.name, "columns": dict(pool.columns), "files_sha256": _hash_of_files(found),
                **dataclasses.asdict(asked)}  # fmt: skip
    if not overwrite and storage.exists(out) and (record := _finished(out, about, work, identity)):
        return record | {"nothing_to_do": True}
    with folder.claim(work, {"command": "centroids", **identity}, overwrite):
        made = _sample(found, asked, storage.join(work, "work"))
        centroids, cosines = _cluster(asked, storage.join(work, "work"))
        with storage.atomic(out) as file:
            np.save(file, centroids)
        record = {**identity, **made, "pool_rows": found.rows, "mean_cosines": cosines, "sha256": storage.sha256(out),
                  "faiss": importlib.metadata.version("faiss-cpu")}  # fmt: skip
        storage.write_json(about, record)
        storage.remove(work)
    return record


def _check(asked: Asked, out: str) -> None:
    if not is_feature(asked.embedding):
        raise unknown("embedding", asked.embedding, FEATURES, where="--embedding")
    if asked.sample < asked.number:
        raise _too_few(asked, f"--sample is {asked.sample:,} rows")
    if not storage.is_local(out) or not out.endswith(".npy"):
        raise CurateError(f"--out {out}: is no path that ends in .npy, but steps read centroids from such a file on "
                          f"their own machine. Give one.")  # fmt: skip
    if not 0 <= asked.seed < 1 << 64:
        raise CurateError(f"--seed {asked.seed}: lies outside of 0 to 2**64 - 1, but it is hashed as such. Give 0.")


def _too_few(asked: Asked, given: str) -> CurateError:
    return CurateError(f"--number {asked.number:,}: {given}, but there must be as many rows as centroids. Ask for "
                       f"fewer centroids.")  # fmt: skip


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise CurateError("curate centroids: the package faiss is not installed, but it does the clustering. "
                          "Run: pip install 'clip-curate[clusters]'") from error  # fmt: skip
    return faiss


def _hash_of_files(found: Inspection) -> str:
    """Of the files' content and order: where they lie does not matter."""
    facts = [(os.path.basename(file.path), file.size, file.etag, file.rows) for file in found.files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _finished(out: str, about: str, work: str, identity: dict[str, Any]) -> dict[str, Any] | None:
    """What the JSON says of the command's own centroids at `out`; None where it was killed while it made them.

    What is left of one that was killed when they were made is removed.
    """
    record = storage.read_json(about) if storage.exists(about) else {}
    different = [key for key, value in identity.items() if record.get(key) != value]
    if different or record.get("sha256") != storage.sha256(out):
        if storage.exists(storage.join(work, "run.json")):
            return None
        what = f"of another {', '.join(different)}" if record and different else "that are not known"
        raise CurateError(f"--out {out}: holds vectors {what}, but only the same command may find its own there. Give "
                          f"another --out, or --overwrite to replace it.")  # fmt: skip
    if storage.exists(work):
        with folder.alone(work):
            storage.remove(work)
    return record


# The sample.


def _sample(found: Inspection, asked: Asked, work: str) -> dict[str, int]:
    """Writes the sample; gives {"sample_rows": of it, "left_out": rows of it without features}."""
    marker, pieces = storage.join(work, "sample.json"), found.pieces
    if not storage.exists(marker):
        last, folder_of_pieces = _last(pieces, asked, work), storage.join(work, "pieces")
        with Line(f"reading {asked.embedding}", "rows", sum(piece.rows for piece in pieces)) as line:
            for piece in pieces:
                _gather(piece, asked, last, storage.join(folder_of_pieces, piece.name))
                line.show(piece_end(pieces, piece), last=piece is pieces[-1])
        made = _order(pieces, found.schema.field(asked.embedding).type, work)
        if made["sample_rows"] < asked.number:
            raise _too_few(asked, f"of the sample {made['sample_rows']:,} rows have features")
        storage.write_json(marker, made)
        storage.remove(folder_of_pieces)
    return storage.read_json(marker)


def piece_end(pieces: Sequence[Piece], piece: Piece) -> int:
    """Rows of the pool up to the piece's end."""
    return sum(p.rows for p in pieces[: piece.index + 1])


def _last(pieces: Sequence[Piece], asked: Asked, work: str) -> int:
    """The hash up to which rows are in the sample: the asked-for number, and whatever shares the uid of the last."""
    path = storage.join(work, "last.json")
    if not storage.exists(path):
        last, smallest = np.uint64(2**64 - 1), np.empty(0, np.uint64)
        with Line("reading uids", "rows", sum(piece.rows for piece in pieces)) as line:
            for piece in pieces:
                for batch in batches(piece, ["uid"]):
                    hashes = row_hashes(uids.parse(batch.column("uid"), piece.path), asked.seed)
                    smallest = np.append(smallest, hashes[hashes <= last])
                    if len(smallest) >= asked.sample:
                        smallest = np.partition(smallest, asked.sample - 1)[: asked.sample]
                        last = smallest[-1]
                line.show(piece_end(pieces, piece), last=piece is pieces[-1])
        storage.write_json(path, int(last))
    return storage.read_json(path)


def _gather(piece: Piece, asked: Asked, last: int, path: str) -> None:
    """Writes the features of the piece's rows of the sample, then their hashes and how many rows had no features."""
    if storage.exists(f"{path}.npz"):
        return
    found, left_out = [np.empty(0, np.uint64)], 0
    with storage.atomic(f"{path}.bin") as file:
        for batch in batches(piece, ["uid", asked.embedding]):
            hashes = row_hashes(uids.parse(batch.column("uid"), piece.path), asked.seed)
            chosen = np.flatnonzero(hashes <= np.uint64(last))
            values = features.matrix(batch.column(asked.embedding))[chosen]
            for part, _, there in features.unit_blocks(values, f"{piece.path}: {asked.embedding}"):
                file.write(values[part][there].tobytes())
                found.append(hashes[chosen[part]][there])
                left_out += int((~there).sum())
    with storage.atomic(f"{path}.npz") as file:
        np.savez(file, hashes=np.concatenate(found), left_out=left_out)


def _order(pieces: Sequence[Piece], kind: Any, work: str) -> dict[str, int]:
    """Writes the pieces' rows as one array, by hash; gives how many there are, and how many were left out.

    Args:
        kind: the Arrow type of their features.
    """
    dims, dtype = kind.list_size, np.dtype(f"f{kind.value_type.bit_width // 8}")
    hashes, left_out, parts = [], 0, []
    for piece in pieces:
        path = storage.join(work, "pieces", piece.name)
        with np.load(f"{path}.npz", allow_pickle=False) as known:
            hashes.append(known["hashes"])
            left_out += int(known["left_out"])
        # numpy maps no file without bytes.
        shape = (len(hashes[-1]), dims)
        parts.append(np.memmap(f"{path}.bin", dtype, "r", shape=shape) if shape[0] else np.empty(shape, dtype))
    path, rows = storage.join(work, "sample.npy"), sum(map(len, parts))
    if rows:
        places = _places(np.concatenate(hashes), parts)
        unfinished = storage.join(work, ".sample.npy.tmp")
        ordered = np.lib.format.open_memmap(unfinished, "w+", dtype, (rows, dims))
        start = 0
        for part in parts:
            for first in range(0, len(part), _ROWS):
                block = part[first : first + _ROWS]
                ordered[places[start : start + len(block)]] = block
                start += len(block)
        ordered.flush()
        os.replace(unfinished, path)
    return {"sample_rows": rows, "left_out": left_out}


def _places(hashes: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Each row's place by hash; where a uid comes several times, by the first 8 bytes of its features. int64."""
    begins = np.concatenate([np.ascontiguousarray(part[:, : 8 // part.itemsize]).view(np.uint64)[:, 0]
                             for part in parts])  # fmt: skip
    places = np.empty(len(hashes), np.int64)
    places[np.lexsort((begins, hashes))] = np.arange(len(hashes))
    return places


# Clustering.


def _cluster(asked: Asked, work: str) -> tuple[np.ndarray, list[float]]:
    """The centroids, and of each iteration the mean cosine of rows with the centroid nearest to them before it."""
    sample = np.load(storage.join(work, "sample.npy"), mmap_mode="r", allow_pickle=False)
    centroids, cosines = _checkpoint(work, features.widen(sample[: asked.number]))
    if 4 * sample.size <= _SMALL:
        sample = features.widen(sample)
    with Line("clustering", "rows", asked.iterations * len(sample), len(cosines) * len(sample)) as line:
        pace = max(1, _PACE // (len(sample) * sum(centroids.shape)))
        while (before := len(cosines)) < asked.iterations:
            centroids, totals = iterate(sample, centroids, min(pace, asked.iterations - before))
            cosines = np.append(cosines, totals / len(sample))
            with storage.atomic(_iteration_path(len(cosines), work)) as file:
                np.savez(file, centroids=centroids, cosines=cosines)
            storage.remove(_iteration_path(before, work))
            note = f"iteration {len(cosines)} of {asked.iterations}, mean cosine {cosines[-1]:.4f}"
            line.show(len(cosines) * len(sample), note, last=len(cosines) == asked.iterations)
    return centroids, cosines.tolist()


def _iteration_path(number: int, work: str) -> str:
    return storage.join(work, f"iteration-{number:03d}.npz")


def _checkpoint(work: str, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centroids and mean cosines of the iterations that are done; before any, `first` and none."""
    names = [name for name in storage.names(work) if name.startswith("iteration-")]
    if not names:
        return first, np.empty(0)
    with np.load(storage.join(work, names[-1]), allow_pickle=False) as known:
        return known["centroids"], known["cosines"]


def iterate(sample: np.ndarray, centroids: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """So many iterations of faiss' spherical k-means: rows go to the nearest centroid, whose next place is their mean.

    A centroid that no row is nearest to takes one of a large cluster's two halves, as faiss has it. One call gives the
    centroids that as many calls of one iteration give, without their checks of the rows.

    Args:
        sample: float16 or float32, shape (rows, dims), of unit length; may be mapped.
        centroids: float32, shape (number, dims).

    Returns:
        The next centroids, of unit length; of each iteration the sum of the rows' inner products with the centroids
        that it began with: float64, shape (iterations,).
    """
    faiss = _import_faiss()
    number, dims = centroids.shape
    clustering = faiss.Clustering(dims, number)
    clustering.niter, clustering.spherical = iterations, True
    # All rows count, however many or few there are.
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, 1 << 30
    # Not stopped where the sum stays the same: rounding decides that, and the same rows must give the same centroids.
    clustering.early_stop_threshold = -1.0
    faiss.copy_array_to_vector(np.ascontiguousarray(centroids).ravel(), clustering.centroids)
    if sample.dtype == np.float16:
        codec = faiss.IndexScalarQuantizer(dims, faiss.ScalarQuantizer.QT_fp16)
        clustering.train_encoded(sample.view(np.uint8), codec, faiss.IndexFlatIP(dims))
    else:
        clustering.check_input_data_for_NaNs = False  # they are of unit length, which was looked at
        clustering.train(sample, faiss.IndexFlatIP(dims))
    found = faiss.vector_to_array(clustering.centroids).reshape(number, dims)
    return found, np.array([clustering.iteration_stats.at(n).obj for n in range(iterations)], np.float64)
