"""Entry lists: the words, names and phrases that captions are matched with and balanced by."""

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metadata import files
from metadata.errors import CurateError, printable, reason, unknown

#: One row an entry. `figure` is what its source ranks it by: a count, mutual information, views; null where there is
#: none. `language` is null for a list that is for every caption, else a label of fastText's lid.176, or `other`.
SCHEMA = pa.schema(
    [("entry", pa.string()), ("source", pa.string()), ("figure", pa.float64()), ("language", pa.string())]
)

#: An entry that several sources have is kept under the first of these.
SOURCES = ("wordnet", "unigram", "bigram", "title", "number", "own")

_LISTS = pathlib.Path(__file__).parent / "lists"

#: Lists that come with this package, by name: WordNet 3.0 and the numbers 0 to 99; the demo pool's world, in English
#: and in all its languages.
SHIPPED = {
    "wordnet": str(_LISTS / "wordnet.parquet"),
    "demo": str(_LISTS / "demo.json"),
    "demo_worldwide": str(_LISTS / "demo_worldwide.json"),
}

#: Matching puts spaces round each of these, whatever stands beside it.
MARKS = ",.;:?!`"


def table(entries: Iterable[str], source: str | None, figures: Any = None, language: str | None = None) -> pa.Table:
    """A list of SCHEMA, in the order given."""
    column = pa.array(entries, pa.string())
    rows = len(column)
    return pa.table(
        [
            column,
            pa.repeat(pa.scalar(source, pa.string()), rows),
            pa.nulls(rows, pa.float64()) if figures is None else pa.array(figures, pa.float64()),
            pa.repeat(pa.scalar(language, pa.string()), rows),
        ],
        schema=SCHEMA,
    )


def numbers() -> pa.Table:
    """The numbers 0 to 99, which MetaCLIP's list has."""
    return table(map(str, range(100)), "number")


def combine(tables: Sequence[pa.Table], language: str | None = None) -> pa.Table:
    """The lists in one, each entry once a language.

    An entry that occurs several times is kept under the first of SOURCES, and there with its greatest figure. One
    without a source counts as `own`.

    Args:
        language: of the entries that have none.

    Returns:
        SCHEMA, ordered by language (none first), source as in SOURCES, figure from the greatest down, entry by code
        point: the same for the same entries, in whatever order they come.
    """
    joined = pa.concat_tables(tables).combine_chunks()
    source = joined["source"].fill_null("own")
    given = joined["language"] if language is None else joined["language"].fill_null(language)
    joined = joined.set_column(1, "source", source).set_column(3, "language", given)
    keyed = joined.append_column("rank", pc.index_in(source, pa.array(SOURCES))).append_column(
        "group", given.fill_null("")
    )
    order = [("group", "ascending"), ("rank", "ascending"), ("figure", "descending"), ("entry", "ascending")]
    sorted_rows = joined.take(pc.sort_indices(keyed, order))
    return sorted_rows.take(_first_rows(sorted_rows))


def _first_rows(rows: pa.Table) -> pa.Array:
    """Positions, ascending, of each entry's first row in each language."""
    counted = rows.select(["entry", "language"]).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    firsts = counted.group_by(["entry", "language"], use_threads=False).aggregate([("row", "min")])["row_min"]
    return firsts.combine_chunks().sort()


def never_matches(entries: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Why an entry can't match any caption: string, null where it can, shape (len(entries),).

    Matching pads a caption with a space at both ends, puts spaces round each of MARKS and makes tab, newline and return
    a space; an entry matches where " " + entry + " " occurs in that. So in what entries are compared with, every mark
    has a space on both sides, and two marks in a row have two spaces between them.

    So it is in languages without spaces too, where an entry matches without the spaces round it: only its ends are
    freer, and a mark may stand there in any language.
    """
    kinds = [
        ("[\t\n\r]", "has a tab, newline or return, which matching makes a space"),
        (f"[^ ][{MARKS}]|[{MARKS}][^ ]", f"has one of {' '.join(MARKS)} without a space on both sides, and matching "
                                         f"puts spaces round them"),
        (f"[{MARKS}] [{MARKS}]", f"has one space between two of {' '.join(MARKS)}, and matching makes it two"),
    ]  # fmt: skip
    conditions = [pc.match_substring_regex(entries, pattern).fill_null(False) for pattern, _ in kinds]
    names = [str(n) for n in range(len(kinds))]
    found = pc.case_when(pc.make_struct(*conditions, field_names=names), *(why for _, why in kinds))
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def write(file: str | BinaryIO, entries: pa.Table) -> None:
    """Writes a list of SCHEMA as parquet, to a path or an open file."""
    pq.write_table(entries.cast(SCHEMA), file, compression="zstd", compression_level=19)


def read(path: str) -> pa.Table:
    """An entry list: SCHEMA, in the file's order.

    Args:
        path: a name in SHIPPED, or a path or address of a parquet file with a column `entry` (the other columns are
            null where they are missing), of a text file (.txt) with an entry a line, or of JSON: a list of strings,
            which is the form of MetaCLIP's own list, or an object that has such a list for each language.

    Raises:
        CurateError: it can't be read, is something else, has no entry, one that is null, empty or not a string, or one
            twice in a language.
    """
    with files.opened(SHIPPED.get(path, path), "the entry list is needed") as file:
        data = file.read()
    if data.startswith(b"PAR1"):
        found = _from_parquet(data, path)
    elif path.endswith(".txt"):
        found = _from_strings(filter(None, _text(data, path).replace("\r\n", "\n").split("\n")), None, path)
    else:
        found = _from_json(_text(data, path), path)
    return _checked(found, path)


def _error(path: str, given: str) -> CurateError:
    return CurateError(f"{path}: {given}, but an entry list is needed. Give parquet with a string column `entry`, a "
                       f"JSON list of strings or an object of one for each language, or a .txt with an entry a line.")


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error(path, f"it is neither parquet nor text in UTF-8 ({reason(error)})") from error


def _from_parquet(data: bytes, path: str) -> pa.Table:
    try:
        found = pq.read_table(pa.BufferReader(data))
        for column in found.columns:
            column.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise _error(path, f"it is damaged parquet ({reason(error)})") from error
    if found.column_names.count("entry") != 1:
        raise _error(path, f"it is parquet with columns {printable(', '.join(found.column_names)) or '(none)'}")
    return pa.table([_column(found, field, path) for field in SCHEMA], schema=SCHEMA)


def _column(found: pa.Table, field: pa.Field, path: str) -> pa.ChunkedArray:
    if field.name not in found.column_names:
        return pa.chunked_array([pa.nulls(found.num_rows, field.type)])
    column = found[field.name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    fits = texts if field.type == pa.string() else pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not (fits or pa.types.is_null(kind)):
        raise _error(path, f"its column `{field.name}` is {kind}")
    return column.cast(field.type, safe=texts)  # a whole figure beyond 2**53 is rounded, as any reader of JSON does


def _from_json(text: str, path: str) -> pa.Table:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _error(path, f"it is neither parquet nor JSON ({reason(error)})") from error
    lists = content if isinstance(content, dict) else {None: content}
    for language, strings in lists.items():
        if not isinstance(strings, list):
            place = "" if language is None else f" for {printable(language)!r}"
            raise _error(path, f"its JSON has {printable(json.dumps(strings), 40)}{place}")
    parts = [_from_strings(strings, language, path) for language, strings in lists.items()]
    return pa.concat_tables([SCHEMA.empty_table(), *parts])


def _from_strings(strings: Iterable[Any], language: str | None, path: str) -> pa.Table:
    strings = list(strings)
    wrong = next((n for n, entry in enumerate(strings) if not isinstance(entry, str)), None)
    if wrong is not None:
        place = "" if language is None else f" for {printable(language)!r}"
        raise _error(path, f"entry {wrong}{place} is {printable(json.dumps(strings[wrong]), 40)}")
    try:
        return table(strings, None, language=language)
    except UnicodeEncodeError as error:
        raise _error(path, f"an entry is no text ({reason(error)})") from error


def _checked(found: pa.Table, path: str) -> pa.Table:
    if not found.num_rows:
        raise _error(path, "it has no entry")
    for n, why in ((pc.index(pc.is_null(found["entry"]), True).as_py(), "null"),
                   (pc.index(found["entry"], "").as_py(), "empty")):  # fmt: skip
        if n >= 0:
            raise CurateError(f"{path}: entry {n} (from 0) is {why}, but each must be a text. Remove it.")
    for source in pc.unique(found["source"].drop_null()).to_pylist():
        if source not in SOURCES:
            raise unknown("source", source, SOURCES, path)
    counted = found.group_by(["entry", "language"], use_threads=False).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))
    if twice.num_rows:
        shown = ", ".join(repr(printable(entry, 40)) for entry in twice["entry"].slice(0, 3).to_pylist())
        more = ", …" if twice.num_rows > 3 else ""
        raise CurateError(f"{path}: {twice.num_rows} entries occur more than once ({shown}{more}), but each stands "
                          f"once in a language. Remove the repeats.")
    return found
