"""What a model makes of an evaluation set that it was not trained for: classes told by captions, captions found."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from metadata.errors import CurateError
from pipeline import metrics
from pipeline.models import Model
from pipeline.task_files import Game, TaskFiles

#: Told how many images are done.
Watch = Callable[[int], None]

_BEST, _MAX_GROUPS = 5, 10_000


def classify(model: Model, files: TaskFiles, key: str, batch: int, watch: Watch) -> dict[str, Any]:
    """Metrics of a classification task; those that the task `key` has of its own too.

    An image's class is the one whose caption's feature is nearest; in memory are a few batches of images, and five
    numbers an image.
    """
    heads = classifier(model, files.classes, files.templates, batch)
    ranked, labels, metadata = [], [], []
    for features, samples in encoded(model, ((s.where, s.image, s) for s in files.samples()), batch):
        # Stable, so that of equal cosines the lower number is first, as argmax has it.
        ranked.append(np.argsort(-(features @ heads), axis=1, kind="stable")[:, :_BEST].astype(np.int32))
        labels += [sample.label for sample in samples]
        metadata += [(sample.where, sample.metadata) for sample in samples]
        watch(len(labels))
    first, truth = np.concatenate(ranked), np.array(labels)
    found: dict[str, Any] = metrics.classification(first, truth, len(files.classes))
    if key == "wilds/iwildcam":
        found |= metrics.macro_f1(first[:, 0], truth)
    for grouping in metrics.GROUPINGS.get(key, ()):
        right = (first[:, : grouping.best] == truth[:, None]).any(axis=1)
        name = "acc" if grouping.best == 1 else f"acc_top{grouping.best}"
        found |= metrics.by_group(right, _groups(metadata, grouping), name, grouping.field, grouping.worst)
    return found


def _groups(metadata: Sequence[tuple[str, np.ndarray | None]], grouping: metrics.Grouping) -> np.ndarray:
    """The images' groups: one column of their metadata, whole numbers from 0."""
    found = np.empty(len(metadata), np.int64)
    for row, (where, numbers) in enumerate(metadata):
        group = -1 if numbers is None or len(numbers) <= grouping.column else numbers[grouping.column]
        if not 0 <= group < _MAX_GROUPS or group != int(group):
            raise CurateError(f"{where}: metadata {numbers if numbers is None else numbers.tolist()}, but number "
                              f"{grouping.column + 1} is to be its {grouping.field}, a whole number from 0. Get the "
                              f"evaluation set again.")  # fmt: skip
        found[row] = group
    return found


def classifier(model: Model, classes: Sequence[str], templates: Sequence[str], batch: int) -> np.ndarray:
    """A feature a class: the mean over its captions, brought to unit length; float32, shape (dims, classes)."""
    texts = [template.replace("{c}", name) for name in classes for template in templates]
    found = _texts(model, texts, batch)
    means = found.reshape(len(classes), len(templates), -1).mean(axis=1)
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).T


def retrieve(model: Model, files: TaskFiles, batch: int, watch: Watch) -> dict[str, Any]:
    """Metrics of a retrieval task."""
    images, texts, image_of, done = [], [], [], 0
    for features, captions in encoded(model, ((s.where, s.image, s.label) for s in files.samples()), batch):
        images.append(features)
        texts.append(_texts(model, [text for some in captions for text in some], batch))
        image_of += [done + n for n, some in enumerate(captions) for _ in some]
        done += len(captions)
        watch(done)
    return metrics.retrieval(np.concatenate(images), np.concatenate(texts), np.array(image_of))


def associate(model: Model, files: TaskFiles, batch: int, watch: Watch) -> dict[str, Any]:
    """Metrics of WinoGAViL: each image's score is its cosine to the cue with an article before it."""
    scores, answers = [], []
    rest: list[np.ndarray] = []
    cues: collections.deque[Game] = collections.deque()

    def images() -> Iterator[tuple[str, bytes, None]]:
        for game in files.games():
            cues.append(game)
            yield from ((game.where, image, None) for image in game.images)

    for features, _ in encoded(model, images(), batch):
        rest += list(features)
        while cues and len(rest) >= len(cues[0].answers):
            game = cues.popleft()
            size = len(game.answers)
            scores.append(np.stack(rest[:size]) @ _texts(model, [cue_caption(game.cue)], batch)[0])
            answers.append(game.answers)
            del rest[:size]
        watch(len(scores))
    return metrics.jaccard(scores, answers)


def cue_caption(cue: str) -> str:
    """The caption that DataComp makes of a cue.

    >>> cue_caption("Owl"), cue_caption("fire")
    ('An owl', 'A fire')
    """
    return f"{'An' if cue[0].lower() in 'aeiou' else 'A'} {cue.lower()}"


def _texts(model: Model, texts: Sequence[str], batch: int) -> np.ndarray:
    parts = [texts[at : at + batch] for at in range(0, len(texts), batch)]
    return np.concatenate([_finite(model, model.encode_texts(part)) for part in parts])


def _finite(model: Model, features: np.ndarray) -> np.ndarray:
    """The features; raises CurateError if one is no number, which nothing is nearer than."""
    if not np.isfinite(features).all():
        raise CurateError(f"--model {model.name}: its features have NaN or infinity, but they are compared. Its "
                          f"training went wrong, or its weights are damaged: give another one.")  # fmt: skip
    return features


def encoded(
    model: Model, images: Iterable[tuple[str, bytes, Any]], batch: int
) -> Iterator[tuple[np.ndarray, list[Any]]]:
    """Features a batch, and what came with the images; threads decode two batches ahead of the model.

    Args:
        images: where each is from, its bytes, and anything.

    Raises:
        CurateError: one can't be read as an image, or there are none.
    """
    threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())  # more would wait for Python's lock
    waiting: collections.deque[tuple[str, concurrent.futures.Future, Any]] = collections.deque()

    def take() -> tuple[np.ndarray, list[Any]]:
        some = [waiting.popleft() for _ in range(min(batch, len(waiting)))]
        pixels = [future.result() for _, future, _ in some]
        for (where, _, _), made in zip(some, pixels, strict=True):
            if made is None:
                raise CurateError(f"{where}: can't be read as an image, but every image of an evaluation set counts. "
                                  f"Get the set again.")  # fmt: skip
        return _finite(model, model.encode_images(pixels)), [about for _, _, about in some]

    empty = True
    try:
        for where, data, about in images:
            empty = False
            waiting.append((where, threads.submit(model.prepare, data), about))
            if len(waiting) == 3 * batch:
                yield take()
        if empty:
            raise CurateError("the evaluation set has no images, but its model is measured on them. Get it again.")
        while waiting:
            yield take()
    finally:
        threads.shutdown(cancel_futures=True)
