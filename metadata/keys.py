"""Values as hashes of fixed size, so that rows of a whole pool can be compared in little memory."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: A value's hash, as two numbers. Of 10^10 different values two have the same with a probability of 10^-19.
KEY_DTYPE = np.dtype([("high", "<u8"), ("low", "<u8")])

#: Columns of hexadecimal digits, which mean the same in either case.
_HEXADECIMAL = ("uid", "sha256")


def keys_of(values: pa.Array, column: str) -> np.ndarray:
    """The first 128 bits of each value's blake2b: KEY_DTYPE, shape (len(values),); equal where the values are.

    Args:
        values: string, without nulls. Equal is what has the same bytes; only uids and sha256 are it in either case.
        column: whose values they are.
    """
    if column in _HEXADECIMAL:
        values = pc.ascii_lower(values)
    digests = (hashlib.blake2b(value, digest_size=16).digest() for value in values.cast(pa.binary()).to_pylist())
    return np.frombuffer(b"".join(digests), KEY_DTYPE)
