"""Filters written as SQL expressions, evaluated by DuckDB on each batch."""

import dataclasses
import difflib
import functools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Filter
from metadata.errors import CurateError, printable, reason

_TABLE = "__batch__"

#: What may occur in an expression, by DuckDB's names. All else needs more than the row, or is not an expression.
_ALLOWED = {
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA",
    "OPERATOR", "TYPE",
}  # fmt: skip

#: Functions of time that DuckDB does not list as such.
_CLOCKS = {"age", "current_localtime", "current_localtimestamp"}


@dataclasses.dataclass(frozen=True)
class Where(Filter):
    """Keeps rows for which an SQL expression is true; null, like false, is dropped.

    The expression is DuckDB's, over the pool's columns, whose names are taken exactly as written. It is decided from
    the row alone and is always the same: subqueries, aggregates, windows and functions of time or chance are refused.
    NaN in a column of floats is read as null, so a comparison with it drops the row. Only within a list or a struct is
    NaN greater than every number, as DuckDB has it.

    Args:
        sql: such as `original_width >= 512 and text not ilike '%stock photo%'`.

    Raises:
        CurateError: it is not one such expression.
    """

    sql: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _columns(self.sql))

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        """Raises CurateError where the expression does not fit the columns' types or values, or is not a boolean."""
        import duckdb

        with _connection().cursor() as cursor:
            try:
                columns = [_without_nan(batch.column(column)) for column in self.columns]
                cursor.register(_TABLE, pa.table(columns, names=self.columns))
                answer = cursor.execute(f"SELECT ({self.sql}\n) AS keep FROM {_TABLE}")
                kind = str(answer.description[0][1])
                if kind.lower() not in ("boolean", "bool"):
                    raise _error(self.sql, f"gives {kind}", "true or false for each row", "Compare it with something.")
                keep = answer.fetchnumpy()["keep"]
            except duckdb.Error as error:
                raise _failure(self.sql, batch.select(self.columns), error) from error
        return pa.array(np.ma.filled(keep, False).astype(bool, copy=False))


def _failure(sql: str, batch: pa.RecordBatch, error: Exception) -> CurateError:
    """What an error of DuckDB's says, or which column it can't even read."""
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if not _is_readable(column):
            return _error(sql, f"reads {printable(field.name)!r}, which is {printable(field.type)}",
                          "a type that DuckDB has", "Leave it out, or write it to the pool as another, such as double.")
    return _error(sql, f"failed ({printable(str(error).splitlines()[0], 300)})", "an answer for each row",
                  "For values that may not convert, use try_cast.")


def _is_readable(column: pa.Array) -> bool:
    """Whether DuckDB has the column's type."""
    import duckdb

    with _connection().cursor() as cursor:
        try:
            cursor.register(_TABLE, pa.table([column.slice(0, 0)], names=["x"]))
            cursor.execute(f"SELECT x FROM {_TABLE}")
        except duckdb.NotImplementedException:
            return False
    return True


def _without_nan(column: pa.Array) -> pa.Array:
    """The column with null for NaN, which DuckDB holds to be greater than every number; itself where there is none."""
    if pa.types.is_dictionary(column.type) and pa.types.is_floating(column.type.value_type):
        column = column.dictionary_decode()
    if not pa.types.is_floating(column.type):
        return column
    nan = pc.is_nan(column)
    return pc.if_else(nan, None, column) if pc.any(nan).as_py() else column


def _error(sql: str, given: str, needed: str, advice: str) -> CurateError:
    return CurateError(f"where: {printable(sql)!r} {given}, but {needed} is needed. {advice}")


@functools.lru_cache(maxsize=1)
def _connection() -> Any:
    """An empty database in memory that can read nothing but the batches handed to it. One per process."""
    import duckdb

    connection = duckdb.connect(":memory:", config={
        "threads": 1,  # the rows' order, and Beam's workers are the parallelism
        "enable_external_access": "false",
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "python_enable_replacements": "false",  # no variables of ours as tables
    })  # fmt: skip
    connection.execute("SET GLOBAL TimeZone = 'UTC'")  # the hour of a timestamp is the same on every machine
    connection.execute("SET lock_configuration = true")
    return connection


@functools.lru_cache(maxsize=64)
def _columns(sql: str) -> tuple[str, ...]:
    """The columns an expression reads, in order of their names.

    Raises:
        CurateError: it is not one expression that decides a row from the row alone.
    """
    expression = _parse(sql)
    for node in _nodes(expression):
        _check(sql, node)
    columns = sorted(set(_references(expression)))
    if not columns:
        raise _error(sql, "reads no column", "a test of the row", "Name at least one column of the pool.")
    if len({column.lower() for column in columns}) < len(columns):
        raise _error(sql, "reads columns that differ only by case", "names that DuckDB can tell apart",
                     "Rename one of them with --columns.")
    return tuple(columns)


def _parse(sql: str) -> dict[str, Any]:
    """DuckDB's syntax tree of the expression."""
    if not sql.strip():
        raise _error(sql, "is empty", "an SQL expression", "Write for example: original_width >= 512")
    nodes = _statements(sql, f"({sql}\n)")
    if len(nodes) != 1 or len(nodes[0].get("select_list", ())) != 1:
        raise _error(sql, "is more than one expression", "exactly one", "Join them with `and`, or make steps of them.")
    _statements(sql, sql)  # which `a) or (b` is not
    return nodes[0]["select_list"][0]


def _statements(sql: str, selected: str) -> list[dict[str, Any]]:
    """DuckDB's syntax trees of what selects that from the table."""
    import duckdb

    query = f"SELECT {selected}\n FROM {_TABLE}"
    with _connection().cursor() as cursor:
        try:
            tree = json.loads(cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchone()[0])
        except duckdb.Error as error:  # it is no UTF-8
            raise _error(sql, f"is not SQL ({reason(error)})", "one expression", "Mend it.") from error
    if tree["error"]:
        raise _error(sql, f"is not SQL ({printable(tree['error_message'], 300)})", "one expression", "Mend it.")
    return [statement["node"] for statement in tree["statements"]]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every expression in a syntax tree."""
    if isinstance(tree, dict) and "class" in tree:
        yield tree
    for child in _children(tree):
        yield from _nodes(child)


def _children(tree: Any) -> list[Any]:
    return list(tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else []


def _references(tree: Any) -> Iterator[str]:
    """The columns a syntax tree reads: the first part of a dotted name, and not what a lambda binds."""
    if isinstance(tree, dict) and tree.get("class") == "COLUMN_REF":
        yield tree["column_names"][0]
    elif isinstance(tree, dict) and tree.get("class") == "LAMBDA":
        bound = set(_references(tree["lhs"]))
        yield from (name for name in _references(tree["expr"]) if name not in bound)
    else:
        for child in _children(tree):
            yield from _references(child)


def _check(sql: str, node: dict[str, Any]) -> None:
    """Raises CurateError for an expression that is not decided by the row alone."""
    kind = node["class"]
    if kind not in _ALLOWED:
        raise _error(sql, f"has a {kind.lower().replace('_', ' ')}", "a test of each row alone",
                     "Subqueries, windows, * and parameters have no place in a filter.")
    if kind == "LAMBDA" and node.get("syntax_type") == "SINGLE_ARROW":
        raise _error(sql, "has an arrow (->), which may be a lambda or JSON", "one meaning",
                     "Write `lambda x: …`, or json_extract(column, '$.path').")
    if kind == "FUNCTION":
        _check_function(sql, node["function_name"].lower())


def _check_function(sql: str, name: str) -> None:
    """Raises CurateError for a function that is unknown, needs other rows, or changes from call to call."""
    overloads = _functions().get(name)
    if overloads is None:
        near = difflib.get_close_matches(name, _functions(), n=1)
        hint = f"Did you mean {near[0]}?" if near else "See DuckDB's list of functions."
        raise _error(sql, f"calls {printable(name)!r}", "a function that DuckDB has", hint)
    kinds = {overload.kind for overload in overloads}
    if kinds & {"aggregate", "window"} or not kinds & {"scalar", "macro"}:
        raise _error(sql, f"calls {name}, which looks at many rows", "a test of each row alone", "Leave it out.")
    # One overload of many may look at the time zone, which is fixed here.
    if name in _CLOCKS or not any(_is_consistent(overload) for overload in overloads):
        raise _error(sql, f"calls {name}, which is not always the same", "the same answer every time", "Leave it out.")
    for overload in overloads:
        if overload.kind == "macro":
            for node in _nodes(_parse(overload.definition)):
                if node.get("function_name", "").lower() == name:  # so are those that ask for the session's state
                    raise _error(sql, f"calls {name}, which depends on more than the row", "a test of each row alone",
                                 "Leave it out.")
                _check(sql, node)


class _Function(NamedTuple):
    kind: str
    stability: str | None
    parameters: list[str]
    definition: str


def _is_consistent(function: _Function) -> bool:
    if function.kind == "macro":  # what it reads besides its parameters is the time, the user, ...
        return set(_references(_parse(function.definition))) <= set(function.parameters)
    return function.kind != "scalar" or function.stability == "CONSISTENT"


@functools.lru_cache(maxsize=1)
def _functions() -> dict[str, list[_Function]]:
    """DuckDB's functions by name; one name may have several."""
    functions: dict[str, list[_Function]] = {}
    with _connection().cursor() as cursor:
        cursor.execute("SELECT function_name, function_type, stability, parameters, macro_definition "
                       "FROM duckdb_functions()")
        for name, *facts in cursor.fetchall():
            functions.setdefault(name, []).append(_Function(*facts))
    return functions
