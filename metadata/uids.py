"""Uids: 32 hexadecimal digits that name an image-text pair, and the two 64-bit words they are sorted as."""

import binascii
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metadata.errors import CurateError, printable

#: A uid as DataComp's subset files hold it: the first and the last 16 digits as numbers.
UID_DTYPE = np.dtype([("f0", "<u8"), ("f1", "<u8")])


def parse(uids: pa.Array, where: str = "uid") -> np.ndarray:
    """The uids as numbers.

    Args:
        uids: strings of exactly 32 hexadecimal digits, in either case.
        where: named in the error: the file the uids are from.

    Returns:
        UID_DTYPE, shape (len(uids),), in the order given.

    Raises:
        CurateError: a uid is null or is not 32 hexadecimal digits.
    """
    if uids.null_count:
        row = pc.index(pc.is_null(uids), True).as_py()
        raise CurateError(f"{where}: the uid of row {row} is null, but every row needs one. Remove such rows, or read the "
                          f"pool with --columns uid= so that uids are made from url and text.")
    lengths = pc.binary_length(uids)
    if len(uids) and (pc.min(lengths).as_py() != 32 or pc.max(lengths).as_py() != 32):
        _raise_malformed(uids, where)
    data = uids.cast(pa.string())
    _, offsets, values = data.buffers()
    start = np.frombuffer(offsets, np.int32, count=1, offset=4 * data.offset)[0] if len(data) else 0
    text = memoryview(values)[start : start + 32 * len(data)] if len(data) else b""
    try:
        raw = binascii.unhexlify(text)
    except binascii.Error:
        _raise_malformed(uids, where)
    return np.frombuffer(raw, ">u8").astype("<u8").view(UID_DTYPE)


def _raise_malformed(uids: pa.Array, where: str) -> None:
    good = pc.match_substring_regex(uids, r"^[0-9a-fA-F]{32}$")
    row = pc.index(good, False).as_py()
    raise CurateError(f"{where}: the uid of row {row} is {printable(uids[row].as_py())!r}, but a uid is 32 hexadecimal digits. "
                      f"Mend the file, or read the pool with --columns uid= so that uids are made from url and text.")


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
