"""Members of an evaluation set's tars, as a test wants them, and pictures that a model of a few weights tells apart."""

import io
import pathlib
import tarfile

import numpy as np
from PIL import Image

NAMES = ("red star", "blue moon", "cat", "grey cloud", "a very old house", "owl")
TEMPLATES = ("a photo of a {c}.", "{c}", "art of the {c}")


def write_tar(path: pathlib.Path, members: list[tuple[str, bytes]]) -> None:
    """A tar of these names and bytes, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def npy(values, **options) -> bytes:
    """What numpy saves of the values."""
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


def picture(seed: int, kind: str = "png") -> bytes:
    """Of one colour and noise, so that the model tells it from others."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 255, 3) + rng.integers(-40, 40, (40 + seed % 7, 50, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()
