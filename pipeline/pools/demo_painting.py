"""Pictures of the demo world.

The same concept and generator give the same picture, whatever was drawn before.

>>> from pipeline.pools.demo_world import CONCEPTS
>>> red_star = next(concept for concept in CONCEPTS if concept.name == "red star")
>>> draw(red_star, np.random.default_rng(7)).dtype.name
'uint8'

A class-balanced evaluation set is as many pictures of every concept:
`[draw(c, np.random.default_rng([seed, i, k])) for i, c in enumerate(CONCEPTS) for k in range(50)]`.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from pipeline.pools.demo_shapes import FIXED_PAINTS, SHAPES, Part
from pipeline.pools.demo_world import COLOURS, Concept, Scene, imagine

_SKINS = ((205, 222, 250), (160, 190, 232), (110, 150, 205), (70, 105, 160), (50, 72, 110))
_FIXED_POINT_BITS = 4


def draw(concept: Concept, rng: np.random.Generator, size: tuple[int, int] | None = None) -> np.ndarray:
    """A picture of `concept`.

    Args:
        concept: one of CONCEPTS.
        rng: decides everything else; the same state gives the same picture.
        size: width and height in pixels; by default from 216 to 640.

    Returns:
        uint8, shape (height, width, 3), in the order blue, green, red.
    """
    return paint(imagine(concept, rng, size))


def paint(scene: Scene) -> np.ndarray:
    """The picture of a scene: uint8, shape (height, width, 3), in the order blue, green, red."""
    rng = np.random.default_rng(scene.seed)
    image = _background(scene, rng)
    shape = SHAPES[scene.concept.shape]
    placed = [[(paint, _placed(points, *spot)) for paint, points in shape] for spot in scene.spots]
    image = _shadow(image, [points for parts in placed for _, points in parts])
    for parts, (_, _, radius, _) in zip(placed, scene.spots, strict=True):
        _thing(image, parts, radius, scene, rng)
    if scene.face:
        _person(image, scene.face, rng)
    return _grain(image, rng)


def _shade(colour: tuple[int, int, int], rng: np.random.Generator, spread: float = 16) -> np.ndarray:
    return np.clip(np.array(colour) + rng.normal(0, spread * 0.6) + rng.normal(0, spread * 0.6, 3), 0, 255)


def _stretch(cells: np.ndarray, width: int, height: int, smooth: int = cv2.INTER_LINEAR) -> np.ndarray:
    return cv2.resize(np.clip(cells, 0, 255).astype(np.uint8), (width, height), interpolation=smooth)


def _background(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    width, height = scene.width, scene.height
    colour = _shade(COLOURS[scene.backdrop], rng) * 0.6 + 255 * 0.4
    if scene.place == "studio":
        light = rng.uniform(-28, 28, (2, 2, 1))
        return _stretch(colour + light, width, height)
    if scene.place == "blur":
        spots = rng.uniform(90, 235, (4, 4, 1)) + rng.uniform(-50, 50, (4, 4, 3))
        return _stretch(spots, width, height, cv2.INTER_CUBIC)
    if scene.place == "paper":
        return _paper(width, height, colour, rng)
    if scene.place == "night":
        return _night(width, height, rng)
    above, below = {
        "field": ((238, 200, 150), (80, 158, 110)), "beach": ((236, 206, 140), (160, 214, 236)),
        "room": ((196, 208, 218), (110, 148, 184)),
    }[scene.place]  # fmt: skip
    return _horizon(width, height, _shade(above, rng, 24), _shade(below, rng, 24), rng, sea=scene.place == "beach")


def _horizon(
    width: int, height: int, above: np.ndarray, below: np.ndarray, rng: np.random.Generator, sea: bool
) -> np.ndarray:
    """Two halves, each lighter towards the line where they meet; with `sea`, a strip of water there."""
    line = int(height * rng.uniform(0.45, 0.75))
    image = np.empty((height, width, 3), np.uint8)
    image[:line] = _stretch(np.stack([above - 25, above + 25])[:, None], width, line)
    image[line:] = _stretch(np.stack([below + 22, below - 22])[:, None], width, height - line)
    if sea:
        image[line : line + height // 9] = _shade((170, 140, 60), rng)
    return image


def _paper(width: int, height: int, colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    image = np.empty((height, width, 3), np.uint8)
    image[:] = colour * 0.4 + 255 * 0.6
    step = int(rng.integers(14, 34))
    image[::step] = image[:, ::step] = colour * 0.8
    return image


def _night(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    top = _shade((70, 38, 26), rng, 12)
    image = _stretch(np.stack([top, top + np.array([60, 40, 40])])[:, None], width, height)
    for x, y in rng.random((30, 2)):
        cv2.circle(image, (int(x * width), int(y * height)), int(rng.integers(1, 3)), (225, 235, 240), -1, cv2.LINE_AA)
    return image


def _placed(points: np.ndarray, x: float, y: float, radius: float, degrees: float) -> np.ndarray:
    """Unit coordinates turned, enlarged and moved, as the fixed-point int32 that OpenCV draws from."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    moved = points @ np.array([[cosine, sine], [-sine, cosine]]) * radius + (x, y)
    return np.round(moved * (1 << _FIXED_POINT_BITS)).astype(np.int32)


def _fill(image: np.ndarray, points: np.ndarray, colour: float | Sequence[float]) -> None:
    cv2.fillPoly(image, [points], colour, cv2.LINE_AA, _FIXED_POINT_BITS)


def _shadow(image: np.ndarray, outlines: list[np.ndarray]) -> np.ndarray:
    """The image, darker where the outlines' soft shadow falls; it is drawn at a quarter of the size."""
    height, width = image.shape[:2]
    light = np.full((height // 4 + 1, width // 4 + 1), 255, np.uint8)
    offset = int(min(width, height) * 0.025) << _FIXED_POINT_BITS
    for points in outlines:
        cv2.fillPoly(light, [(points + offset) // 4], 165, cv2.LINE_8, _FIXED_POINT_BITS)
    light = cv2.resize(cv2.blur(light, (5, 5)), (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(image, cv2.merge([light] * 3), scale=1 / 255)


def _thing(image: np.ndarray, parts: list[Part], radius: float, scene: Scene, rng: np.random.Generator) -> None:
    main = _shade(COLOURS[scene.concept.colour], rng)
    # Black things need lighter edges and shades to be seen as more than a blot.
    dark = main * 0.66 if scene.concept.colour != "black" else main + 45
    edge = main * 0.42 if scene.concept.colour != "black" else main + 75
    paints = FIXED_PAINTS | {"m": main.tolist(), "d": dark.tolist(), "l": (main * 0.55 + 115).tolist()}
    for _, points in parts:
        width = max(1, round(radius * 0.06))
        cv2.polylines(image, [points], True, edge.tolist(), width, cv2.LINE_AA, _FIXED_POINT_BITS)
    for name, points in parts:
        _fill(image, points, paints[name])
        if name == "m" and scene.texture != "plain":
            _texture(image, points, radius, scene.texture, dark if main.mean() > 110 else main * 0.5 + 120)


def _texture(image: np.ndarray, points: np.ndarray, radius: float, texture: str, colour: np.ndarray) -> None:
    """Stripes or dots inside the outline `points`."""
    x, y, width, height = cv2.boundingRect(points >> _FIXED_POINT_BITS)
    x, y, right, bottom = max(x, 0), max(y, 0), x + width, y + height
    region = image[y:bottom, x:right]
    if not region.size:
        return
    step = max(4, round(radius * 0.24))
    across, down = np.arange(x, x + region.shape[1]), np.arange(y, y + region.shape[0])[:, None]
    if texture == "striped":
        marked = (across + down) % step < step * 0.4
    else:
        marked = (across % step - step / 2) ** 2 + (down % step - step / 2) ** 2 < (step * 0.3) ** 2
    inside = np.zeros(region.shape[:2], np.uint8)
    _fill(inside, points - (np.array([x, y]) << _FIXED_POINT_BITS).astype(np.int32), 255)
    region[marked & (inside > 127)] = colour


def _person(image: np.ndarray, box: tuple[float, float, float, float], rng: np.random.Generator) -> None:
    """Somebody from the shoulders up, whose face fills `box` (fractions of the image)."""
    height, width = image.shape[:2]
    x, y = (box[0] + box[2]) / 2 * width, (box[1] + box[3]) / 2 * height
    radius = (box[2] - box[0]) / 2 * width
    skin = _shade(_SKINS[rng.integers(len(_SKINS))], rng, 8)
    hair = _shade(((30, 30, 36), (40, 66, 110), (90, 170, 215), (150, 150, 150))[rng.integers(4)], rng, 10)
    clothes = rng.uniform(40, 220, 3)

    def oval(dx: float, dy: float, rx: float, ry: float, colour: ArrayLike, turn: tuple[int, int] = (0, 360)) -> None:
        centre = (round((x + dx * radius) * 16), round((y + dy * radius) * 16))
        axes = (round(rx * radius * 16), round(ry * radius * 16))
        cv2.ellipse(image, centre, axes, 0, *turn, np.array(colour).tolist(), -1, cv2.LINE_AA, _FIXED_POINT_BITS)

    oval(0, 2.9, 1.75, 1.6, clothes)
    image[int(y + 2.9 * radius) :, max(0, int(x - 1.75 * radius)) : int(x + 1.75 * radius)] = clothes
    oval(0, 1.3, 0.4, 0.6, skin * 0.88)
    oval(0, -0.3, 1.12, 1.12, hair)
    oval(0, 0, 0.92, 1.2, skin)
    oval(0, -0.72, 0.86, 0.5, hair, (180, 360))
    for side in (-0.36, 0.36):
        oval(side, -0.18, 0.18, 0.13, (250, 250, 250))
        oval(side, -0.18, 0.09, 0.11, (50, 40, 36))
        oval(side, -0.46, 0.22, 0.05, hair * 0.7)
    oval(0, 0.18, 0.09, 0.2, skin * 0.84)
    oval(0, 0.55, 0.4, 0.26, (80, 70, 170), (0, 180))


def _grain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image with the grain of a camera's sensor, or now and then a little out of focus."""
    if rng.random() < 0.15 and min(image.shape[:2]) > 100:
        return cv2.blur(image, (3, 3))
    if rng.random() < 0.5:
        return image
    height, width = image.shape[:2]
    noise = rng.integers(0, int(rng.integers(6, 22)), (height, width), np.uint8)
    return cv2.add(image, cv2.merge([noise] * 3))


def placeholder() -> np.ndarray:
    """The grey picture that a host shows where there is none: uint8, shape (300, 400, 3)."""
    image = np.full((300, 400, 3), 226, np.uint8)
    grey, hills = (165, 165, 165), np.array([(156, 144), (190, 112), (208, 128), (226, 106), (245, 144)])
    cv2.rectangle(image, (150, 70), (250, 150), grey, 3, cv2.LINE_AA)
    cv2.circle(image, (178, 97), 10, grey, -1, cv2.LINE_AA)
    cv2.fillPoly(image, [hills], grey, cv2.LINE_AA)
    cv2.putText(image, "image not available", (64, 210), cv2.FONT_HERSHEY_SIMPLEX, 0.85, grey, 2, cv2.LINE_AA)
    return image
