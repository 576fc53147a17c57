"""Reading .npy files, of whatever origin."""

import io
import tokenize
import zipfile

import numpy as np

from metadata.errors import reason

#: What numpy raises where a file is damaged: it reads a header with Python's own parser, and an npz as a zip.
DAMAGES = (
    ValueError, SyntaxError, TypeError, LookupError, AttributeError, EOFError, OverflowError, MemoryError,
    RecursionError, NotImplementedError, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip


def load(file: str | bytes) -> np.ndarray:
    """The array in a .npy.

    Args:
        file: its path, or its contents. By its path it is mapped: what a damaged header says of the size would
            otherwise be taken from memory.

    Raises:
        ValueError: it is no .npy, holds objects, or is damaged; says why in a few words.
        OSError: it can't be read.
    """
    with open(file, "rb") if isinstance(file, str) else io.BytesIO(file) as opened:
        start = opened.read(6)
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        raise ValueError("an npz, an archive of several arrays")
    if start != b"\x93NUMPY":  # which numpy takes for a pickle, and says how to load it without care
        raise ValueError("no .npy, by its first bytes")
    try:
        with np.errstate(over="ignore"):  # of a hostile shape's product, which is then refused
            if isinstance(file, str):
                return np.load(file, mmap_mode="r", allow_pickle=False)
            return np.load(io.BytesIO(file), allow_pickle=False)
    except DAMAGES as error:
        raise ValueError(reason(error)) from error
