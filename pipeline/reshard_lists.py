"""Removal lists for a reshard: which samples are listed, by what their json members say of them.

Only where there are lists is this imported, and pyarrow with it.
"""

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from metadata import removals
from pipeline import tars
from pipeline.reshard_work import unfit


@contextlib.contextmanager
def packed(lists: Sequence[tuple[str, str]]) -> Iterator[tuple[tuple[tuple[str, str], ...], list[dict[str, Any]]]]:
    """The lists as local files that every worker maps, while the block lasts, and what a manifest says of them.

    Args:
        lists: what each has, see metadata.removals.COLUMNS, and its path or address.
    """
    with tempfile.TemporaryDirectory() as folder:
        files, facts = [], []
        for number, (by, path) in enumerate(lists):
            found = removals.read(path, by)
            files.append((by, os.path.join(folder, str(number))))
            facts.append({"by": by, "values": found.values, "sha256": found.sha256})
            with open(files[-1][1], "wb") as file:
                file.write(found.packed)
        yield tuple(files), facts


@functools.cache
def _lookup(by: str, path: str) -> removals.Lookup:
    with pa.memory_map(path) as file:
        return removals.Lookup(file.read_buffer(), by)


def listed(lists: Sequence[tuple[str, str]], tar: tars.Source, samples: Sequence[tars.Sample]) -> np.ndarray:
    """Which of the samples are on any of the lists: bool, shape (len(samples),). Null is on none.

    Args:
        lists: see `packed`.

    Raises:
        CurateError: a json member does not say what a list is compared with.
    """
    found = np.zeros(len(samples), bool)
    facts = [_facts(tar, sample) for sample in samples]
    for by, path in lists:
        column = removals.COLUMNS[by]
        values = [_value(fact, column, tar, sample) for fact, sample in zip(facts, samples, strict=True)]
        found |= _lookup(by, path).find(pa.array(values, pa.string()))
    return found


def _facts(tar: tars.Source, sample: tars.Sample) -> Any:
    member = sample.members["json"]  # its uid was read from it
    try:
        return json.loads(tar.read(member.data, member.size))
    except (ValueError, RecursionError):
        raise unfit(tar, sample, "a json member that is no JSON, but --remove looks into it") from None


def _value(facts: Any, column: str, tar: tars.Source, sample: tars.Sample) -> str | None:
    value = facts.get(column, 0)
    if value is None:
        return None
    if not isinstance(value, str):
        raise unfit(tar, sample, f'no "{column}" in its json member, but --remove looks for it there')
    # JSON can write half a character, which no list has: it becomes the character that stands for such.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
