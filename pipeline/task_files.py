"""An evaluation set's files: clip-benchmark's webdataset format, and the parquet that the Hub makes of datasets."""

import dataclasses
import glob
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metadata import npy
from metadata.errors import CurateError, printable, reason
from pipeline import storage, tars

#: Extensions of a sample's image; of several the first counts.
IMAGES = ("webp", "png", "jpg", "jpeg")

#: No member of a sample is larger.
_MAX_BYTES = 200 << 20
_ROWS = 16


class Sample(NamedTuple):
    """An image of an evaluation set.

    Attributes:
        where: its file and its key in it, for errors.
        image: its bytes.
        label: its class's number, or its captions.
        metadata: numbers, of which some say what groups it belongs to; None where it has none.
    """

    where: str
    image: bytes
    label: Any
    metadata: np.ndarray | None = None


class Game(NamedTuple):
    """A game of WinoGAViL: which of the images go with the cue? `answers` are booleans, one an image."""

    where: str
    cue: str
    images: list[bytes]
    answers: np.ndarray


@dataclasses.dataclass(frozen=True)
class TaskFiles:
    """What `look` found.

    Attributes:
        shards: paths of tars, or of parquet files, in order.
        classes: their names in the order of their numbers; none where captions are retrieved.
        templates: of captions, each with {c} where the class goes.
    """

    shards: list[str]
    classes: list[str]
    templates: list[str]

    def samples(self) -> Iterator[Sample]:
        """Every image, in the order of the files.

        Raises:
            CurateError: a file or a sample is damaged, or lacks something.
        """
        for path in self.shards:
            if path.endswith(".parquet"):
                yield from _captioned(path)
                continue
            with tars.opened(path) as tar:
                for sample in tars.samples(tar):
                    yield self._sample(tar, sample)

    def games(self) -> Iterator[Game]:
        """Every game of WinoGAViL, in the order of the files."""
        for path in self.shards:
            for number, row in _rows(path, ("cue", "candidates", "associations", "candidate_images")):
                where = f"{path}: row {number}"
                lists = (row[name] for name in ("candidates", "associations", "candidate_images"))
                names, chosen, pictures = (found if isinstance(found, list) else [] for found in lists)
                images = [data for image in pictures if (data := _bytes(image)) is not None]
                answers = np.array([name in chosen for name in names], np.bool_)
                if not row["cue"] or not isinstance(row["cue"], str) or not answers.any() or len(images) != len(names):
                    raise _broken(where, "lacks a cue, an image or an answer", "a game has all of them")
                yield Game(where, row["cue"], images, answers)

    def _sample(self, tar: tars.Source, sample: tars.Sample) -> Sample:
        where = f"{tar.name}: {printable(sample.key)}"

        def read(*extensions: str) -> bytes | None:
            member = next((sample.members[e] for e in extensions if e in sample.members), None)
            if member and member.size > _MAX_BYTES:
                raise _broken(where, f"a member of {member.size:,} bytes", f"at most {_MAX_BYTES:,} are read")
            return tar.read(member.data, member.size) if member else None

        image = read(*IMAGES)
        label, metadata = read("cls" if self.classes else "txt"), read("npy")
        if image is None or label is None:
            raise _broken(where, f"has {', '.join(map(printable, sorted(sample.members)))}",
                          f"an image and a {'.cls' if self.classes else '.txt'} are needed")  # fmt: skip
        numbers = None if metadata is None else _numbers(metadata, where)
        return Sample(where, image, self._class(label, where) if self.classes else _captions(label, where), numbers)

    def _class(self, label: bytes, where: str) -> int:
        text = label.strip()
        if not text.isdigit() or len(text) > 9 or int(text) >= len(self.classes):
            raise _broken(where, f"the class {printable(text.decode('utf-8', 'replace'))!r}",
                          f"a number from 0 to {len(self.classes) - 1} is needed")  # fmt: skip
        return int(text)


def look(folder: str) -> TaskFiles:
    """An evaluation set's files, before any of them is read to its end.

    Args:
        folder: a local one. It has test/ with nshards.txt and 0.tar, 1.tar, …; beside test/ either
            classnames.txt and zeroshot_classification_templates.txt, or dataset_type.txt that says "retrieval".
            Or it has parquet files, also in its folders: of captioned images, or of WinoGAViL's games.

    Raises:
        CurateError: something of it is missing or empty, or the tars are not as many as nshards.txt says.
    """
    test = os.path.join(folder, "test")
    if not os.path.exists(os.path.join(test, "nshards.txt")):
        shards = sorted(glob.glob(os.path.join(glob.escape(folder), "**", "*.parquet"), recursive=True))
        if not shards:
            raise CurateError(f"{folder}: has neither test/nshards.txt nor a parquet file, but an evaluation set is "
                              f"needed there. Look at --data and --tasks.")  # fmt: skip
        return TaskFiles(shards, [], [])
    number = "".join(_lines(os.path.join(test, "nshards.txt")))
    found = {name for name in storage.names(test) if name.endswith(".tar")}
    wanted = [f"{n}.tar" for n in range(int(number))] if number.isdecimal() and len(number) < 7 else []
    if not wanted or set(wanted) != found:
        odd = ", ".join(map(printable, sorted(set(wanted) ^ found)[:3]))
        raise CurateError(f"{test}: nshards.txt says {printable(number)!r} and there are {len(found)} tars, but as "
                          f"many as it says, one or more, are needed (see {odd or 'nshards.txt'}). Get the set again."
                          )  # fmt: skip
    shards = [os.path.join(test, name) for name in wanted]
    kind = os.path.join(folder, "dataset_type.txt")
    said = " ".join(_lines(kind)).lower() if os.path.exists(kind) else "classification"
    if said == "retrieval":
        return TaskFiles(shards, [], [])
    if said != "classification":
        raise _broken(kind, f"says {printable(said)!r}", "only classification and retrieval are evaluated")
    classes = _lines(os.path.join(folder, "classnames.txt"))
    return TaskFiles(shards, classes, _templates(os.path.join(folder, "zeroshot_classification_templates.txt")))


def _templates(path: str) -> list[str]:
    templates = _lines(path)
    for line in templates:
        if "{c}" not in line:
            raise _broken(path, f"the template {printable(line)!r}", "each has {c} where the class goes")
    return templates


def _lines(path: str) -> list[str]:
    """A text file's lines without the spaces around them."""
    try:
        lines = [line.strip() for line in _cut(storage.read(path))]
    except FileNotFoundError as error:
        raise _broken(path, "is not there", "an evaluation set has it") from error
    except UnicodeDecodeError as error:
        raise _broken(path, f"is no UTF-8 ({reason(error)})", "text is needed") from error
    if not lines or not all(lines):
        raise _broken(path, f"line {next((n for n, line in enumerate(lines, 1) if not line), 1)} is empty",
                      "every line counts")  # fmt: skip
    return lines


def _cut(text: bytes) -> list[str]:
    """The lines of UTF-8, which end in \\n or \\r\\n alone; a mark at the beginning is none of the text."""
    lines = text.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _captions(text: bytes, where: str) -> list[str]:
    try:
        captions = _cut(text)
    except UnicodeDecodeError as error:
        raise _broken(where, f"captions that are no UTF-8 ({reason(error)})", "text is needed") from error
    if not captions:
        raise _broken(where, "no caption", "every image has one or more")
    return captions


def _numbers(data: bytes, where: str) -> np.ndarray:
    """A .npy member: one line of numbers."""
    try:
        numbers = npy.load(data)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
            raise ValueError("no line of numbers")
    except (ValueError, OSError) as error:
        raise _broken(where, f"metadata that can't be read ({reason(error)})", "a .npy of numbers is needed"
                      ) from error  # fmt: skip
    return numbers


def _captioned(path: str) -> Iterator[Sample]:
    for number, row in _rows(path, ("image", "caption")):
        where = f"{path}: row {number}"
        image, given = _bytes(row["image"]), row["caption"]
        captions = given if isinstance(given, list) else [given]
        if image is None or not given or not all(isinstance(caption, str) for caption in captions):
            raise _broken(where, "lacks the image's bytes or a caption", "every row has both")
        yield Sample(where, image, captions)


def _bytes(image: Any) -> bytes | None:
    """An image of the Hub's parquet files: {bytes, path}; None where it is none."""
    data = image.get("bytes") if isinstance(image, dict) else image
    return data if isinstance(data, bytes) else None


def _rows(path: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a parquet file with their numbers, a few in memory at a time."""
    try:
        with pq.ParquetFile(path) as file:
            if missing := set(columns) - set(file.schema_arrow.names):
                raise _broken(path, f"has no column {', '.join(sorted(missing))}", f"{', '.join(columns)} are needed")
            start = 0
            for batch in file.iter_batches(_ROWS, columns=list(columns)):
                yield from enumerate(batch.to_pylist(), start)
                start += batch.num_rows
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _broken(path, f"can't be read ({reason(error)})", "only whole parquet files are read") from error


def _broken(where: str, what: str, needed: str) -> CurateError:
    return CurateError(f"{where}: {what}, but {needed}. Get the evaluation set again, or mend it.")
