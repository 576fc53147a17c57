"""A pool of any number of rows that lies nowhere: `generated://TEMPLATE/ROWS`, importing this registers it with fsspec.

Every file is the local parquet file TEMPLATE but for its uids, which are made when they are read and are different in
every file. So a pool of 100 million rows costs no disk, and little time beside what reads it; its captions and scores
come again in each file. The template has its uids in one page without compression, where they can be replaced.
"""

import hashlib
import inspect
import io
import os
import pathlib
import re

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_pool import ROWS_PER_FILE, table

#: A uid in a page of plain strings: its length in 4 bytes, then its digits.
_STRIDE, _FIRST_DIGIT, _FIRST_WORD = 36, 4, 16

_HEX = np.frombuffer(b"".join(b"%02x" % n for n in range(256)), np.uint16)


def make_template(folder: pathlib.Path, rows: int = ROWS_PER_FILE) -> pathlib.Path:
    """The template of that many rows under `folder`, made once."""
    path = folder / f"template-{rows}.parquet"
    if not path.exists():
        part = path.with_suffix(".part")
        _write(table(0, rows).select(["uid", "text", "clip_l14_similarity_score"]), part)
        part.rename(path)
    return path


def _write(rows: pa.Table, path: pathlib.Path) -> None:
    uid = pa.field("uid", pa.string(), nullable=False)  # a page with nulls begins with where they are
    # A newer pyarrow cuts pages by rows, too.
    newer = "max_rows_per_page" in inspect.signature(pq.write_table).parameters
    pq.write_table(
        rows.cast(pa.schema([uid, *list(rows.schema)[1:]])),
        path,
        compression={"uid": "NONE", "text": "SNAPPY", "clip_l14_similarity_score": "SNAPPY"},
        use_dictionary=False,
        write_statistics=False,
        row_group_size=rows.num_rows,
        data_page_size=1 << 30,
        write_batch_size=rows.num_rows,
        **({"max_rows_per_page": rows.num_rows} if newer else {}),
    )


class GeneratedFileSystem(fsspec.AbstractFileSystem):
    """Files of ROWS rows in all, each as long as the template; the last may not be shorter."""

    protocol = "generated"
    cachable = True

    def ls(self, path: str, detail: bool = True, **_: object) -> list:
        folder, template, files = _parse(self._strip_protocol(path))
        size = os.path.getsize(template)
        names = [f"{folder}/{n:06d}.parquet" for n in range(files)]
        return [{"name": name, "size": size, "type": "file"} for name in names] if detail else names

    def info(self, path: str, **_: object) -> dict:
        path = self._strip_protocol(path)
        if path.endswith(".parquet"):
            return {"name": path, "size": os.path.getsize(_parse(path.rpartition("/")[0])[1]), "type": "file"}
        return {"name": path, "size": 0, "type": "directory"}

    def _open(self, path: str, mode: str = "rb", **_: object) -> "_File":
        folder, _slash, name = path.rpartition("/")
        return _File(_parse(folder)[1], int(name.removesuffix(".parquet")))


def _parse(folder: str) -> tuple[str, str, int]:
    """The folder, the template's path and how many files there are."""
    template, _, rows = folder.rpartition("/")
    each = int(re.search(r"template-(\d+)\.parquet", template)[1])  # type: ignore[index]
    if int(rows) % each:
        raise ValueError(f"{folder}: {rows} rows, but files of {each} rows are made. Ask for a multiple.")
    return folder, f"/{template.lstrip('/')}", int(rows) // each


class _File(io.RawIOBase):
    """The template with the uids of the file of that number."""

    def __init__(self, template: str, number: int) -> None:
        self.file, self.number = open(template, "rb", buffering=0), number  # noqa: SIM115
        self.first, self.words = _uids(template)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        start = self.file.tell()
        data = bytearray(self.file.read(size))
        low = max(0, -(-(start - self.first) // _STRIDE))
        high = min(len(self.words), (start + len(data) - self.first) // _STRIDE)
        if low < high:
            at = self.first + low * _STRIDE - start
            lines = np.frombuffer(data, np.uint8, (high - low) * _STRIDE, at).reshape(-1, _STRIDE)
            lines[:, _FIRST_DIGIT : _FIRST_DIGIT + _FIRST_WORD] = self._digits(low, high)
        return bytes(data)

    def _digits(self, low: int, high: int) -> np.ndarray:
        """The first 16 digits of those rows' uids, as characters."""
        salt = np.uint64(int.from_bytes(hashlib.sha256(b"%d" % self.number).digest()[:8], "big"))
        words = self.words[low:high] ^ salt
        return _HEX[words.byteswap().view(np.uint8).reshape(-1, 8)].view(np.uint8)

    def close(self) -> None:
        self.file.close()
        super().close()


_known: dict[str, tuple[int, np.ndarray]] = {}


def _uids(template: str) -> tuple[int, np.ndarray]:
    """Where the template's first uid is, and the first words of all."""
    if template not in _known:
        metadata = pq.read_metadata(template)
        column = metadata.row_group(0).column(0)
        with open(template, "rb") as file:
            file.seek(column.data_page_offset)
            chunk = file.read(column.total_compressed_size)
        header = len(chunk) - metadata.num_rows * _STRIDE
        # Everything before the uids must be the page's header, and that is short: there is no second page.
        if not 0 < header < 200 or column.path_in_schema != "uid":
            raise ValueError(f"{template}: its uids are not in one plain page, but they must be. Make it anew.")
        lines = np.frombuffer(chunk, np.uint8, offset=header).reshape(-1, _STRIDE)
        digits = lines[:, _FIRST_DIGIT : _FIRST_DIGIT + _FIRST_WORD].tobytes()
        words = np.frombuffer(bytes.fromhex(digits.decode()), ">u8").astype(np.uint64)
        _known[template] = column.data_page_offset + header, words
    return _known[template]


fsspec.register_implementation("generated", GeneratedFileSystem, clobber=True)
