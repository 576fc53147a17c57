"""Uids: 32 hexadecimal digits that name an image-text pair, and the two 64-bit words they are sorted as."""

import binascii
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metadata.errors import CurateError, printable

#: A uid as DataComp's subset files hold it: the first and the last 16 digits as numbers.
UID_DTYPE = np.dtype([("f0", "<u8"), ("f1", "<u8")])

#: The way out where a pool's uids are none.
_DERIVE = "read the pool with --columns uid= so that uids are made from url and text"


def parse(uids: pa.Array, where: str = "uid", first_row: int | None = None, instead: str = _DERIVE) -> np.ndarray:
    """The uids as numbers.

    Args:
        uids: strings, or their bytes, of exactly 32 hexadecimal digits, in either case.
        where: named in the error: the file the uids are from.
        first_row: row of the file that the array begins with, for the error; None where they are not all of its rows.
        instead: what the error advises where the file isn't to be mended.

    Returns:
        UID_DTYPE, shape (len(uids),), in the order given.

    Raises:
        CurateError: a uid is null or is not 32 hexadecimal digits.
    """
    if uids.null_count:
        which = _which(pc.index(pc.is_null(uids), True).as_py(), first_row)
        raise CurateError(f"{where}: {which} is null, but every row needs one. Remove such rows, or {instead}.")
    if not len(uids):
        return np.empty(0, UID_DTYPE)
    data = uids.cast(pa.binary())  # it may not even be UTF-8
    _, offsets, values = data.buffers()
    ends = np.frombuffer(offsets, np.int32, count=len(data) + 1, offset=4 * data.offset)
    try:
        if (ends[1:] - ends[:-1] != 32).any():
            raise binascii.Error
        raw = binascii.unhexlify(memoryview(values)[ends[0] : ends[-1]])
    except binascii.Error:
        raise _malformed(data, where, first_row, instead) from None
    return np.frombuffer(raw, ">u8").astype("<u8").view(UID_DTYPE)


def _which(number: int, first_row: int | None) -> str:
    return "a uid" if first_row is None else f"the uid of row {first_row + number}"


def _malformed(data: pa.BinaryArray, where: str, first_row: int | None, instead: str) -> CurateError:
    row = pc.index(pc.match_substring_regex(data, r"^[0-9a-fA-F]{32}$"), False).as_py()
    shown = printable(data[row].as_py().decode(errors="backslashreplace"))
    return CurateError(f"{where}: {_which(row, first_row)} is {shown!r}, but a uid is 32 hexadecimal digits. Mend the "
                       f"file, or {instead}.")


def text_of(uids: np.ndarray) -> list[str]:
    """UID_DTYPE of shape (n,) as n strings of 32 lower-case hexadecimal digits."""
    raw = np.ascontiguousarray(uids).view("<u8").astype(">u8").tobytes().hex()
    return [raw[i : i + 32] for i in range(0, len(raw), 32)]


def derive(urls: pa.Array, texts: pa.Array) -> pa.Array:
    """Uids for a pool that has none: the first 32 hex digits of sha256 over the length-prefixed url and text.

    Each of the two is hashed as its number of UTF-8 bytes (8 bytes, big endian) and then those bytes; null counts as
    empty. The prefixes make ("ab", "c") and ("a", "bc") differ.

    Returns:
        string, shape (len(urls),).
    """

    def uid(url: str | None, text: str | None) -> str:
        digest = hashlib.sha256()
        for part in (url, text):
            data = (part or "").encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.hexdigest()[:32]

    return pa.array(map(uid, urls.to_pylist(), texts.to_pylist()), pa.string())
