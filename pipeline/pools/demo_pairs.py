"""Pair number i of the demo pool: its row, and what the server sends for its link.

Every choice about pair i is drawn from a hash of (seed, i, purpose) alone. So the same seed gives the same bytes (with
the same versions of OpenCV and numpy), and the first n pairs are the same however many pairs there are.
"""

import functools
import hashlib
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from metadata.schema import COLUMNS
from pipeline.pools import demo_words
from pipeline.pools.demo_painting import paint, placeholder
from pipeline.pools.demo_server import HOSTS, LINKS, REFUSED_HOST, UNKNOWN_HOST
from pipeline.pools.demo_world import Concept, Scene, imagine, pick, pick_concept

TRUTH_COLUMN = "truth"
#: Raised whenever the same seed gives other pairs than before.
VERSION = 1

#: What the caption is, as a share of the pairs.
CAPTIONS = {
    "plain": 0.21,  # English, fits
    "detailed": 0.14,  # English, fits, and says how and where
    "brief": 0.08,  # English, fits, one or two words
    "foreign": 0.22,  # fits, in German, French, Spanish, Chinese, Japanese, Russian or Arabic
    "mismatched": 0.14,  # English, of a thing that is not in the image
    "boilerplate": 0.10,  # "Click here to enlarge the image"
    "file_name": 0.08,  # "IMG_2043.JPG"
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


class Pair(NamedTuple):
    """`row` has SCHEMA's columns; the rest is what the server sends for `path`, as that `kind` of link."""

    row: dict[str, Any]
    path: str
    kind: str
    sent: bytes
    content_type: str


def digest(*parts: object) -> str:
    """32 hex digits that follow from `parts`."""
    return hashlib.blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def _rng(seed: int, index: int | str, purpose: str) -> np.random.Generator:
    return np.random.default_rng(int(digest(seed, index, purpose), 16))


def pair(seed: int, index: int) -> Pair:
    """Row `index` of the pool and what the server sends for it."""
    caption = pick(CAPTIONS, _rng(seed, index, "caption"))
    kind = pick(PICTURES, _rng(seed, index, "picture"))
    link = pick({name: share for name, (share, _) in LINKS.items()}, _rng(seed, index, "link"))
    # All that a stock picture is, its words included, follows from its number.
    source = index if kind != "duplicate" else f"stock {_stock_number(_rng(seed, index, 'stock'))}"
    scene = _scene(kind, _rng(seed, source, "scene"))
    picture = _placeholder() if kind == "placeholder" else _shared(scene) if kind == "duplicate" else _encode(scene)
    text, says = _caption(caption, scene, _rng(seed, source, "words"))
    name = f"/images/{digest(seed, index, 'path')}.{picture.format}"
    b32, l14 = _scores(caption, kind, _rng(seed, index, "scores"))
    shown = None if kind == "placeholder" else scene
    row = {
        "uid": digest(seed, index, "uid"), "url": _url(link, name, _rng(seed, index, "host")), "text": text,
        "original_width": picture.width, "original_height": picture.height,
        "clip_b32_similarity_score": b32, "clip_l14_similarity_score": l14,
        "face_bboxes": [list(shown.face)] if shown and shown.face else [],
        "sha256": hashlib.sha256(picture.data).hexdigest(),
        TRUTH_COLUMN: {"shows": shown and shown.concept.name, "says": says and says.name,
                       "caption": caption, "picture": kind, "link": link},
    }  # fmt: skip
    sent = _encode(_scene("usual", _rng(seed, index, "changed"))).data if link == "changed" else picture.data
    return Pair(row, name, link, _PAGE if link == "html" else sent, _CONTENT_TYPES[picture.format])


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
    """Two numbers like the cosines of ViT-B/32 and ViT-L/14, drawn from the kinds alone: no model saw the pair.

    Part of the noise is common to both, as models agree on which pairs are odd; the smaller model has more of its own.
    """
    mean = 0.14 if picture == "placeholder" else _MEAN_SCORE[caption]
    mean -= 0.02 if picture in ("tiny", "stretched") else 0
    common, b32, l14 = rng.normal(0, (0.036, 0.036, 0.022))
    scores = np.clip((mean + 0.03 + common + b32, mean + common + l14), -0.05, 0.45)
    return float(scores[0]), float(scores[1])


def _url(link: str, path: str, rng: np.random.Generator) -> str:
    """The address in the pool: some hosts have many images, most have few."""
    if link == "bad_url":
        return path
    dead = {"refused": REFUSED_HOST, "unknown_host": UNKNOWN_HOST}
    host = dead.get(link) or HOSTS[int(len(HOSTS) ** rng.random()) - 1]
    return f"http://{host}{path}"


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
    image = placeholder()
    return _Picture(cv2.imencode(".png", image)[1].tobytes(), "png", image.shape[1], image.shape[0])
