"""A submission to DataComp, bundled as its repo on the Hub is laid out, after everything in it was compared.

    BUNDLE/{scale}_scale/results.jsonl          a line for each of DataComp's tasks, by its name
    BUNDLE/{scale}_scale/samples/RUN.npy        the uids of a run's subset; RUN.parquet, urls and captions, for byod
    BUNDLE/{scale}_scale/checkpoint.pt          the weights, on demand
    BUNDLE/{scale}_scale/submission.json        track, method, author, and what was trained how
    BUNDLE/submission.json                      the same with the email; it stays here, and is written last

Differs from DataComp's evaluate.py: the training's record is no pickle, and nothing is sent but to the Hub.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metadata.errors import CurateError, printable, reason
from pipeline import evaluate, finished, models, storage, subset, tars, training
from pipeline.pools import scored
from pipeline.scales import SCALES, TRAININGS
from pipeline.tasks import DATACOMP

TRACKS = ("filtering", "byod")

#: What AdamW has where a scale says nothing: open_clip's for names with "vit", which all of the scales' models have.
_BETA2 = 0.98
#: What all of the scales are trained in; `curate train` does so on a GPU.
_PRECISION = "amp"

_LINKS = pa.schema([("url", pa.string()), ("text", pa.string())])


@dataclasses.dataclass(frozen=True)
class Asked:
    """A submission.

    Attributes:
        runs: folders of the runs that were trained on.
        train: folder of `curate train`.
        results: .jsonl of `curate evaluate`.
        out: a local folder.
        method, author, email, track, writeup: as DataComp asks for them; the track is one of TRACKS.
        checkpoint: whether the weights come along.
        partial: whether to bundle what is no submission yet, such as some tasks, another pool or another model.
    """

    runs: tuple[str, ...]
    train: str
    results: str
    out: str
    method: str
    author: str
    email: str
    track: str
    writeup: str | None = None
    checkpoint: bool = False
    partial: bool = False


def bundle(asked: Asked) -> tuple[dict[str, Any], list[str]]:
    """Checks and bundles.

    Returns:
        What submission.json says; what it lacks for a submission, which only `partial` lets pass.

    Raises:
        CurateError: something is missing, changed, or doesn't belong to the rest; or it would be no submission.
    """
    _check_out(asked.out)
    training_record = read_training(asked.train)
    runs = [_open_run(path) for path in asked.runs]
    config = _config(asked.train)
    results, evaluated = _check_results(asked, training_record, config)
    trained = _check_data(runs, training_record)
    lacks = [
        *_differences(training_record, config),
        *_other_pools(asked, runs, training_record["scale"]),
        *_other_tasks(results, evaluated),
    ]
    if missing := [key for key in DATACOMP if key not in results]:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        lacks.append(
            f"{asked.results} has {len(DATACOMP) - len(missing)} of the {len(DATACOMP)} tasks; missing are {shown}"
        )
    if lacks and not asked.partial:
        raise CurateError(f"{asked.train}: this is no submission: {'; '.join(lacks)}; but all must be DataComp's. Mend "
                          f"that, or give --partial to bundle it all the same.")  # fmt: skip
    record = _record(asked, training_record, trained, results, lacks)
    _write(asked, record, trained, results)
    return record, lacks


def _check_out(out: str) -> None:
    there = storage.names(out)
    if not storage.is_local(out) or (there and "submission.json" not in there):
        raise CurateError(f"--out {printable(out)}: is an address, or holds {printable(', '.join(there[:3]))} but no "
                          f"bundle. Give a local folder that is new or empty.")  # fmt: skip


def read_training(folder: str) -> dict[str, Any]:
    """train.json of a finished training, with its weights as it left them.

    Raises:
        CurateError: it isn't there, isn't finished, or the weights are others by now.
    """
    path = os.path.join(folder, "train.json")
    if not os.path.exists(path):
        raise CurateError(f"--train {printable(folder)}: has no train.json, but a finished training does. Give the "
                          f"--out of `curate train`, or run that again to finish it.")  # fmt: skip
    record = training.read_record(path)
    weights = os.path.join(folder, models.WEIGHTS)
    if not os.path.exists(weights) or storage.sha256(weights) != record["weights_sha256"]:
        raise CurateError(f"{weights}: is missing, or is not what the training wrote, but the results are to be of its "
                          f"weights. Run `curate train` again with --overwrite.")  # fmt: skip
    return record


def _config(folder: str) -> dict[str, Any]:
    """The trained model's config."""
    path = os.path.join(folder, models.CONFIG)
    try:
        return dict(storage.read_json(path))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CurateError(f"{path}: can't be read ({reason(error)}), but it says which model was trained. Run `curate "
                          f"train` again with --overwrite.") from error  # fmt: skip


def _open_run(path: str) -> finished.Run:
    run = finished.open_run(path)
    if run.manifest is None:
        raise CurateError(f"--run {printable(path)}: is a subset file, but a submission says where its rows are from. "
                          f"Give the run's folder.")  # fmt: skip
    with subset.local_file(run.subset) as file:
        finished.check_subset(run, file)
    finished.kept_files(run.path, run.manifest)
    return run


def _check_results(
    asked: Asked, training_record: dict[str, Any], config: dict[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """The results' lines by key, which are of the trained model, and how many images each is of."""
    if not os.path.exists(asked.results):
        raise CurateError(f"--results {printable(asked.results)}: there is no such file. Give the --out of `curate "
                          f"evaluate`.")  # fmt: skip
    about = f"{asked.results.removesuffix('.jsonl')}.json"
    try:
        record = storage.read_json(about)
        weights, layers = record["weights"], record["config_sha256"]
        sizes = {key: int(task["size"]) for key, task in record["tasks"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CurateError(f"{about}: can't be read ({reason(error)}), but it says which model the results beside it "
                          f"are of. `curate evaluate` writes it.") from error  # fmt: skip
    if weights != training_record["weights_sha256"]:
        raise CurateError(f"{asked.results}: is of the weights {printable(weights, 80)}, but --train has others, "
                          f"{training_record['weights_sha256']}. Evaluate the model of --train.")  # fmt: skip
    if layers != (trained := models.config_sha256(config)):
        raise CurateError(f"{asked.results}: is of a model with the config_sha256 {printable(layers, 80)}, but --train "
                          f"has {trained}: the same weights in other layers. Evaluate the model of --train."
                          )  # fmt: skip
    results = evaluate.read_results(asked.results)
    for key, line in results.items():
        if not 0 <= (score := line["metrics"]["main_metric"]) <= 1:
            raise CurateError(f"{asked.results}: {printable(key)} has the main metric {score}, but one is needed from "
                              f"0 to 1. Evaluate it again.")  # fmt: skip
    return results, sizes


@dataclasses.dataclass(frozen=True)
class _Trained:
    """A run that was trained on.

    Attributes:
        run: that chose the rows.
        shards: the folder they were read from: the run's, or one of `curate reshard` by its subset.
        sha256: of the run's manifest.
        data: what the training's record says of it.
    """

    run: finished.Run
    shards: str
    sha256: str
    data: dict[str, Any]


def _check_data(runs: Sequence[finished.Run], training_record: dict[str, Any]) -> list[_Trained]:
    """The runs are those that were trained on, all and only they, as they are or resharded."""
    left, found = list(training_record["data"]), list[_Trained]()
    for run in runs:
        assert run.manifest is not None
        manifest = storage.sha256(storage.join(run.path, "manifest.json"))
        chosen = run.manifest["sha256"]["subset.npy"]
        data = next((data for data in left if manifest == data["sha256"] or _resharded(data) == chosen), None)
        if data is None:
            if same := next((one.run.path for one in found if one.sha256 == manifest), None):
                raise CurateError(f"--run {printable(run.path)}: is the same run as --run {printable(same)}, but it "
                                  f"was trained on once. Give it once.")  # fmt: skip
            there = ", ".join(str(data["run"]) for data in training_record["data"])
            raise CurateError(f"--run {printable(run.path)}: was not trained on as it is, nor what `curate reshard` "
                              f"made of its subset, but {printable(there)} was. Give the run that chose those rows, or "
                              f"train again.")  # fmt: skip
        left.remove(data)
        shards = storage.join(run.path, "shards") if manifest == data["sha256"] else data["run"]
        found.append(_Trained(run, shards, manifest, data))
    if left:
        raise CurateError(f"--run: {printable(left[0]['run'])} was trained on too, but is not given. Give --run for "
                          f"each.")  # fmt: skip
    return found


def _resharded(data: dict[str, Any]) -> str | None:
    """sha256 of the subset that those shards were made by, where `curate reshard` made them and they lie there still.

    What removal lists took out of it as well was not trained on, but was not the run's choice either.
    """
    try:
        path = os.path.join(data["run"], "manifest.json")
        record = storage.read_json(path)
        ours = record["command"] == "reshard" and storage.sha256(path) == data["sha256"]
        return record["subset"]["sha256"] if ours else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _differences(record: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    """How the training differs from the scale's."""
    own = TRAININGS[record["scale"]]
    if record["scale"] not in SCALES:
        yield f"{record['scale']} is none of DataComp's scales"
    name, scales_config, _ = training.model_config(own.model)
    wanted = {"model": name, "samples_seen": own.samples_seen, "batch": own.batch, "lr": own.lr, "warmup": own.warmup,
              "beta2": own.beta2 or _BETA2, "checkpoints": own.checkpoints, "precision": _PRECISION}  # fmt: skip
    for key, value in wanted.items():
        if record.get(key) != value:
            yield f"{key} is {printable(record.get(key))} and not the scale's {value}"
    if record["model"] == name and config != scales_config:
        yield f"the model is called {name} but has another config"


def _other_pools(asked: Asked, runs: Sequence[finished.Run], scale: str) -> Iterator[str]:
    if asked.track == "byod":
        return
    for run in runs:
        assert run.manifest is not None
        pool, of, in_part = _pool(run.manifest)
        if pool != "commoncrawl" or of != scale:
            yield f"{run.path} is of the pool {printable(pool)}{f' {of}' if of else ''} and not of CommonPool's {scale}"
        elif in_part:
            yield f"{run.path} looked at a part of its pool only"


def _other_tasks(results: dict[str, dict[str, Any]], sizes: dict[str, int]) -> Iterator[str]:
    """How the tasks differ from DataComp's."""
    for key in filter(results.__contains__, DATACOMP):
        task, metrics = DATACOMP[key], results[key]["metrics"]
        if metrics.get(task.main_metric) != metrics["main_metric"]:
            yield f"the main metric of {key} is not its {task.main_metric}"
        if task.size is not None and sizes.get(key, 0) < task.size:
            yield f"{key} is of {sizes.get(key, 0):,} and not of {task.size:,}"


def _pool(manifest: Any) -> tuple[str, str | None, bool]:
    """The pool's name and scale, and whether only a part of it was looked at.

    Of a pool that `curate score` added columns to, they are those of the one that it scored.
    """
    if record := scored(manifest["pool"]):
        return record["pool"], record["scale"], bool(manifest.get("limit_files") or record.get("limit_files"))
    return manifest["pool"], manifest["scale"], bool(manifest.get("limit_files"))


def _record(
    asked: Asked,
    training_record: dict[str, Any],
    trained: Sequence[_Trained],
    results: dict[str, dict[str, Any]],
    lacks: list[str],
) -> dict[str, Any]:
    parts = ("weight", "samples", "shards", "sha256")  # not where a run lies here
    return {
        "scale": training_record["scale"],
        "track": asked.track,
        "method": asked.method,
        "author": asked.author,
        "writeup": asked.writeup,
        "dataset_size": sum(one.data["samples"] for one in trained),
        "training": {key: value for key, value in training_record.items() if key not in ("data", "loss")},
        "data": [{key: one.data[key] for key in parts} | {"run_sha256": one.sha256} for one in trained],
        "means": evaluate.means(results),
        "left_out": [key for key in results if key not in DATACOMP],
        "complete": not lacks,
    }  # fmt: skip


def _write(
    asked: Asked, record: dict[str, Any], trained: Sequence[_Trained], results: dict[str, dict[str, Any]]
) -> None:
    home = os.path.join(asked.out, f"{record['scale']}_scale")
    about = os.path.join(asked.out, "submission.json")
    storage.write_json(about, {"complete": False})  # by which the folder is a bundle's, should this be killed
    storage.remove(home)
    names: set[str] = set()
    for one in trained:
        run = one.run
        stem = os.path.basename(os.path.abspath(run.path)) if storage.is_local(run.path) else run.path.split("/")[-1]
        stem = next(name for n in range(len(trained)) if (name := stem if not n else f"{stem}-{n}") not in names)
        names.add(stem)
        if asked.track == "byod":
            write_links(one.shards, os.path.join(home, "samples", f"{stem}.parquet"))
        else:
            storage.write(os.path.join(home, "samples", f"{stem}.npy"), storage.read(run.subset))
    # DataComp wants no more lines than it has tasks, and finds them by their names.
    lines = [line | {"dataset": DATACOMP[key].name} for key, line in results.items() if key in DATACOMP]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    storage.write(os.path.join(home, "results.jsonl"), text.encode())
    if asked.checkpoint:
        copy = storage.atomic(os.path.join(home, "checkpoint.pt"))
        with open(os.path.join(asked.train, models.WEIGHTS), "rb") as weights, copy as file:
            shutil.copyfileobj(weights, file)
    storage.write_json(os.path.join(home, "submission.json"), record)
    storage.write_json(about, record | {"email": asked.email})


def write_links(folder: str, path: str) -> None:
    """Parquet of url and text of every sample in a folder of shards, as their json members have them."""
    with storage.atomic(path) as file, pq.ParquetWriter(file, _LINKS) as writer:
        for name in filter(lambda name: name.endswith(".tar"), storage.names(folder)):
            with tars.opened(storage.join(folder, name)) as tar:
                rows = [_link(tar, sample) for sample in tars.samples(tar)]
            writer.write_table(pa.Table.from_pylist(rows, _LINKS))


def _link(tar: tars.Source, sample: tars.Sample) -> dict[str, str | None]:
    member = sample.members.get("json")
    try:
        fact = json.loads(tar.read(member.data, member.size) if member else b"null")
        link = {"url": fact.get("url"), "text": fact.get("caption")}
        for text in filter(None, link.values()):
            text.encode()  # what is no text, or can't be written, is as broken
    except (ValueError, AttributeError, RecursionError) as error:
        raise CurateError(f"{tar.name}: the json of {printable(sample.key)} is missing or broken, but a byod "
                          f"submission names each url and caption. Make the shards again.") from error  # fmt: skip
    return link


def files(out: str, scale: str) -> list[tuple[str, int]]:
    """What would be sent: paths in the repo, and their bytes."""
    home = os.path.join(out, f"{scale}_scale")
    found = [os.path.join(folder, name) for folder, _, names in os.walk(home) for name in names]
    return sorted((os.path.relpath(path, out), os.path.getsize(path)) for path in found)


def push(out: str, repo: str, scale: str) -> str:
    """Sends those files to a model repo of the Hub, in one commit; gives its address.

    Raises:
        CurateError: there is no such repo, no right to write to it, or no network.
    """
    import huggingface_hub

    added = [
        huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=os.path.join(out, name))
        for name, _ in files(out, scale)
    ]
    try:
        done = huggingface_hub.HfApi().create_commit(repo, added, commit_message=f"Submission, {scale} scale")
    except Exception as error:  # refusals and network failures have as many types as the client has layers
        raise CurateError(f"--push {printable(repo)}: can't be written ({reason(error)}). Make the model repo on the "
                          f"Hub first, and log in with a token that may write to it.") from error  # fmt: skip
    return str(done.commit_url)
