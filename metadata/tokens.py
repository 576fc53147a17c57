"""Texts as runs of tokens, made so that an entry matches a text where the entry's run occurs in the text's."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Stands before the first text and after each. No UTF-8 holds the byte, so no run of an entry crosses it.
END = b"\xff"

#: Stands where a long text was cut. What touches it is not whole, and equals no token of an entry.
_CUT = b"\xfe"

_MARKS = b",.;:?!`"
_TO_SPACE = bytes.maketrans(b"\t\n\r", b"   ")


def blocks(texts: pa.Array, size: int, overlap: int) -> Iterator[tuple[int, bytes]]:
    """The texts, framed: END, then each text and END. In parts, each with the row of its first text.

    A text of more than `size` bytes is cut, and comes as several parts of the same row.

    Args:
        texts: string or large_string, without nulls.
        size: bytes of text in a part, about.
        overlap: bytes that both of two successive parts of a text hold: a run no longer lies whole in one of them.
    """
    size = max(size, 2 * overlap)
    starts, values = _layout(texts)
    row = 0
    while row < len(texts):
        end = int(np.searchsorted(starts, int(starts[row]) + size, side="right")) - 1
        if end == row:
            text = memoryview(values)[starts[row] : starts[row + 1]]
            yield from ((row, part) for part in _parts(text, size, overlap))
            row += 1
        else:
            yield row, _frame(starts[row : end + 1], values)
            row = end


def frame(texts: pa.Array) -> bytes:
    """All texts in one part: END, then each text and END."""
    return _frame(*_layout(texts)) if len(texts) else END


def _layout(texts: pa.Array) -> tuple[np.ndarray, pa.Buffer]:
    """Where in the buffer each text starts, and the last ends."""
    kind = np.dtype(np.int64 if pa.types.is_large_string(texts.type) else np.int32)
    _, offsets, values = texts.buffers()
    starts = np.frombuffer(offsets or bytes(8), kind)[texts.offset : texts.offset + len(texts) + 1]
    return starts, values or pa.py_buffer(b"")


def _frame(starts: np.ndarray, values: pa.Buffer) -> bytes:
    number = len(starts) - 1
    offsets = pa.py_buffer((starts - starts[0]).astype(np.int32))
    texts = pa.BinaryArray.from_buffers(pa.binary(), number, [None, offsets, values.slice(int(starts[0]))])
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, number], pa.int32()), texts), END)
    return b"".join((END, joined[0].as_buffer(), END))


def _parts(text: memoryview, size: int, overlap: int) -> Iterator[bytes]:
    start, end = 0, size
    yield b"".join((END, text[:end], _CUT, END))
    while end < len(text):
        start, end = end - overlap, end - overlap + size
        yield b"".join((END, _CUT, text[start:end], _CUT if end < len(text) else b"", END))


def normalise(framed: bytes) -> bytes:
    """Framed texts by MetaCLIP's rule: tab and both line ends become a space, a mark gets a space on both sides."""
    framed = framed.translate(_TO_SPACE)
    for mark in _MARKS:
        framed = framed.replace(bytes((mark,)), bytes((32, mark, 32)))
    return framed


def pad(framed: bytes) -> bytes:
    """Framed texts with a space at both ends of each."""
    return framed.replace(END, b" " + END + b" ")[1:-1]


def split(framed: bytes, spaced: bool) -> tuple[np.ndarray, pa.BinaryArray]:
    """The tokens of framed texts: the pieces between spaces, empty ones too, or else the characters.

    A piece keeps the space before it, so that tokens lie in memory as they do in the text.

    Args:
        framed: if `spaced`, padded.

    Returns:
        For each token its number among the distinct ones, int32, and those in the order of their first occurrence,
        which begins with END.
    """
    if spaced:
        framed = b" " + framed
    data = np.frombuffer(framed, np.uint8)
    starts = np.flatnonzero(data == 32 if spaced else data & 0xC0 != 0x80).astype(np.int32)
    offsets = np.append(starts, np.int32(len(framed)))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(framed)]
    tokens = pa.BinaryArray.from_buffers(pa.binary(), len(starts), buffers).dictionary_encode()
    return tokens.indices.to_numpy(), tokens.dictionary
