"""The demo pool: drawn images with captions and the junk a crawl has, in CommonPool's columns, made on this machine.

Every choice about pair i is drawn from a hash of (seed, i, purpose) alone. So the same seed gives the same bytes (with
the same versions of OpenCV and numpy), and the first n pairs are the same however many pairs there are.

The two CLIP columns are no model's: `_scores` draws them from what is known of a pair, so that they look like CLIP's
(higher where the caption fits the image, with an overlap that no threshold can undo). The column `truth` says what a
pair really is; no filter may read it.
"""

import functools
import hashlib
import os
import shutil
import uuid
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from metadata.errors import CurateError
from metadata.schema import COLUMNS
from pipeline import storage
from pipeline.pools import demo_words
from pipeline.pools.demo_server import HOSTS, LINKS, REFUSED_HOST, UNKNOWN_HOST, Link, serve
from pipeline.pools.demo_world import CONCEPTS, Concept, Scene, draw, imagine, paint, pick, pick_concept

__all__ = ["CAPTIONS", "CONCEPTS", "DEMO_PAIRS", "LINKS", "PICTURES", "TRUTH_COLUMN"]
__all__ += ["build", "cached", "draw", "serve"]

DEMO_PAIRS = 4000
PAIRS_PER_FILE = 1000
TRUTH_COLUMN = "truth"
#: Raised whenever the same seed gives other pairs than before.
VERSION = 1

#: What the caption is, as a share of the pairs.
CAPTIONS = {
    "plain": 0.24,  # English, fits
    "detailed": 0.16,  # English, fits, and says how and where
    "brief": 0.08,  # English, fits, one or two words
    "foreign": 0.18,  # fits, in German, French, Spanish, Chinese, Japanese, Russian or Arabic
    "mismatched": 0.15,  # English, of a thing that is not in the image
    "boilerplate": 0.10,  # "Click here to enlarge the image"
    "file_name": 0.06,  # "IMG_2043.JPG"
    "empty": 0.03,  # "", spaces or null
}
#: What the picture is, as a share of the pairs.
PICTURES = {
    "usual": 0.81,
    "tiny": 0.07,  # the shorter side is under 200 px
    "stretched": 0.04,  # the longer side is over 3 times the shorter
    "duplicate": 0.05,  # one of few pictures that many pages show with the same captions: same bytes, another address
    "placeholder": 0.03,  # "image not available", the same bytes everywhere, whatever the caption says
}
_STOCK_PICTURES = 40
_FORMATS = {"jpg": 0.93, "png": 0.03, "webp": 0.04}
_CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_PAGE = b"<!DOCTYPE html>\n<html><title>Not here any more</title><body><p>This image has moved.</p></body></html>\n"

#: What the world takes for the mean CLIP score (ViT-L/14) of each kind of caption.
_MEAN_SCORE = {"plain": 0.235, "detailed": 0.255, "brief": 0.225, "foreign": 0.195,
               "mismatched": 0.155, "boilerplate": 0.15, "file_name": 0.16, "empty": 0.145}  # fmt: skip

#: The concept that the image shows and the one that the caption names (null for none), and the three kinds of above.
_TRUTH = pa.struct([(name, pa.string()) for name in ("shows", "says", "caption", "picture", "link")])
SCHEMA = pa.schema([*((column.name, column.type) for column in COLUMNS.values()), (TRUTH_COLUMN, _TRUTH)])


class _Picture(NamedTuple):
    data: bytes
    format: str
    width: int
    height: int


class _Pair(NamedTuple):
    row: dict[str, Any]
    path: str
    kind: str
    sent: bytes
    content_type: str


def cached(pairs: int = DEMO_PAIRS, seed: int = 0) -> str:
    """The folder of that demo pool in the user's cache ($XDG_CACHE_HOME or ~/.cache), made if it is not there yet.

    Raises:
        CurateError: the folder can't be written.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(home, "clip-curate", f"demo-{VERSION}-{pairs}-{seed}")
    try:
        build(folder, pairs, seed)
    except OSError as error:
        raise CurateError(f"{folder}: {error.strerror or error}, but the demo pool is made there. Make room or mend the "
                          f"permissions, or name another place with XDG_CACHE_HOME.") from error  # fmt: skip
    return folder


def build(folder: str, pairs: int = DEMO_PAIRS, seed: int = 0) -> str:
    """Makes the pool under `folder`, a local one, if it is not there already and whole.

    It appears at once when it is complete, so a killed build leaves nothing that could be taken for a pool, and two
    builds at the same time end with one.

    Args:
        folder: gets metadata/ (parquet files of PAIRS_PER_FILE rows, columns of SCHEMA), images/ (the bytes) and
            links/ (what the server sends for each address).
        pairs: how many rows.
        seed: of every choice.

    Returns:
        The folder with the parquet files.

    Raises:
        CurateError: there is something else under that name, or no pairs are asked for.
    """
    if pairs < 1:
        raise CurateError(f"demo pool: {pairs} pairs were asked for, but it needs at least 1. Ask for more.")
    wanted = {"demo_pool_version": VERSION, "pairs": pairs, "seed": seed}
    if not _is_whole(folder, wanted):
        temporary = f"{folder.rstrip('/')}.{uuid.uuid4().hex[:12]}.tmp"
        try:
            for number, start in enumerate(range(0, pairs, PAIRS_PER_FILE)):
                _write_part(temporary, seed, number, range(start, min(pairs, start + PAIRS_PER_FILE)))
            storage.write_json(os.path.join(temporary, "pool.json"), {"pool": wanted, "bytes": _sizes(temporary)})
            _put(temporary, folder, wanted)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return os.path.join(folder, "metadata")


def _is_whole(folder: str, wanted: dict[str, int]) -> bool:
    """Whether the wanted pool is there with every file at its size; what is there and is not that pool is an error."""
    marker = os.path.join(folder, "pool.json")
    if not os.path.exists(marker):
        if os.path.isdir(folder) and not os.listdir(folder) or not os.path.lexists(folder):
            return False
        raise CurateError(f"{folder}: there is something else, but the demo pool is to be made there. Name another folder.")
    found = storage.read_json(marker)
    if found["pool"] != wanted:
        raise CurateError(f"{folder}: holds the demo pool {found['pool']}, but {wanted} was asked for. Name another folder.")
    return found["bytes"] == _sizes(folder)


def _sizes(folder: str) -> dict[str, int]:
    return {
        f"{part}/{name}": os.path.getsize(os.path.join(folder, part, name))
        for part in ("images", "links", "metadata")
        for name in storage.names(os.path.join(folder, part))
    }


def _put(temporary: str, folder: str, wanted: dict[str, int]) -> None:
    """Gives the finished pool its name, in the place of one that has lost files; another build may have been first."""
    if os.path.exists(folder) and os.listdir(folder) and not _is_whole(folder, wanted):
        shutil.rmtree(folder)
    try:
        os.rename(temporary, folder)
    except OSError:
        if not os.path.isdir(folder) or not _is_whole(folder, wanted):
            raise


def _write_part(folder: str, seed: int, number: int, indices: range) -> None:
    """One metadata file, the images file and the links file of the same name. Equal bytes are stored once."""
    name = _digest(seed, number, "file")
    rows, links, offsets = [], [], {}
    with storage.atomic(os.path.join(folder, "images", f"{name}.bin")) as images:
        for index in indices:
            pair = _pair(seed, index)
            if pair.sent not in offsets:
                offsets[pair.sent] = images.tell()
                images.write(pair.sent)
            rows.append(pair.row)
            links.append(Link(pair.path, pair.kind, offsets[pair.sent], len(pair.sent), pair.content_type))
    table = pa.table(dict(zip(Link._fields, zip(*links, strict=True), strict=True)))
    storage.write_parquet(os.path.join(folder, "links", f"{name}.parquet"), table)
    storage.write_parquet(os.path.join(folder, "metadata", f"{name}.parquet"), pa.Table.from_pylist(rows, SCHEMA))


def _digest(*parts: object) -> str:
    """32 hex digits that follow from `parts`."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def _rng(seed: int, index: int | str, purpose: str) -> np.random.Generator:
    return np.random.default_rng(int(_digest(seed, index, purpose), 16))


def _pair(seed: int, index: int) -> _Pair:
    """Row `index` of the pool and what the server sends for it."""
    caption, kind, link = (
        pick(shares, _rng(seed, index, purpose))
        for purpose, shares in (("caption", CAPTIONS), ("picture", PICTURES), ("link", {k: v[0] for k, v in LINKS.items()}))
    )
    # All that a stock picture is, its words included, follows from its number.
    source = index if kind != "duplicate" else f"stock {_stock_number(_rng(seed, index, 'stock'))}"
    scene = _scene(kind, _rng(seed, source, "scene"))
    picture = _placeholder() if kind == "placeholder" else _shared(scene) if kind == "duplicate" else _encode(scene)
    text, says = _caption(caption, scene, _rng(seed, source, "words"))
    name = f"/images/{_digest(seed, index, 'path')}.{picture.format}"
    b32, l14 = _scores(caption, kind, _rng(seed, index, "scores"))
    faces = [list(scene.face)] if scene.face and kind != "placeholder" else []
    row = dict(
        uid=_digest(seed, index, "uid"), url=_url(link, name, _rng(seed, index, "host")), text=text,
        original_width=picture.width, original_height=picture.height,
        clip_b32_similarity_score=b32, clip_l14_similarity_score=l14,
        face_bboxes=faces, sha256=hashlib.sha256(picture.data).hexdigest(),
    )  # fmt: skip
    row[TRUTH_COLUMN] = dict(
        shows=None if kind == "placeholder" else scene.concept.name, says=says and says.name,
        caption=caption, picture=kind, link=link,
    )  # fmt: skip
    sent = _encode(_scene("usual", _rng(seed, index, "changed"))).data if link == "changed" else picture.data
    return _Pair(row, name, link, _PAGE if link == "html" else sent, _CONTENT_TYPES[picture.format])


def _stock_number(rng: np.random.Generator) -> int:
    """Which of the stock pictures: a few are everywhere, most are rare."""
    return int(_STOCK_PICTURES ** rng.random()) - 1


def _scene(kind: str, rng: np.random.Generator) -> Scene:
    """The scene that a picture of that kind shows."""
    size = None
    if kind == "tiny":
        short = int(24 * (196 / 24) ** rng.random())
        size = (round(short * rng.uniform(1, 1.5)), short)
    if kind == "stretched":
        short = int(rng.integers(120, 204))
        size = (round(short * rng.uniform(3.1, 4.5)), short)
    if size and rng.random() < 0.4:
        size = size[::-1]
    return imagine(pick_concept(rng), rng, size)


def _caption(kind: str, scene: Scene, rng: np.random.Generator) -> tuple[str | None, Concept | None]:
    """The caption and the concept it names."""
    if kind == "mismatched":
        other = _scene("usual", rng)
        while other.concept.shape == scene.concept.shape:
            other = _scene("usual", rng)
        write = demo_words.plain if rng.random() < 0.6 else demo_words.detailed
        return write(other, rng), other.concept
    if kind == "foreign":
        return demo_words.foreign(scene.concept, rng), scene.concept
    if kind in ("plain", "detailed", "brief"):
        return getattr(demo_words, kind)(scene, rng), scene.concept
    return getattr(demo_words, kind)(rng), None


def _scores(caption: str, picture: str, rng: np.random.Generator) -> tuple[float, float]:
    """Two numbers that look like cosines of ViT-B/32 and ViT-L/14, made from the kinds alone: no model has seen the pair.

    Part of the noise is common to both, as models agree on which pairs are odd; the smaller model has more of its own.
    """
    mean = 0.14 if picture == "placeholder" else _MEAN_SCORE[caption]
    mean -= 0.02 if picture in ("tiny", "stretched") else 0
    common, b32, l14 = rng.normal(0, (0.036, 0.036, 0.022))
    return tuple(float(np.clip(score, -0.05, 0.45)) for score in (mean + 0.03 + common + b32, mean + common + l14))


def _url(link: str, path: str, rng: np.random.Generator) -> str:
    """The address in the pool: some hosts have many images, most have few."""
    if link == "bad_url":
        return path
    host = HOSTS[int(len(HOSTS) ** rng.random()) - 1]
    return f"http://{ {'refused': REFUSED_HOST, 'unknown_host': UNKNOWN_HOST}.get(link, host) }{path}"


def _encode(scene: Scene) -> _Picture:
    """The scene's picture as a file; format and quality follow from the scene."""
    rng = np.random.default_rng([scene.seed, 1])
    kind, quality = pick(_FORMATS, rng), int(rng.integers(68, 93))
    options = {"jpg": (cv2.IMWRITE_JPEG_QUALITY, quality), "png": (cv2.IMWRITE_PNG_COMPRESSION, 1),
               "webp": (cv2.IMWRITE_WEBP_QUALITY, quality)}  # fmt: skip
    return _Picture(cv2.imencode(f".{kind}", paint(scene), options[kind])[1].tobytes(), kind, scene.width, scene.height)


@functools.lru_cache(maxsize=2 * _STOCK_PICTURES)
def _shared(scene: Scene) -> _Picture:
    return _encode(scene)


@functools.lru_cache(maxsize=1)
def _placeholder() -> _Picture:
    """The grey picture that a host shows where there is none."""
    image = np.full((300, 400, 3), 226, np.uint8)
    cv2.rectangle(image, (150, 70), (250, 150), (170, 170, 170), 3, cv2.LINE_AA)
    cv2.circle(image, (178, 97), 10, (170, 170, 170), -1, cv2.LINE_AA)
    cv2.fillPoly(image, [np.array([(156, 144), (190, 112), (208, 128), (226, 106), (245, 144)])], (170, 170, 170), cv2.LINE_AA)
    cv2.putText(image, "image not available", (64, 210), cv2.FONT_HERSHEY_SIMPLEX, 0.85, (140, 140, 140), 2, cv2.LINE_AA)
    return _Picture(cv2.imencode(".png", image)[1].tobytes(), "png", 400, 300)
