"""Evaluation sets that need no download: of the demo world, drawn anew, and scikit-learn's handwritten digits.

They are in the format that `task_files` reads, so that a model of the demo pool is evaluated like any other.
What they hold comes from the world itself, balanced over its concepts; no row of a pool is looked at.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import yaml

from metadata.errors import CurateError
from pipeline import storage, tars
from pipeline.pools import demo_words
from pipeline.pools.demo_painting import paint
from pipeline.pools.demo_shapes import SHAPES
from pipeline.pools.demo_world import COLOURS, CONCEPTS, Concept, Scene, imagine
from pipeline.tasks import Task

_SAMPLES_PER_SHARD = 1000

#: Of the demo world: things (40 classes), colours (10), both (400), and captions to their pictures.
OBJECTS, COLOURED, BOTH, CAPTIONS = (
    Task("demo/objects", "Demo objects"),
    Task("demo/colours", "Demo colours"),
    Task("demo/concepts", "Demo concepts"),
    Task("demo/captions", "Demo captions", None, "mean_recall@1"),
)
DIGITS = Task("digits", "Digits", 1797)
#: What a guess scores, by the task's key.
CHANCE = {OBJECTS.key: 1 / len(SHAPES), COLOURED.key: 1 / len(COLOURS), BOTH.key: 1 / len(CONCEPTS),
          CAPTIONS.key: 1 / len(CONCEPTS), DIGITS.key: 1 / 10}  # fmt: skip

_SENTENCES = ("a photo of a {}", "a picture of a {}", "illustration of a {}", "drawing of a {} for kids", "{}")


class Made(NamedTuple):
    """A sample of a set: its image's bytes and their extension, and its class's number or its captions."""

    image: bytes
    extension: str
    label: int | list[str]


def write(folder: str, per_concept: int = 2, seed: int = 0) -> str:
    """Writes the demo world's evaluation sets, and the digits where scikit-learn is installed.

    The same bytes every time, with the same versions of OpenCV and numpy. Their pictures are in no demo pool: every
    choice is drawn from other seeds than a pool's.

    Args:
        folder: gets a folder wds_…_test for each task, and tasklist.yml; what is there of them is replaced.
        per_concept: pictures of each of the 400 concepts, in each of the classification tasks.

    Returns:
        The path of tasklist.yml, for `curate evaluate --tasks`.
    """
    if per_concept < 1:
        raise CurateError(f"evaluation sets: {per_concept} pictures of a concept were asked for, but at least 1 is "
                          f"needed. Ask for more.")  # fmt: skip
    shapes, colours = list(SHAPES), list(COLOURS)
    sentences = [sentence.format("{c}") for sentence in _SENTENCES]
    of_things = [f"a photo of a {{c}} {shape}" for shape in shapes]
    tasks: list[tuple[Task, list[str], list[str], Callable[[Concept], int]]] = [
        (OBJECTS, shapes, sentences, lambda concept: shapes.index(concept.shape)),
        (COLOURED, colours, of_things, lambda concept: colours.index(concept.colour)),
        (BOTH, [concept.name for concept in CONCEPTS], sentences, CONCEPTS.index),
    ]
    written = []
    for number, (task, classes, templates, label) in enumerate(tasks):
        scenes = _scenes(number, seed, per_concept * len(CONCEPTS))
        pictures = (Made(_jpeg(scene), "jpg", label(scene.concept)) for scene in scenes)
        written.append(task._replace(size=write_set(folder, task, pictures, classes, templates)))
    written.append(CAPTIONS._replace(size=write_set(folder, CAPTIONS, _captioned(len(tasks), seed))))
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        pass
    else:
        images, labels = load_digits(return_X_y=True)
        names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        write_set(folder, DIGITS, _digits(images, labels), names, ["a photo of the number {c}", "the digit {c}"])
        written.append(DIGITS)
    path = os.path.join(folder, "tasklist.yml")
    listed = {t.key: {"name": t.name, "size": t.size, "main_metric": t.main_metric} for t in written}
    storage.write(path, yaml.safe_dump(listed, sort_keys=False).encode())
    return path


def _scenes(task: int, seed: int, number: int) -> Iterator[Scene]:
    """As many scenes of every concept, all concepts in turn."""
    for index in range(number):
        # The first word keeps these apart from all other generators of the demo world.
        yield imagine(CONCEPTS[index % len(CONCEPTS)], np.random.default_rng([0x6576616C, seed, task, index]))


def _captioned(task: int, seed: int) -> Iterator[Made]:
    """A picture of every concept with a detailed caption that no other picture has."""
    seen = set()
    for index, scene in enumerate(_scenes(task, seed, len(CONCEPTS))):
        rng = np.random.default_rng([0x6576616C, seed, task, index, 1])
        while (caption := demo_words.detailed(scene, rng)) in seen:
            pass  # its end is drawn too, so another comes
        seen.add(caption)
        yield Made(_jpeg(scene), "jpg", [caption])


def _jpeg(scene: Scene) -> bytes:
    return cv2.imencode(".jpg", paint(scene), (cv2.IMWRITE_JPEG_QUALITY, 90))[1].tobytes()


def _digits(images: np.ndarray, labels: np.ndarray) -> Iterator[Made]:
    """The digits of 8 x 8 pixels, black on white and eight times as large."""
    for values, label in zip(images.reshape(-1, 8, 8), labels, strict=True):
        pixels = cv2.resize((255 - values * 15).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        yield Made(cv2.imencode(".png", pixels)[1].tobytes(), "png", int(label))


def write_set(
    folder: str, task: Task, samples: Iterable[Made], classes: Sequence[str] = (), templates: Sequence[str] = ()
) -> int:
    """Writes a task's folder, of classes or, without any, of captions; returns how many samples it has."""
    home = os.path.join(folder, task.folder)
    storage.remove(home)
    rest, shards, count = iter(samples), 0, 0
    while part := list(itertools.islice(rest, _SAMPLES_PER_SHARD)):
        members = [_members(sample, bool(classes)) for sample in part]
        write_tar(os.path.join(home, "test", f"{shards}.tar"), members, count)
        count += len(part)
        shards += 1
    if classes:
        storage.write(os.path.join(home, "classnames.txt"), "\n".join(classes).encode())
        storage.write(os.path.join(home, "zeroshot_classification_templates.txt"), "\n".join(templates).encode())
    storage.write(os.path.join(home, "dataset_type.txt"), b"classification" if classes else b"retrieval")
    # Last, so that a set that is not finished is none.
    storage.write(os.path.join(home, "test", "nshards.txt"), str(shards).encode())
    return count


def _members(sample: Made, classed: bool) -> dict[str, bytes]:
    label = str(sample.label) if classed else "\n".join(sample.label)  # type: ignore[arg-type]
    return {sample.extension: sample.image, "cls" if classed else "txt": label.encode()}


def write_tar(path: str, samples: Iterable[Mapping[str, bytes]], first: int = 0) -> None:
    """Writes a webdataset tar of samples, each its members' bytes by extension, numbered from `first`."""
    with storage.atomic(path) as file:
        for number, members in enumerate(samples, first):
            for extension, data in members.items():
                name = f"s{number:07d}.{extension}"
                file.write(tars.member_header(name, len(data)) + data + tars.padding(len(data)))
        file.write(tars.END)
