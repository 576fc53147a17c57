"""Photographs for benchmarks, drawn: no pictures, but as large, as detailed and as costly to decode as the web's."""

import hashlib
import pathlib

import cv2
import numpy as np

#: So many different ones; a pool shows each under several links.
DISTINCT = 200

_SHAPES = ((4, 3), (3, 4), (3, 2), (2, 3), (1, 1), (16, 9))


def photograph(seed: int) -> bytes:
    """A JPEG of about 1 megapixel and 160 KB on average, always the same for one seed.

    Light and colour vary smoothly at all sizes, with as much at each as in photographs; things with edges lie in front,
    and a sensor's noise over all.
    """
    rng = np.random.default_rng(seed)
    across, down = _SHAPES[rng.integers(len(_SHAPES))]
    pixels = 1e6 * rng.lognormal(-0.12, 0.5)
    width, height = (int(side * np.sqrt(pixels / (across * down))) for side in (across, down))
    scene = _smooth(rng, width, height)
    for _ in range(rng.integers(8, 24)):
        _draw_thing(rng, scene)
    scene += cv2.resize(rng.normal(0, 7.5, (height // 2, width // 2, 3)).astype(np.float32), (width, height))
    quality = int(rng.integers(78, 92))
    return cv2.imencode(".jpg", scene.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _smooth(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Noise at octaves, half as strong at each finer one: float32, shape (height, width, 3)."""
    scene = np.full((height, width, 3), 120, np.float32)
    for octave in range(8):
        cells = 2 << octave
        noise = rng.normal(0, 60 * 0.62**octave, (cells, cells, 3)).astype(np.float32)
        grey = noise.mean(2, keepdims=True)
        scene += cv2.resize(0.3 * noise + grey, (width, height), interpolation=cv2.INTER_CUBIC)
    return scene


def _draw_thing(rng: np.random.Generator, scene: np.ndarray) -> None:
    """Something with an edge, shaded by what lies behind it."""
    height, width = scene.shape[:2]
    centre = rng.uniform(0, 1, 2) * (width, height)
    corners = centre + rng.normal(0, 0.12, (rng.integers(3, 9), 2)) * (width, height)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [cv2.convexHull(corners.astype(np.int32))], 255, cv2.LINE_AA)
    colour = rng.uniform(30, 220, 3).astype(np.float32)
    inside = mask > 0
    scene[inside] = 0.6 * scene[inside] + 0.4 * colour


def make(folder: pathlib.Path, number: int = DISTINCT) -> list[pathlib.Path]:
    """That many photographs in `folder`, drawn where they aren't there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed:04d}.jpg" for seed in range(number)]
    for seed, path in enumerate(paths):
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_bytes(photograph(seed))
            part.rename(path)
    return paths


def digest(path: pathlib.Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
