"""Tar files, written the same way every time and read without trust.

What is written is plain ustar: no times, no owners, one 512-byte header a member. What is read may be any of ustar, PAX
and GNU tar, and is held to be broken until it was read to its end mark: every header's checksum is looked at, and
nothing is extracted under a name that a tar gives.
"""

import contextlib
import dataclasses
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from metadata.errors import CurateError, printable
from metadata.files import is_local, regular_size

BLOCK = 512

#: The mark that ends a tar.
END = bytes(2 * BLOCK)

#: Extensions of a sample's image, in the order in which open_clip's trainer looks for one.
IMAGES = ("jpg", "png", "jpeg", "webp")

_MAX_OCTAL = 8**11 - 1
_AFTER_NAME = b"0000644\x00" + b"0000000\x00" * 2
_AFTER_SIZE = b"00000000000\x00"
_AFTER_CHECKSUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)


def member_header(name: str, size: int) -> bytes:
    """The ustar header of a regular file: always the same 512 bytes for the same name and size.

    Mode 0644, time, owner and group 0, no owner's or group's name.

    Args:
        name: at most 100 bytes of UTF-8, no NUL.
        size: of the member's bytes, under 8 GiB.

    Raises:
        ValueError: the name or the size doesn't fit into a ustar header.
    """
    raw = name.encode()
    if not 0 < len(raw) <= 100 or 0 in raw:
        raise ValueError(f"a tar member's name: {name!r}, but 1 to 100 bytes of UTF-8 without NUL are needed.")
    if not 0 <= size <= _MAX_OCTAL:
        raise ValueError(f"{name}: {size} bytes, but a tar member can have 0 to {_MAX_OCTAL}.")
    before = raw.ljust(100, b"\x00") + _AFTER_NAME + b"%011o\x00" % size + _AFTER_SIZE
    return before + b"%06o\x00 " % _checksum(before, _AFTER_CHECKSUM) + _AFTER_CHECKSUM


def sample_key(shard: int, index: int, samples_per_shard: int) -> str:
    """The key of a shard's sample by img2dataset's convention: the shard in 8 digits, then the index.

    >>> sample_key(3, 42, 10_000)
    '000000030042'
    """
    digits = math.ceil(math.log10(samples_per_shard))
    return f"{shard * 10**digits + index:0{8 + digits}d}"


def padding(size: int) -> bytes:
    """The zeros that follow `size` bytes of a member up to the next block."""
    return bytes(-size % BLOCK)


def _checksum(before: bytes, after: bytes) -> int:
    """The header's checksum modulo 65521: the sum of its bytes, the checksum's own eight counted as spaces.

    The low half of an Adler-32 that starts from s is s plus the sum of the bytes: a sum at the speed of C.
    """
    return zlib.adler32(after, zlib.adler32(before, 8 * ord(" ")) & 0xFFFF) & 0xFFFF


class Member(NamedTuple):
    """Where a member is: `header` is the offset of its first header, `data` and `size` are its bytes'."""

    header: int
    data: int
    size: int


class Sample(NamedTuple):
    """Adjacent members of one key, by extension, and the range of the tar that they take up, headers included."""

    key: str
    members: dict[str, Member]
    offset: int
    length: int

    @property
    def image(self) -> str | None:
        """The extension of its image: of `mask.png`, which is another thing, it is none."""
        return next((extension for extension in IMAGES if extension in self.members), None)


@dataclasses.dataclass(slots=True)
class Source:
    """A file to read from.

    Attributes:
        read_at: (offset, length) to bytes, fewer than asked for only at the file's end.
        read_into: (offset, buffer) to the number of bytes put there, fewer than fit only at the file's end.
        ahead: bytes to read at a time when headers are looked for.
        window: where those that were read last so begin, and they.
    """

    name: str
    size: int
    read_at: Callable[[int, int], bytes]
    read_into: Callable[[int, memoryview], int]
    ahead: int
    window: tuple[int, bytes] = (0, b"")

    def read(self, at: int, length: int) -> bytes:
        """`length` bytes from `at` on, fewer only at the file's end.

        What the window has is not read again: of a sample that `samples` gave last, mostly its json and its caption.
        """
        start, window = self.window
        if start <= at <= start + len(window) - length:
            return window[at - start : at - start + length]
        return self.read_at(at, length)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Source]:
    """The file as a Source, while the block lasts.

    Args:
        path: a local one, or an address that fsspec knows.

    Raises:
        CurateError: a local one is no regular file.
    """
    if is_local(path):
        with open(path, "rb", buffering=0, opener=_at_once) as file:
            handle = file.fileno()
            yield Source(
                name=path,
                size=regular_size(path, "tars", handle),
                read_at=_reader(handle),
                read_into=lambda at, buffer: os.preadv(handle, [buffer], at),
                ahead=8 << 10,
            )
        return
    from pipeline import storage  # here, because the local path does without fsspec

    # The captions lie behind the header that is read ahead, so recent blocks are kept.
    with storage.open_read(path, block_size=2 << 20, cache_type="blockcache") as remote:

        def read(at: int, length: int) -> bytes:
            remote.seek(at)
            return remote.read(length)

        def read_into(at: int, buffer: memoryview) -> int:
            body = read(at, len(buffer))
            buffer[: len(body)] = body
            return len(body)

        yield Source(path, storage.size(path), read, read_into, ahead=1 << 20)


#: How far apart reads may lie so that what is between is read from the disk too: that takes less time than to go there.
_NEAR = 1 << 20

#: Bytes that the kernel is asked to read from the disk in advance.
_IN_ADVANCE = 4 << 20


def _reader(handle: int) -> Callable[[int, int], bytes]:
    """A Source's read_at for a local file.

    Headers are small and lie apart, in which no kernel sees a file that is gone through: where it isn't cached, each
    header would be waited for.
    """
    advise = getattr(os, "posix_fadvise", None)
    last = asked = 0

    def read_at(at: int, length: int) -> bytes:
        nonlocal last, asked
        if advise and 0 <= at - last <= _NEAR and at + _IN_ADVANCE // 2 > asked:
            start = max(at, asked)
            asked = start + _IN_ADVANCE
            with contextlib.suppress(OSError):  # a file system may take no advice
                advise(handle, start, _IN_ADVANCE, os.POSIX_FADV_WILLNEED)
        last = at
        return os.pread(handle, length, at)

    return read_at


def _at_once(path: str, flags: int) -> int:
    """Opens as open() does, but of a pipe does not wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def samples(tar: Source) -> Iterator[Sample]:
    """The samples of a tar, in its order.

    As webdataset has it, a name's key is all before the first dot of its last part, folders included, and its extension
    is all after that dot, in lower case; neighbours of one key are a sample. Files without a key or an extension belong
    to none, and directories are passed over.

    Raises:
        CurateError: the tar is not one, is cut off (a tar has an end mark), is damaged anywhere, goes on after its end
            mark, holds anything but files and directories, or one name twice in a sample.
    """
    key, offset, end = "", 0, 0
    members: dict[str, Member] = {}
    for name, header, data, size in _files(tar):
        part = name.rfind("/") + 1
        dot = name.find(".", part)
        if dot <= part:
            continue
        if name[:dot] != key:
            if members:
                yield Sample(key, members, offset, end - offset)
            key, members, offset = name[:dot], {}, header
        extension = name[dot + 1 :].lower()
        if extension in members:
            raise _broken(tar, header, f"{printable(name)!r} for the second time in one sample")
        members[extension] = Member(header, data, size)
        end = data + size + -size % BLOCK
    if members:
        yield Sample(key, members, offset, end - offset)


_ZEROS = bytes(BLOCK)
_FILE, _DIRECTORY, _GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL = b"0\x007", *b"5LKxg"
_OCTAL = b"01234567"
_MAX_EXTENDED_BYTES = 1 << 20
_TIMES = re.compile(rb"(\d+ [acm]time=[\d.]+\n)+")  # all that most PAX headers hold


def _files(tar: Source) -> Iterator[tuple[str, int, int, int]]:
    """Every regular file of a tar, in order: its name, where its first header is, where its bytes are and how many."""
    at = first = start = 0  # of this header, of the member's first header, of the window
    window = b""
    given: dict[str, str] = {}  # what extended headers say of the next member
    timed: dict[bytes, int] = {}  # PAX headers seen that held nothing but times, and their sizes
    while True:
        offset = at - start
        if offset + 3 * BLOCK > len(window):
            window, start, offset = tar.read_at(at, tar.ahead), at, 0
            tar.window = start, window
        block = window[offset : offset + BLOCK]
        if block in timed and _TIMES.fullmatch(window, offset + BLOCK, offset + BLOCK + timed[block]):
            at += 2 * BLOCK
            block = window[offset + 2 * BLOCK : offset + 3 * BLOCK]
        elif block == _ZEROS and at == first:
            return _check_end(tar, at)
        before, after = block[:148], block[156:]
        total = _checksum(before, after)
        try:
            if len(block) < BLOCK or block[148:156] != b"%06o\x00 " % total:
                _check_checksum(block, total)
            kind, digits = after[0], block[124:135]
            size = _number(block[124:136]) if block[135] or digits.strip(_OCTAL) else int(digits, 8)
            name = before[:100].partition(b"\x00")[0]
            if after[189] and after.startswith(b"ustar\x00", 101):
                name = after[189:344].partition(b"\x00")[0] + b"/" + name
            path = given.get("path") or name.decode()
            if "size" in given:
                size = int(given["size"])
            if kind == _DIRECTORY:
                size = 0  # some have one, none has data
            data = at + BLOCK
            end = data + size + -size % BLOCK
            if end > tar.size:
                raise ValueError(f"the tar is cut off: a member goes on to byte {end}, the tar to byte {tar.size}")
            if kind not in _FILE and kind != _DIRECTORY:
                records = _extended(kind, tar, data, size)
                if "\0" in records.get("path", ""):
                    raise ValueError(f"a name with a NUL, {printable(records['path'])!r}")
                if kind == _PAX and size <= BLOCK and not records and len(timed) < 100:
                    timed[block] = size
                given |= records
                at = end
                continue
        except ValueError as error:
            raise _broken(tar, at, str(error)) from None
        if kind in _FILE:
            yield path, first, data, size
        at = first = end
        if given:
            given = {}


def _check_checksum(block: bytes, total: int) -> None:
    """Raises unless the header's checksum is `total`, in whatever way it is written."""
    if len(block) < BLOCK:
        raise ValueError("the tar is cut off: no end mark")
    if _number(block[148:156]) % 65521 != total:
        raise ValueError("no tar header, or a damaged one")


def _number(field: bytes) -> int:
    """A header's number: octal digits, or base 256 where the first bit is set."""
    digits = field.rstrip(b"\x00 ")
    if digits.strip(_OCTAL):
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        digits = field.partition(b"\x00")[0].strip(b" ")
        if digits.strip(_OCTAL):
            raise ValueError("no tar header, or a damaged one")
    return int(digits or b"0", 8)


def _extended(kind: int, tar: Source, data: int, size: int) -> dict[str, str]:
    """What an extended header says of the next member: its path, its size."""
    if kind not in (_GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL):
        raise ValueError(f"a member of kind {printable(chr(kind))!r}: a link, a device or a sparse file")
    if size > _MAX_EXTENDED_BYTES:
        raise ValueError(f"an extended header of {size} bytes")
    body = tar.read(data, size)
    if kind == _GNU_NAME:
        return {"path": body.rstrip(b"\x00").decode()}
    records = {} if kind == _GNU_LINK else _pax_records(body)
    if kind == _PAX_GLOBAL and records:
        raise ValueError("a global header with one path or size for all members")
    return records


def _pax_records(body: bytes) -> dict[str, str]:
    """The path and size in a PAX header's records, each of which is its length, a space, name=value and a newline."""
    if _TIMES.fullmatch(body):
        return {}
    records = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        end = at + int(body[at:space]) if body[at:space].isdigit() else 0
        name, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not equals or body[end - 1 : end] != b"\n":
            raise ValueError("a damaged PAX header")
        if name.startswith(b"GNU.sparse") or (name == b"size" and not value.isdigit()):
            raise ValueError(f"a PAX header with {printable(name.decode())} = {printable(value.decode())}")
        if name in (b"path", b"size"):
            records[name.decode()] = value.decode()
        at = end
    return records


def check_ends(path: str) -> None:
    """Raises CurateError unless the tar ends with an end mark: one read tells whether it is cut off, and no more."""
    with opened(path) as tar:
        if tar.read(max(tar.size - len(END), 0), len(END)) != END:
            raise _broken(tar, tar.size, "the tar is cut off: no end mark")


def _check_end(tar: Source, at: int) -> None:
    """Raises unless `at` begins an end mark with nothing behind it but zeros."""
    if tar.size - at < len(END):
        raise _broken(tar, at, "the tar is cut off in its end mark")
    while block := tar.read(at, 1 << 20):
        if rest := block.lstrip(b"\x00"):
            raise _broken(tar, at + len(block) - len(rest), "more data behind the end mark")
        at += len(block)


def _broken(tar: Source, at: int, what: str) -> CurateError:
    return CurateError(
        f"{tar.name}, byte {at}: {what}, but only whole and sound tars are read. "
        f"Get the file again, or take it out of the folder."
    )
