"""One sample of a shard: its planned row, and the bytes it takes up in a tar."""

import itertools
import json
from typing import NamedTuple

import pyarrow as pa

from pipeline import tars
from pipeline.images import Picture, face_boxes


class Row(NamedTuple):
    """A planned sample. Where a string isn't UTF-8 (Arrow doesn't look whether a file's are), it has U+FFFD."""

    uid: str | None
    url: str | None
    text: str | None
    sha256: str | None
    boxes: pa.Scalar | None  # Python's only when they are needed: a row may have a million
    copy: int = 0  # how many samples of the same row come before it


def rows(plan: pa.Table) -> list[Row]:
    """A plan's rows; columns it hasn't got are null."""
    columns = [_strings(plan, name) for name in ("uid", "url", "text", "sha256")]
    boxes = plan["face_bboxes"] if "face_bboxes" in plan.column_names else [None] * plan.num_rows
    copy = plan["copy"].to_pylist() if "copy" in plan.column_names else [0] * plan.num_rows
    return [Row(*values) for values in zip(*columns, boxes, copy, strict=True)]


def _strings(plan: pa.Table, name: str) -> list[str | None]:
    if name not in plan.column_names:
        return [None] * plan.num_rows
    values = plan[name].cast(pa.binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "replace") for value in values]


def sample_blocks(key: str, row: Row, boxes: list | None, picture: Picture) -> bytes:
    """A sample as it stands in a tar: its jpg, its txt (the caption in UTF-8, empty for null), its json.

    Args:
        boxes: the row's face boxes as the pool has them.
    """
    members = (
        (f"{key}.jpg", picture.jpeg),
        (f"{key}.txt", (row.text or "").encode()),
        (f"{key}.json", _json(key, row, boxes, picture)),
    )
    parts = ((tars.member_header(name, len(data)), data, tars.padding(len(data))) for name, data in members)
    return b"".join(itertools.chain.from_iterable(parts))


def _json(key: str, row: Row, boxes: list | None, picture: Picture) -> bytes:
    """What img2dataset writes with DataComp's settings, under its names and in its order, but without EXIF data.

    ASCII, with the rest escaped, so that no reader has to guess. Malformed boxes, which get here only where faces are
    not blurred, are null: JSON has no NaN. A row's second sample has "copy": 1 besides, and so on, right after the uid.
    """
    try:
        face_boxes(boxes)
    except ValueError:
        boxes = None
    meta = {
        "uid": row.uid,
        **({"copy": row.copy} if row.copy else {}),
        "face_bboxes": boxes,
        "caption": row.text,
        "url": row.url,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": picture.width,
        "height": picture.height,
        "original_width": picture.original_width,
        "original_height": picture.original_height,
        "sha256": picture.sha256,
    }
    return json.dumps(meta, allow_nan=False).encode()
