"""Which entries match a text, by MetaCLIP's rule, for batches of texts at once.

A text is padded with a space at both ends; each of the marks `, . ; : ? !` and the backtick gets a space on both sides;
tab, newline and carriage return become a space. Nothing is collapsed, and case counts. An entry matches where it occurs
between two spaces of that, so one that holds a mark beside another character never does. In languages whose words no
spaces part it matches wherever it occurs.

Source: MetaCLIP (arXiv:2309.16671), substring matching; MetaCLIP 2 (arXiv:2507.22062), languages.
"""

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metadata import tokens, trie
from metadata.errors import printable

#: Languages whose words no spaces part. Source: MetaCLIP 2 (arXiv:2507.22062).
UNSPACED = frozenset({"bo", "dz", "ja", "km", "lo", "my", "ryu", "th", "zh"})

#: The list for languages that have none.
OTHER = "other"

#: Bytes of text that are matched at once. More are hardly faster, and a text of commas takes 200 times as much memory.
_BLOCK_BYTES = 3 << 17

#: A compiled matcher begins with this and a CRC-32 of the rest, which is an Arrow IPC file with a row for each list.
_MARK = b"clip-curate matcher 1\n"
_HEAD = 64

#: What that row has beside the list's Trie: its language, its number of entries, the bytes of the longest.
_COLUMNS = {"language": pa.string(), "size": pa.int64(), "longest": pa.int64()}

#: A match is a number that sorts by the text's row, which stands above these bits, then by the entry, which is in them.
_ROW, _ENTRY = np.uint64(32), np.uint64(0xFFFFFFFF)


def compile_matcher(entries: pa.Array, languages: pa.Array | None = None) -> pa.Buffer:
    """A matcher of the entries, to be written to a file as it is. The same entries give the same bytes.

    Args:
        entries: string, shape (n,), unique within a language.
        languages: string, shape (n,): the list that each is in. None, or all null: one list for every text.

    Raises:
        ValueError: an entry is null, or twice in a list; or some have a language and some have none.
    """
    entries = _plain(entries)
    if entries.null_count:
        raise ValueError("matching: an entry is null, but each is a text. Leave it out.")
    rows = [_compile_list(entries, *one) for one in _lists(len(entries), languages)]
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in _COLUMNS.items()}
    columns |= {name: _nested([row[name] for row in rows]) for name in trie.Trie._fields}
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body = sink.getvalue()
    return pa.py_buffer(b"".join((_head(body), body)))


def _lists(number: int, languages: pa.Array | None) -> list[tuple[str | None, np.ndarray]]:
    """Each list's language and its entries' indices, by language."""
    if languages is None or languages.null_count == number:
        return [(None, np.arange(number))]
    if languages.null_count:
        raise ValueError(f"matching: {languages.null_count} of {number} entries have no language, but all have one or "
                         f"none has. Give the language of each.")
    encoded = languages.cast(pa.string()).dictionary_encode()
    numbers = encoded.indices.to_numpy()
    return sorted((name, np.flatnonzero(numbers == i)) for i, name in enumerate(encoded.dictionary.to_pylist()))


def _compile_list(entries: pa.Array, language: str | None, rows: np.ndarray) -> dict[str, Any]:
    own = entries.take(pa.array(rows))
    framed, spaced = tokens.frame(own), language not in UNSPACED
    numbers, distinct = tokens.split(tokens.pad(framed) if spaced else framed, spaced)
    made = trie.build(numbers, distinct, rows.astype(np.uint32))
    if np.count_nonzero(made.entries != trie.NONE) < len(own):
        counts = own.value_counts()
        twice = counts.field(0).filter(pc.greater(counts.field(1), 1))[0].as_py()
        raise ValueError(f"matching: the entry {printable(twice)!r} is there twice, but entries are unique within a "
                         f"language. Leave one out.")
    longest = pc.max(pc.binary_length(own)).as_py() or 0
    return {"language": language, "size": len(own), "longest": longest, **made._asdict()}


def _nested(parts: list[np.ndarray | pa.Array]) -> pa.ListArray:
    """A list array with each of the parts as a value."""
    offsets = np.cumsum([0, *map(len, parts)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.concat_arrays([pa.array(part) for part in parts]))


def _head(body: pa.Buffer) -> bytes:
    return _MARK.ljust(_HEAD - 8) + zlib.crc32(body).to_bytes(8, "little")


class Matcher:
    """Finds the entries of a compiled matcher in texts.

    Args:
        compiled: what `compile_matcher` gave, from memory or a mapped file. It is not copied.

    Attributes:
        n: number of entries.
        languages: those that have a list of their own, in order; () if one list is for every text.

    Raises:
        ValueError: it is something else, of another version, or damaged.
    """

    def __init__(self, compiled: pa.Buffer) -> None:
        body = compiled.slice(min(_HEAD, compiled.size))
        head = compiled.slice(0, compiled.size - body.size).to_pybytes()
        if head != _head(body):
            what = "damaged" if head.startswith(_MARK) else "no compiled matcher of this version"
            raise ValueError(f"matching: the file is {what}, but a compiled matcher is needed. "
                             f"Compile the entries again.")
        batch = pa.ipc.open_file(body).get_batch(0)
        self._lists = [_List.read(batch, row) for row in range(batch.num_rows)]
        self.n: int = pc.sum(batch["size"]).as_py()
        self.languages = tuple(one.language for one in self._lists if one.language is not None)

    def match(self, texts: pa.Array, languages: pa.Array | None = None) -> pa.ListArray:
        """The entries that match each text.

        Args:
            texts: string or large_string, shape (n,).
            languages: string, shape (n,): each text's language, which picks the list: its own, else that of `other`,
                else none. Needed where there are such lists, and of no account where one list is for all.

        Returns:
            list<uint32>, shape (n,), no nulls: indices of entries, ascending, each once. Empty for a null text.
        """
        texts = _plain(texts)
        chosen = self._choose(texts, languages)
        keys = [np.empty(0, np.uint64)]
        for number, one in enumerate(self._lists):
            rows = np.flatnonzero(chosen == number)
            own = texts if len(rows) == len(texts) else texts.take(pa.array(rows))
            keys += [rows[key >> _ROW].astype(np.uint64) << _ROW | key & _ENTRY for key in one.match(own)]
        key = _distinct(np.concatenate(keys))
        counts = np.bincount((key >> _ROW).view(np.int64), minlength=len(texts))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(key.astype(np.uint32)))

    def _choose(self, texts: pa.Array, languages: pa.Array | None) -> np.ndarray:
        """The number of the list for each text; -1 where there is none, or no text."""
        if not self.languages:
            return np.where(_valid(texts), 0, -1)
        if languages is None:
            raise ValueError("matching: the texts have no languages, but the entries do. Give the texts' languages.")
        known = pa.array(self.languages)
        other = self.languages.index(OTHER) if OTHER in self.languages else -1
        chosen = pc.index_in(languages.cast(pa.string()), known).fill_null(other).to_numpy()
        return np.where(_valid(texts), chosen, -1)


class _List(NamedTuple):
    """The entries for texts in one language, or in any."""

    language: str | None
    longest: int
    trie: trie.Trie

    @classmethod
    def read(cls, batch: pa.RecordBatch, row: int) -> "_List":
        """A row of the compiled file."""
        parts = (batch[name].slice(row, 1).flatten() for name in trie.Trie._fields)
        arrays = (part if pa.types.is_binary(part.type) else part.to_numpy() for part in parts)
        return cls(batch["language"][row].as_py(), batch["longest"][row].as_py(), trie.Trie(*arrays))

    def match(self, texts: pa.Array) -> Iterator[np.ndarray]:
        """Every text's matches, as numbers, block by block; the same may come in several blocks.

        Args:
            texts: without nulls.
        """
        spaced = self.language not in UNSPACED
        # A run that matches has a space, or what is to become one, at both ends.
        for first, framed in tokens.blocks(texts, _BLOCK_BYTES, self.longest + 2):
            numbers, distinct = tokens.split(tokens.pad(tokens.normalise(framed)), spaced)
            place, entry = trie.walk(self.trie, numbers, distinct)
            ends = np.flatnonzero(numbers == 0)[1:]
            key = np.searchsorted(ends, place).astype(np.uint64)
            key += np.uint64(first)
            key <<= _ROW
            key |= entry
            yield _distinct(key)


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Sorted, each once."""
    keys.sort()
    return keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]


def _plain(texts: pa.Array) -> pa.Array:
    """Texts of any layout in one whose buffers are read here."""
    return texts if pa.types.is_large_string(texts.type) else texts.cast(pa.string())


def _valid(texts: pa.Array) -> np.ndarray:
    return texts.is_valid().to_numpy(zero_copy_only=False)
