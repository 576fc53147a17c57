"""A little world of things: concepts with a long tail, and the scenes they are seen in. `demo_painting` draws them."""

import dataclasses

import numpy as np

from pipeline.pools.demo_shapes import SHAPES

#: Colours by name, BGR.
COLOURS = {
    "red": (44, 40, 206), "blue": (198, 104, 36), "green": (66, 148, 52), "yellow": (40, 205, 245),
    "black": (46, 42, 42), "white": (240, 243, 244), "orange": (20, 124, 240), "purple": (158, 58, 122),
    "pink": (176, 132, 246), "brown": (42, 74, 116),
}  # fmt: skip
#: How often a texture, and a place where a thing is shown, occurs.
TEXTURES = {"plain": 0.7, "striped": 0.15, "dotted": 0.15}
PLACES = {"studio": 0.4, "blur": 0.15, "field": 0.12, "beach": 0.1, "room": 0.1, "paper": 0.08, "night": 0.05}
FACE_SHARE = 0.05
_ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3)


@dataclasses.dataclass(frozen=True)
class Concept:
    """A thing of a colour. `weight` is its share of the world, 0 to 1; all concepts' weights add up to 1."""

    shape: str
    colour: str
    weight: float

    @property
    def name(self) -> str:
        """What it is called, such as "red star"."""
        return f"{self.colour} {self.shape}"


def _concepts() -> list[Concept]:
    """Every colour of every shape. Both are Zipf-distributed; which colour is common differs from shape to shape."""
    shapes = np.arange(1, len(SHAPES) + 1) ** -1.1
    colours = np.arange(1, len(COLOURS) + 1) ** -0.9
    weights = np.outer(shapes / shapes.sum(), colours / colours.sum())
    names = list(COLOURS)
    found = [
        Concept(shape, names[(3 * i + j) % len(names)], float(weights[i, j]))
        for i, shape in enumerate(SHAPES)
        for j in range(len(names))
    ]
    return sorted(found, key=lambda concept: -concept.weight)


#: Every concept of the world, the most common first.
CONCEPTS = _concepts()
_CUMULATIVE = np.cumsum([concept.weight for concept in CONCEPTS])


def pick(shares: dict[str, float], rng: np.random.Generator) -> str:
    """A key of `shares`, drawn with its share; the shares add up to 1."""
    cumulative = np.cumsum(list(shares.values()))
    return list(shares)[int(np.searchsorted(cumulative[:-1], rng.random(), side="right"))]


def pick_concept(rng: np.random.Generator) -> Concept:
    """A concept of the world, drawn with its weight."""
    return CONCEPTS[int(np.searchsorted(_CUMULATIVE[:-1], rng.random(), side="right"))]


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows; a caption may speak of any of it.

    Attributes:
        spots: one for each copy of the thing: centre x, y and radius in pixels, and its turn in degrees.
        backdrop: name of the background's colour, never the thing's; seen where the place is "studio" or "paper".
        face: x0, y0, x1, y1 of the face of somebody beside the thing, in fractions of the picture; None without one.
        seed: of all that no caption speaks of, such as shades and grain.
    """

    concept: Concept
    width: int
    height: int
    spots: tuple[tuple[float, float, float, float], ...]
    texture: str
    place: str
    backdrop: str
    face: tuple[float, float, float, float] | None
    seed: int


def imagine(concept: Concept, rng: np.random.Generator, size: tuple[int, int] | None = None) -> Scene:
    """A scene with `concept` in it; `size` is width and height in pixels, by default 216 to 640."""
    width, height = size or _usual_size(rng)
    face = _face_box(width, height, rng) if rng.random() < FACE_SHARE and min(width, height) >= 200 else None
    left = 0.0 if face is None else width * 0.4
    count = int(rng.choice(3, p=(0.8, 0.13, 0.07))) + 1
    cell = (width - left) / count
    spots = []
    for k in range(count):
        radius = min(cell, height) * rng.uniform(0.24, 0.44)
        x = left + cell * k + rng.uniform(radius, max(radius, cell - radius))
        y = rng.uniform(radius, max(radius, height - radius))
        spots.append((x, y, radius, rng.normal(0, 14)))
    backdrops = [name for name in COLOURS if name != concept.colour]
    return Scene(concept, width, height, tuple(spots), pick(TEXTURES, rng), pick(PLACES, rng),
                 backdrops[rng.integers(len(backdrops))], face, int(rng.integers(2**62)))  # fmt: skip


def _usual_size(rng: np.random.Generator) -> tuple[int, int]:
    short = int(216 * (400 / 216) ** rng.random())
    aspect = _ASPECTS[rng.integers(len(_ASPECTS))]
    long = min(640, round(short * max(aspect, 1 / aspect)))
    return (long, short) if aspect >= 1 else (short, long)


def _face_box(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    radius = min(0.17 * width, 0.2 * height) * rng.uniform(0.75, 1)
    x, y = 0.2 * width, rng.uniform(0.36, 0.5) * height
    return ((x - radius) / width, (y - 1.25 * radius) / height, (x + radius) / width, (y + 1.25 * radius) / height)
