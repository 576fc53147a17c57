"""`curate score`: a model's opinion of a pool, beside the pool's own columns, in CommonPool's layout.

    OUT/metadata/    the pool's files with the model's scores and features, see scored_files
    OUT/scores.json  the model, what became of the rows, and the hashes of all files; written last
    OUT/work/        what a killed run goes on from; gone at the end
"""

import collections
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metadata.errors import CurateError, printable, reason
from metadata.schema import FEATURES, MODEL_NAME, score_column
from pipeline import (
    encoding,
    folder,
    manifest,
    models,
    pieces,
    planning,
    progress,
    scored_files,
    shard_folders,
    shard_index,
    storage,
)
from pipeline.options import FetchPolicy
from pipeline.pools import Pool, open_pool

#: What CommonPool calls the models whose scores it has.
NAMES = {"ViT-B-32": "b32", "ViT-L-14": "l14"}


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        columns: our column names to the pool's.
        model: a name of open_clip's, a config or a folder of `curate train`; `pretrained`: its weights.
        name: what its columns are called by, as `l14` in l14_img; None for CommonPool's name of it.
        shards: a folder of tars, or of a run, that has the images; None to fetch them.
        batch: rows that the model sees at a time.
        run: hands a function that builds a Beam pipeline to a runner and waits.
        workers: processes on one machine, which share its cores.
    """

    pool: str
    scale: str | None
    model: str
    pretrained: str | None
    out: str
    run: Callable[[Callable[[Any], None]], None]
    name: str | None = None
    shards: str | None = None
    batch: int = 32
    workers: int = 1
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    limit_files: int | None = None
    overwrite: bool = False
    fetch: FetchPolicy = FetchPolicy()
    accept_changed: bool = False


def score(request: Request) -> dict[str, Any]:
    """Scores a pool; continues where an earlier run of the same command stopped.

    Returns:
        What scores.json says, with "nothing_to_do" if it was there.

    Raises:
        CurateError: for anything the user can mend, all that can be known at once before the first image.
    """
    started = time.time()
    pool = open_pool(request.pool, request.scale, request.columns)
    if folder.is_inside(request.out, pool.address):
        raise CurateError(f"--out {request.out}: lies in --pool {pool.address}, but what is written there would become "
                          f"a part of the pool. Give another --out.")  # fmt: skip
    if request.shards:
        folder.refuse_inside(request.out, "--shards", [request.shards])
    shards, tars = shard_folders.open_whole(request.shards) if request.shards else ("", [])
    found = pieces.inspect(pool, ["uid", "url", "text"], ["sha256"], request.limit_files)
    folder.refuse_inside(request.out, "--pool", (file.path for file in found.files))
    about, dims = _about_model(request)
    files, parts = _plan(found, pool, about["name"])
    identity = {
        "command": "score", "pool": request.pool, "scale": request.scale, "columns": dict(request.columns),
        "limit_files": request.limit_files, **about, "batch": request.batch,
        "shards": [{"name": name, "bytes": storage.size(path), "etag": storage.etag(path)}
                   for name in tars for path in [storage.join(shards, name)]],
        "accept_changed": request.accept_changed, "files": [dataclasses.asdict(file) for file in found.files],
    }  # fmt: skip
    with folder.claim(request.out, identity, request.overwrite), pool.serve() as resolve:
        record = storage.join(request.out, "scores.json")
        if storage.exists(record):
            return _read_record(record) | {"nothing_to_do": True}
        columns = ("uid", "text") if shards else ("url", "text", *found.optional)
        threads = max(1, (os.cpu_count() or 1) // request.workers)
        job = encoding.EncodeJob(request.out, request.model, request.pretrained, about["weights"], about["config"],
                                 columns, request.batch, threads, _halved(request.fetch, resolve),
                                 request.accept_changed, dims, shards)  # fmt: skip
        if shards:
            _index(request, shards, tars)
        _encode(request, job, files, parts, found.rows)
        storage.write_json(record, identity | _collected(files, request.out, started))
        storage.remove(storage.join(request.out, "work"))
        return storage.read_json(record)


def _read_record(path: str) -> dict[str, Any]:
    """scores.json, with all that is read of it in place."""
    try:
        record = storage.read_json(path)
        numbers = [record["rows"], *record["statuses"].values()]
        if not all(isinstance(n, int) for n in numbers) or not {"model", "name"} <= record.keys():
            raise TypeError("a number or a name is something else")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CurateError(f"{path}: is not what `curate score` writes ({type(error).__name__}: {reason(error)}), but "
                          f"it says what was scored. Run the same command again with --overwrite."
                          ) from error  # fmt: skip
    return record


def _halved(fetch: FetchPolicy, resolve: Any) -> FetchPolicy:
    """Two parts are fetched at a time, which share what the user allows."""
    return dataclasses.replace(fetch, concurrency=max(1, fetch.concurrency // 2), per_host=max(1, fetch.per_host // 2),
                               resolve=resolve)  # fmt: skip


def _about_model(request: Request) -> tuple[dict[str, Any], int]:
    """The model by name, config and weights, what its columns are called by, and its dimensions; opened once to see."""
    model = models.open_model(request.model, request.pretrained)
    name = request.name or NAMES.get(model.name.removesuffix("-quickgelu"))
    if name is None or not MODEL_NAME.fullmatch(name):
        given = "no --as was given" if name is None else f"--as {printable(name)}: is no lower-case word"
        raise CurateError(f"--model {printable(model.name)}: {given}, but columns are called by one, as l14 in "
                          f"l14_img. Give --as WORD, such as dfn.")  # fmt: skip
    dims = model.encode_texts([""]).shape[1]
    if (known := FEATURES.get(f"{name}_img")) and known.type.list_size != dims:
        raise CurateError(f"--as {name}: is of {known.type.list_size} dimensions, but {model.name} has {dims}. Give "
                          f"another name.")  # fmt: skip
    return {"model": model.name, "config": model.config, "weights": model.weights, "name": name}, dims


def _plan(
    found: pieces.Inspection, pool: Pool, model: str
) -> tuple[list[scored_files.ScoredFile], list[encoding.Part]]:
    """The files to be written, and the parts they are made of, in the pool's order."""
    parts: list[encoding.Part] = []
    files: list[scored_files.ScoredFile] = []
    for piece in found.pieces:
        for start in range(0, piece.rows, encoding.PART_ROWS):
            stop = min(piece.rows, start + encoding.PART_ROWS)
            parts.append(encoding.Part(len(parts), piece, start, stop))
    numbers = collections.defaultdict(list)
    for part in parts:
        numbers[part.piece.path].append(part.number)
    names = _names([file.path for file in found.files if file.rows])
    for file in found.files:
        if file.rows:
            own = numbers[file.path]
            files.append(scored_files.ScoredFile(len(files), file.path, file.size, file.etag, names[file.path], model,
                                                 (own[0], own[-1] + 1), pool.hidden))  # fmt: skip
    column = score_column(model)
    scored_files.check_free(found.names.get(column, ""), found.names, [column], "column")
    for each in files:
        with scored_files.own_npz(each.path) as npz:
            if npz:
                scored_files.check_free(npz.path, npz.members, scored_files.array_names(model), "array")
    return files, parts


def _names(paths: Sequence[str]) -> dict[str, str]:
    """What is written is called as the pool's files are, with the folders below the one that has them all."""
    folders = [path.split("/")[:-1] for path in paths]
    common = len(list(itertools.takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))))
    return {path: "/".join(path.split("/")[common:]).removesuffix(".parquet") for path in paths}


def _index(request: Request, shards: str, names: Sequence[str]) -> None:
    """Writes where the shards have which uid."""

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        from pipeline.transforms import ForEach, Spread

        tars = pipeline | beam.Impulse() | Spread(enumerate(names))
        _ = tars | "IndexTar" >> ForEach(shard_index.index_tar, shards, request.out)

    work = storage.join(request.out, "work")
    if not storage.exists(storage.join(work, "index.npy")):
        done = storage.join(work, "index")
        progress.watch(lambda: request.run(build), lambda: (len(storage.names(done)), ""), len(names), "tars", "read")
        shard_index.merge(names, request.out)


def _encode(
    request: Request,
    job: encoding.EncodeJob,
    files: Sequence[scored_files.ScoredFile],
    parts: Sequence[encoding.Part],
    rows: int,
) -> None:
    """Writes all files that are not there."""
    left = [file for file in files if not storage.exists(scored_files.record_path(request.out, file))]
    numbers = {number for file in left for number in range(*file.parts)}

    def build(pipeline: Any) -> None:
        import apache_beam as beam

        from pipeline.inference import ScoreParts
        from pipeline.transforms import Spread

        left_parts = (part for part in parts if part.number in numbers)
        _ = pipeline | beam.Impulse() | Spread(left_parts) | ScoreParts(job, left)

    if left:
        progress.watch(lambda: request.run(build), planning.ProgressReader(request.out), rows, "scoring", "rows")


def _collected(files: Sequence[scored_files.ScoredFile], out: str, started: float) -> dict[str, Any]:
    """What scores.json says besides what was asked for."""
    records = [storage.read_json(scored_files.record_path(out, file)) for file in files]
    statuses = collections.Counter[str]()
    for record in records:
        statuses.update(record["statuses"])
    return {"rows": statuses.total(), "statuses": dict(statuses), "outputs": records, "versions": manifest.versions(),
            "times": {"started": started, "seconds": time.time() - started}}  # fmt: skip
