"""MetaCLIP's balancing as the last step of a recipe."""

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Filter, Fit, Scorer, Tally, Told
from filters.language import CaptionLanguage
from metadata import balancing, entries, uids
from metadata.errors import CurateError
from metadata.matching import OTHER, Matcher, compile_matcher

MATCHES = "entry_matches"

#: Parts of a row in which expected rows are counted.
EXPECTED_UNIT = 1 << 24

#: What a recipe may call entry lists instead of naming files, unless the pool has its own.
LISTS = {"default": "wordnet"}
LIST_NAMES = ("default", "worldwide")

#: English's t, from which MetaCLIP 2 has the tail share of every other language.
ENGLISH = "en"


@functools.lru_cache(maxsize=2)
def _read(path: str) -> pa.Table:
    return entries.read(path)


@dataclasses.dataclass(frozen=True)
class EntryMatches(Scorer):
    """Adds `entry_matches`: list<uint32>, the numbers of the entries that a caption matches, by the published rule.

    Args:
        path: the entry list; read by the driver only.
        by_language: whether the language of the caption picks the list.
    """

    path: str
    by_language: bool
    column = MATCHES

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("text", CaptionLanguage.column) if self.by_language else ("text",)

    def build(self) -> pa.Buffer:
        table = _read(self.path)
        languages = table["language"].combine_chunks() if self.by_language else None
        return compile_matcher(table["entry"].combine_chunks(), languages)

    def load(self, built: pa.Buffer) -> Callable[[pa.RecordBatch], pa.Array]:
        matcher = Matcher(built)
        return lambda batch: matcher.match(*(batch.column(name) for name in self.columns))


@dataclasses.dataclass(frozen=True, eq=False)
class EntryList:
    """What workers must know of a list without reading it.

    Attributes:
        path: of the file.
        sha256: of the entries with their languages, in order.
        languages: of the list, in the order of their names; () for one list for every caption.
        owners: int16, shape (entries,): the language of each entry, by its place in `languages`.
    """

    path: str
    sha256: str
    languages: tuple[str, ...]
    owners: np.ndarray

    @classmethod
    def read(cls, path: str) -> "EntryList":
        """The list in that file, see metadata.entries.read."""
        table = _read(path)
        found = table["language"].combine_chunks()
        lines = pc.binary_join_element_wise(found.fill_null(""), table["entry"].combine_chunks(), "", "\n")
        size = pc.sum(pc.binary_length(lines)).as_py()
        sha256 = hashlib.sha256(lines.buffers()[2].slice(0, size)).hexdigest()
        if found.null_count == len(found):
            return cls(path, sha256, (), np.zeros(len(found), np.int16))
        if found.null_count:
            raise CurateError(f"{path}: {found.null_count:,} of {len(found):,} entries have no language, but all have "
                              f"or none has. Give each its language, or `{OTHER}`.")
        names = sorted(found.unique().to_pylist())
        return cls(path, sha256, tuple(names), pc.index_in(found, pa.array(names)).to_numpy().astype(np.int16))


@dataclasses.dataclass(frozen=True)
class Balance(Fit):
    """Finishes as the Balanced that keeps frequent entries from drowning the others.

    Each caption is matched against the entries; an entry with more than t matches is sampled down to about t, and a
    pair stays if any of its entries' draws says so. A pair that matches nothing is dropped, and so is a null caption.
    Counts are over the rows that reached the step. The draws come from a hash of (uid, seed).

    Where the list has languages, the caption's language picks the entries, and every language has its own t: the count
    that leaves it English's tail share.

    Args:
        entries: a parquet or JSON list (see `curate metadata`), or `default` or `worldwide` for the pool's own.
        t: matches above which an entry is sampled; English's, where the list has languages. Published: 20,000 and
            170,000.
        tail_share: instead of t: the share of all matches that the entries below t hold. Published: 0.06.
        target: instead of t: rows to keep; t is solved, in one more pass.
        seed: of the draws, from 0.
        model: path of the fastText model that tells languages, where the list has some.

    Source: MetaCLIP (arXiv:2309.16671); MetaCLIP 2 (arXiv:2507.22062).
    """

    entries: str = "default"
    t: int | None = None
    tail_share: float | None = None
    target: int | None = None
    seed: int = 0
    model: str | None = None
    _listed: EntryList | None = dataclasses.field(default=None, init=False, repr=False, compare=False)
    tells: ClassVar[bool] = True
    comes_last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given = [name for name in ("t", "tail_share", "target") if getattr(self, name) is not None]
        if len(given) != 1:
            raise CurateError(f"balance: {' and '.join(given) or 'none of t, tail_share and target'} is given, but "
                              f"exactly one is needed. Write for example: - balance: {{tail_share: 0.06}}")
        for name in ("t", "target"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise CurateError(f"balance: {name} is {getattr(self, name)}, but it is a whole number of at least 1. "
                                  f"Published values of t are 20000 and 170000.")
        if self.tail_share is not None and not 0 < self.tail_share < 1:
            raise CurateError(f"balance: tail_share is {self.tail_share}, but it lies above 0 and below 1. "
                              f"MetaCLIP's is 0.06.")
        balancing.check_seed(self.seed, self.name)
        object.__setattr__(self, "passes", 2 if self.target else 1)

    @property
    def listed(self) -> EntryList:
        """The entry list, which `with_files` has read."""
        assert self._listed is not None
        return self._listed

    def with_files(self, files: Mapping[str, str]) -> "Balance":
        """Itself, with its entry list read.

        Raises:
            CurateError: there is no such list, it can't be read, or what is asked for doesn't go with its languages.
        """
        files = {**LISTS, **files}
        if self.entries == "worldwide" and self.entries not in files:
            raise CurateError("balance: the recipe needs an entry list with languages, but none was named. Make one "
                              "with `curate metadata build --language …` for each, and give it with --entries FILE.")
        found = EntryList.read(files.get(self.entries, self.entries))
        if self.entries == "worldwide" and not found.languages:
            raise CurateError(f"balance: {found.path} has no languages, but the recipe balances each language by "
                              f"itself. Make lists with `curate metadata build --language …`.")
        if found.languages and self.target is not None:
            raise CurateError("balance: target is given with a list that has languages, but each has a t of its own. "
                              "Give tail_share or t.")
        if found.languages and self.t is not None and ENGLISH not in found.languages:
            raise CurateError(f"balance: t is English's, from which other languages' follow, but {found.path} has no "
                              f"{ENGLISH} entries. Give tail_share.")
        return self._with_list(found)

    def _with_list(self, found: EntryList) -> "Balance":
        language = (CaptionLanguage(self.model),) if found.languages else ()
        scorers = (*language, EntryMatches(found.path, bool(found.languages)))
        made = dataclasses.replace(self)
        object.__setattr__(made, "_listed", found)
        object.__setattr__(made, "scorers", scorers)
        object.__setattr__(made, "columns", ("uid", *(scorer.column for scorer in scorers)))
        return made

    def describe(self) -> dict[str, Any]:
        asked = {name: getattr(self, name) for name in ("t", "tail_share", "target") if getattr(self, name) is not None}
        model = {"model": CaptionLanguage(self.model).describe()} if self.listed.languages else {}
        return {"entries": len(self.listed.owners), "sha256": self.listed.sha256, **asked, "seed": self.seed, **model}

    def empty(self) -> dict[str, Any]:
        """counts: int64, shape (entries,); rows, and those that match something; rows by language without a list."""
        return {"counts": np.zeros(len(self.listed.owners), np.int64), "rows": 0, "matching": 0,
                "unlisted": collections.Counter()}  # fmt: skip

    def add(self, state: dict[str, Any], batch: pa.RecordBatch) -> dict[str, Any]:
        matches = batch.column(MATCHES)
        state["counts"] += balancing.count(matches, len(state["counts"]))
        state["rows"] += batch.num_rows
        state["matching"] += int((balancing.lengths(matches) > 0).sum())
        if self.listed.languages and OTHER not in self.listed.languages:
            found = batch.column(CaptionLanguage.column)
            strange = found.filter(pc.invert(pc.is_in(found, pa.array([*self.listed.languages, None], pa.string()))))
            state["unlisted"].update(strange.to_pylist())
        return state

    def merge(self, state: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        for name in state:
            state[name] += other[name]
        return state

    def grown(self, state: dict[str, Any], times: float) -> dict[str, Any]:
        """Counts of entries times as large: exact where t is far above `times`, as rarer entries are always kept."""
        unlisted = collections.Counter({name: round(n * times) for name, n in state["unlisted"].items()})
        return {"counts": np.rint(state["counts"] * times).astype(np.int64), "rows": round(state["rows"] * times),
                "matching": round(state["matching"] * times), "unlisted": unlisted}  # fmt: skip

    def finish(self, state: dict[str, Any]) -> Filter | Fit:
        if self.target is not None:
            if state["matching"] < self.target:
                raise CurateError(f"balance: target is {self.target:,} rows, but {state['matching']:,} of the "
                                  f"{state['rows']:,} that reach the step match an entry. Lower it.")
            return BalanceToTarget(self, state)
        own = {
            name: state["counts"][self.listed.owners == n] for n, name in enumerate(self.listed.languages or [""])
        }
        given = {} if self.t is None else {ENGLISH if self.listed.languages else "": float(self.t)}
        share = self.tail_share
        if share is None:
            ((name, t),) = given.items()
            share = balancing.tail_share(own[name], t)
        others = {name: float(balancing.t_of_tail_share(found, share)) for name, found in own.items()}
        return Balanced(self, state, others | given)

    def tell(self, tally: dict[str, np.ndarray], fitted: dict[str, Any]) -> Told:
        from filters import balance_report  # it imports matplotlib, and only the driver needs it, at the end

        return balance_report.tell(_read(self.listed.path), self.listed.languages, tally, fitted)


@dataclasses.dataclass(frozen=True, eq=False)
class BalanceToTarget(Fit):
    """The second pass of a Balance with a target: finishes as the Balanced whose t keeps that many rows.

    The state counts the rows by their cost in 2**19 steps of a 2,000th each, so t is that near to the one that keeps
    exactly the target.
    """

    balance: Balance
    counted: dict[str, Any]
    name = "balance"  # type: ignore[assignment]
    _STEPS = 1 << 19

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", self.balance.columns)
        object.__setattr__(self, "scorers", self.balance.scorers)

    def empty(self) -> np.ndarray:
        """Rows by the first 20 bits of their cost as a float32, the sign's left out: int64, shape (2**19,)."""
        return np.zeros(self._STEPS, np.int64)

    def add(self, state: np.ndarray, batch: pa.RecordBatch) -> np.ndarray:
        cost = _costs(batch, self.balance.seed, self.counted["counts"].astype(np.float64))
        state += np.bincount(cost[np.isfinite(cost)].astype(np.float32).view(np.uint32) >> 12, minlength=self._STEPS)
        return state

    def merge(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        state += other
        return state

    def grown(self, state: np.ndarray, times: float) -> np.ndarray:
        return state * times  # not rounded: most steps have a row or two

    def finish(self, state: np.ndarray) -> Filter:
        target = self.balance.target or 0
        below = np.cumsum(state)
        step = int(np.searchsorted(below, target))
        low, high = (float(np.uint32(n << 12).view(np.float32)) for n in (step, step + 1))
        missing = target - float(below[step] - state[step])
        return Balanced(self.balance, self.counted, {"": low + (high - low) * missing / float(state[step])})


@dataclasses.dataclass(frozen=True, eq=False)
class Balanced(Filter):
    """Keeps a pair if the draw of any of its entries is below t / count; see Balance.

    Args:
        counted: the entries' counts, see Balance.empty.
        t: by language; under "" where the list has none.
    """

    balance: Balance
    counted: dict[str, Any]
    t: dict[str, float]
    scale: np.ndarray = dataclasses.field(init=False, repr=False)
    name = "balance"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", self.balance.columns)
        object.__setattr__(self, "scorers", self.balance.scorers)
        each = np.array([self.t[name] for name in self.balance.listed.languages or [""]])
        object.__setattr__(self, "scale", self.counted["counts"] / each[self.balance.listed.owners])

    def describe(self) -> dict[str, Any]:
        found = {"t": self.t.get("", self.t), "rows": self.counted["rows"], "rows_matching": self.counted["matching"]}
        strange = {"languages_without_entries": dict(sorted(self.counted["unlisted"].items()))}
        return self.balance.describe() | found | (strange if self.counted["unlisted"] else {})

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        return pa.array(_costs(batch, self.balance.seed, self.scale) < 1.0)

    def tally(self) -> Tally:
        with np.errstate(divide="ignore"):
            return EntryTally(np.minimum(1.0, 1.0 / self.scale))


def _costs(batch: pa.RecordBatch, seed: int, scale: np.ndarray) -> np.ndarray:
    hashes = balancing.row_hashes(uids.parse(batch.column("uid")), seed)
    return balancing.costs(hashes, batch.column(MATCHES), scale)


@dataclasses.dataclass(frozen=True, eq=False)
class EntryTally(Tally):
    """Counts each entry before and after, and the rows that were to be expected.

    Args:
        probability: min(1, t / count), float64, shape (entries,).
    """

    probability: np.ndarray
    column = MATCHES

    def empty(self) -> dict[str, np.ndarray]:
        zeros = np.zeros(len(self.probability), np.int64)
        return {"count": zeros, "kept": zeros, "expected": np.zeros(1, np.int64), "rows": np.zeros(1, np.int64)}

    def add(self, state: dict[str, np.ndarray], values: pa.Array, kept: np.ndarray) -> dict[str, np.ndarray]:
        own = {
            "count": balancing.count(values, len(self.probability)),
            "kept": balancing.count(values.filter(pa.array(kept)), len(self.probability)),
            # Whole numbers, because a sum of floats depends on its order: in 2**24ths of a row.
            "expected": np.rint(balancing.keep_probabilities(values, self.probability) * EXPECTED_UNIT)
            .astype(np.int64).sum(keepdims=True),
            "rows": kept.sum(keepdims=True),
        }
        return self.merge(state, own)
