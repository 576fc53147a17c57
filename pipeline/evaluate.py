"""A model on many evaluation tasks: results as JSON lines in DataComp's form, task by task, and their means."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metadata.errors import CurateError, printable, reason
from pipeline import folder, manifest, models, remote, storage, tars, task_files, zero_shot
from pipeline.progress import Line
from pipeline.tasks import GROUPS, Task

#: What the Hub makes of a dataset that is no webdataset, on a branch of its own.
_PARQUET_BRANCH = "refs/convert/parquet"

#: Whose versions can change a result.
_PACKAGES = ("clip-curate", "open_clip_torch", "torch", "torchvision", "pillow", "numpy")


def run(
    tasks: Sequence[Task], data: str | None, model: str, pretrained: str | None, out: str, batch: int, overwrite: bool
) -> dict[str, Any]:
    """Evaluates what `out` doesn't have yet, or has of other files; a line is added when its task is finished.

    Args:
        data: a local folder with the tasks' folders; None for the Hub, whose files stay in its client's cache.
        model, pretrained: as `models.open_model` takes them.
        out: a local path that ends in .jsonl; a line is {"key", "dataset", "metrics": {…, "main_metric"}}, as DataComp
            writes and reads it. The .json beside it says what was evaluated: the model, its weights' sha256, the data,
            the versions, each task's seconds and what its files are known by, and the means.
        batch: images, or captions, that the model sees at a time.
        overwrite: leaves nothing of what `out` has.

    Returns:
        What the .json says, with "results": all lines by key.

    Raises:
        CurateError: files are missing or damaged, the model can't be read, `out` is of another model or other data,
            another process is at work on it, or its .json is something else.
    """
    with folder.alone_on(out):
        record_path, results = f"{out.removesuffix('.jsonl')}.json", {} if overwrite else read_results(out)
        folder.refuse_other_record(record_path, "evaluate", ("weights", "tasks"))
        files = look(tasks, data, results)
        finished = {task.key for task in tasks if _has(results.get(task.key), task)}
        encoder = models.open_model(model, pretrained)
        config = models.config_sha256(encoder.config)
        about = {"model": encoder.name, "config_sha256": config, "weights": encoder.weights,
                 "data": os.path.abspath(data) if data else "the Hub"}  # fmt: skip
        record = _claim(record_path, about, bool(results))
        before = {key: task.get("files") for key, task in record["tasks"].items()}
        changed = [key for key in finished if files[key] and before.get(key) not in (None, files[key])]
        if overwrite:
            storage.remove(out)
        elif changed:  # the record will be of the new files, so what is of the old ones goes first
            finished.difference_update(changed)
            results = {key: line for key, line in results.items() if key not in changed}
            _write(out, results)
        wanted = [task for task in tasks if task.key not in finished]
        for number, task in enumerate(wanted, 1):
            start = time.monotonic()
            results[task.key], done = _evaluate(task, data, encoder, batch, f"{task.name} ({number} of {len(wanted)})")
            seconds = round(time.monotonic() - start, 1)
            record["tasks"][task.key] = {"size": done, "seconds": seconds, "files": files[task.key]}
            record |= {"versions": manifest.versions(_PACKAGES), "device": encoder.device, "means": means(results)}
            # The record first: a line without one would be of nobody knows which model.
            storage.write_json(record_path, record)
            _write(out, results)
        return record | {"means": means(results), "results": results}


def look(tasks: Sequence[Task], data: str | None, results: Mapping[str, dict[str, Any]]) -> dict[str, str | None]:
    """What each task's files are known by, by its key, see `_known_by`.

    Raises:
        CurateError: files of a task that `results` lack are missing or damaged.
    """
    return {task.key: _known_by(task, data, _has(results.get(task.key), task)) for task in tasks}


def _has(line: dict[str, Any] | None, task: Task) -> bool:
    """Whether the line is of the task with the main metric that is asked for."""
    return line is not None and line["metrics"].get(task.main_metric) == line["metrics"]["main_metric"]


def _known_by(task: Task, data: str | None, finished: bool) -> str | None:
    """What tells a task's files from another version of them: a hash of names, sizes, etags, classes and templates.

    Returns:
        16 hexadecimal digits; None for files of the Hub, and of a finished task where they are not there any more.

    Raises:
        CurateError: files of a task that is not finished are missing or damaged.
    """
    if data is None:
        if not finished:
            _folder(task, data, only_text=True)
        return None
    place = _folder(task, data)
    try:
        files = task_files.look(place)
        shards = [(os.path.relpath(path, place), storage.size(path), storage.etag(path)) for path in files.shards]
    except (CurateError, OSError):
        if finished:
            return None
        raise
    if not finished:
        for path in files.shards:
            if path.endswith(".tar"):
                tars.check_ends(path)
    return hashlib.sha256(json.dumps([shards, files.classes, files.templates]).encode()).hexdigest()[:16]


def _write(out: str, results: dict[str, dict[str, Any]]) -> None:
    storage.write(out, "".join(json.dumps(line) + "\n" for line in results.values()).encode())


def _evaluate(task: Task, data: str | None, model: models.Model, batch: int, label: str) -> tuple[dict[str, Any], int]:
    """A task's line, and how many images, or games, it had."""
    files = task_files.look(_folder(task, data))
    line, done = Line(label, "games" if task.key == "misc/winogavil" else "images", task.size or 0), 0

    def watch(number: int) -> None:
        nonlocal done
        line.show(done := number)

    with line:
        if task.key == "misc/winogavil":
            found = zero_shot.associate(model, files, batch, watch)
        elif files.classes:
            found = zero_shot.classify(model, files, task.key, batch, watch)
        else:
            found = zero_shot.retrieve(model, files, batch, watch)
    line.show(done, last=True)
    if task.main_metric not in found:
        raise CurateError(f"{task.key}: its main metric is to be {printable(task.main_metric)}, but of its files there "
                          f"are only {', '.join(found)}. Look at the task and its folder.")  # fmt: skip
    return {"key": task.key, "dataset": task.name, "metrics": found | {"main_metric": found[task.main_metric]}}, done


def _folder(task: Task, data: str | None, only_text: bool = False) -> str:
    """The task's folder on this machine; `only_text` fetches no images from the Hub."""
    if data is not None:
        return os.path.join(data, task.folder)
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    parquet = not task.folder.startswith("wds_")
    patterns = ["*.parquet"] if parquet else ["*.txt", "test/*.txt", "test/*.tar"]
    wanted = [pattern for pattern in patterns if not only_text or pattern.endswith(".txt")]

    def fetch() -> str:
        revision = _PARQUET_BRANCH if parquet else None
        try:
            return huggingface_hub.snapshot_download(
                task.repo, repo_type="dataset", revision=revision, allow_patterns=wanted
            )
        except LocalEntryNotFoundError as error:  # a FileNotFoundError, though it is the network that failed
            raise ConnectionError(str(error)) from error

    (disable_progress_bars if only_text else enable_progress_bars)()
    hint = ", or fetch the set and give its folder's parent as --data"
    return remote.retried(
        fetch, f"hf://datasets/{task.repo}", remote.FIRST_PATIENCE_S if only_text else remote.PATIENCE_S, hint
    )


def read_results(out: str) -> dict[str, dict[str, Any]]:
    """Lines of results, by key."""
    if not os.path.exists(out):
        return {}
    found = {}
    for number, text in enumerate(storage.read(out).decode("utf-8", "replace").splitlines(), 1):
        try:
            line = json.loads(text)
            float(line["metrics"]["main_metric"] + 0)
            found[line["key"]] = line
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise CurateError(f"{out}: line {number} is {printable(text)!r}, but results have a key and a main metric "
                              f"in each. Name another file, or say --overwrite.") from error  # fmt: skip
    return found


def _claim(path: str, about: dict[str, str], used: bool) -> dict[str, Any]:
    """The record to go on with; a new one where there are no results yet."""
    if not used:
        return {**about, "tasks": {}}
    try:
        record = storage.read_json(path) if os.path.exists(path) else {}
        record["tasks"] = {key: dict(task) for key, task in record.get("tasks", {}).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CurateError(f"{path}: can't be read ({reason(error)}), but it says what the results beside it are of. "
                          f"Name another --out, or say --overwrite.") from error  # fmt: skip
    if differ := [name for name in about if record.get(name) != about[name]]:
        name = differ[0]
        raise CurateError(f"{path}: the results beside it are of {name} {printable(record.get(name, '(not said)'))}, "
                          f"but this is {name} {printable(about[name])}. Name another --out, or say --overwrite."
                          )  # fmt: skip
    return record


def means(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The main metrics' mean in each of DataComp's groups, and over all tasks, as far as there are results.

    Returns:
        By group {"score", "tasks": how many it rests on, "of": how many the group has}; tasks that DataComp doesn't
        have are a group "own tasks".
    """
    own = tuple(key for key in results if key not in GROUPS["Average"])
    found = {}
    for group, keys in {**GROUPS, "own tasks": own}.items():
        scores = [results[key]["metrics"]["main_metric"] for key in keys if key in results]
        if scores:
            found[group] = {"score": float(np.mean(scores)), "tasks": len(scores), "of": len(keys)}
    return found
