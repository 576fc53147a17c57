"""The Beam side: thin PTransforms over the plain functions of select.py, groups.py and parts.py, and no more.

Elements are pieces, shard numbers, fitted numbers and small counts; never rows, never image bytes. What a step makes,
it writes into the run's folder; what the next one needs to know of it, it finds there.

Every transform costs a run some milliseconds to build, translate and start, whatever it does, so there are few.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.portability import common_urns
from apache_beam.pvalue import AsList, AsSingleton

from filters.base import Fit, Grouping, Step
from pipeline import failures, groups, parts, select, storage
from pipeline.pieces import Piece


class Spread(beam.PTransform):
    """An Impulse in, the items out, spread over the workers: as beam.Create does, in half of its transforms.

    What several are given the same Impulse, a runner numbers in one go.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        super().__init__()
        self.items = list(items)

    def expand(self, once):
        numbered = once | beam.FlatMap(_numbered, self.items).with_output_types(_Numbered)
        return numbered | _Deal() | beam.Map(_item)


class _Deal(beam.PTransform):
    """Numbered items, dealt to the workers one by one where the runner can; elsewhere they are grouped by number.

    A cluster that groups sends a number to where its hash falls. One of two workers gets 16 of 26 pool files then, and
    the other waits. To a runner this is Beam's Reshuffle, which Flink and Spark have in a way of their own.
    """

    def expand(self, numbered):
        return numbered | beam.GroupByKey() | beam.FlatMap(_ungrouped).with_output_types(_Numbered)

    def to_runner_api_parameter(self, context):
        return common_urns.composites.RESHUFFLE.urn, None


_Numbered = tuple[int, Any]


def _numbered(_: bytes, items: list[Any]) -> Iterable[_Numbered]:
    return enumerate(items)


def _ungrouped(grouped: tuple[int, Iterable[Any]]) -> Iterable[_Numbered]:
    number, items = grouped
    return ((number, item) for item in items)


def _item(numbered: _Numbered) -> Any:
    return numbered[1]


class Bind(beam.PTransform):
    """An Impulse in; what is there once a shuffle's files can be read, see parts.Shuffle: most need no binding.

    Args:
        shuffle: a function that gives it, and its arguments.
        ready: what is there once its files are.
    """

    def __init__(self, shuffle: Callable[..., parts.Shuffle], args: Sequence[Any], ready: beam.PCollection) -> None:
        super().__init__()
        self.shuffle, self.args, self.ready = shuffle, args, ready

    def expand(self, once):
        bindings = self.shuffle(*self.args).bindings
        if not bindings:
            return self.ready
        return once | Spread(bindings) | "Bind" >> beam.Map(_bind, self.shuffle, self.args, AsList(self.ready))


@failures.told
def _bind(number: int, shuffle: Callable[..., parts.Shuffle], args: Sequence[Any], _ready: list[Any]) -> None:
    shuffle(*args).bind(number)


#: All states are of one key, which no runner has to add and take away then.
_ALL = 0

_Stated = tuple[int, Any]


class _MergeStates(beam.CombineFn):
    """Merges pairs of a Fit, or a Tally, and its state by its own merge."""

    def create_accumulator(self):
        return None

    def add_input(self, accumulator, element):
        if accumulator is None:
            return element
        fit, state = accumulator
        return fit, fit.merge(state, element[1])

    def merge_accumulators(self, accumulators):
        merged = None
        for accumulator in accumulators:
            if accumulator is not None:
                merged = self.add_input(merged, accumulator)
        return merged

    def extract_output(self, accumulator):
        return accumulator


class FitStep(beam.PTransform):
    """Pieces in, the finished Filter out (one element), after as many passes as the fit needs.

    Args:
        number: of the step in its recipe.
        before: the filters of the steps before it, or side inputs that will be.
    """

    def __init__(self, fit: Fit, number: int, choice: select.Choice, before: Sequence[Any]) -> None:
        super().__init__()
        self.fit, self.number, self.choice, self.before = fit, number, choice, before

    def expand(self, pieces):
        fit: Any = self.fit
        for n in range(1, self.fit.passes + 1):
            finished = (
                pieces
                | f"Pass{n}"
                >> beam.Map(_fit_piece, self.choice, f"{self.number}.{n}", fit, *self.before).with_output_types(_Stated)
                | f"Merge{n}" >> beam.CombinePerKey(_MergeStates())
                | f"Finish{n}" >> beam.Map(_finish, self.number, self.choice)
            )
            fit = AsSingleton(finished)
        return finished


# What becomes a Filter or a Fit only when the pipeline runs is Any here: Beam checks annotations when it is built.


@failures.told
def _fit_piece(piece: Piece, choice: select.Choice, name: str, fit: Any, *before: Any) -> _Stated:
    state = select.fit_piece(piece, before, fit, choice)
    storage.write(select.pass_marker(piece, name, choice.folder), b"")
    return _ALL, (fit, state)


@failures.told
def _finish(merged: _Stated, number: int, choice: select.Choice) -> Any:
    _, (fit, state) = merged
    finished = fit.finish(state)
    if not isinstance(finished, Fit):
        select.write_fitted(finished, number, choice.folder)
    return finished


class GroupStep(beam.PTransform):
    """Pieces in, the step's place among the filters out (one element), once the fates of all pieces have its verdict.

    Args:
        number: of the step in its recipe.
        before: the filters of the steps before it, or side inputs that will be.
        once: an Impulse.
    """

    def __init__(
        self,
        step: Grouping,
        number: int,
        choice: select.Choice,
        before: Sequence[Any],
        all_pieces: Sequence[Piece],
        once: beam.PCollection,
    ) -> None:
        super().__init__()
        self.step, self.number, self.choice, self.before = step, number, choice, before
        self.all_pieces, self.once = all_pieces, once

    def expand(self, pieces):
        spread = pieces | "Spread" >> beam.Map(_spread_piece, self.step, self.number, self.choice, *self.before)
        count, own = len(self.all_pieces), (self.number, self.choice)
        bound = self.once | "Rows" >> Bind(groups.rows_of, (self.all_pieces, *own), spread)
        judged = (
            self.once
            | "Partitions" >> Spread(range(self.choice.partitions))
            | "Judge" >> beam.Map(_judge_partition, self.all_pieces, self.step, *own, AsList(bound))
        )
        bound = self.once | "Judged" >> Bind(groups.judged_of, (count, *own), judged)
        settled = pieces | "Settle" >> beam.Map(_settle_piece, count, *own, AsList(bound))
        return self.once | "Decided" >> beam.Map(_decided, self.step, *own, AsList(spread), AsList(settled))


@failures.told
def _spread_piece(piece: Piece, step: Grouping, number: int, choice: select.Choice, *before: Any) -> dict[str, int]:
    counts = groups.spread_piece(piece, before, step, number, choice)
    storage.write(select.pass_marker(piece, f"{number}.1", choice.folder), b"")
    return counts


@failures.told
def _judge_partition(
    partition: int, pieces: list[Piece], step: Grouping, number: int, choice: select.Choice, _bound: list[Any]
) -> None:
    groups.judge_partition(partition, pieces, step, number, choice)


@failures.told
def _settle_piece(piece: Piece, pieces: int, number: int, choice: select.Choice, _bound: list[None]) -> None:
    groups.settle_piece(piece, pieces, number, choice)


@failures.told
def _decided(
    _: bytes, step: Grouping, number: int, choice: select.Choice, counts: list[dict[str, int]], _settled: list[None]
) -> groups.Decided:
    decided = groups.decided(step, counts)
    select.write_fitted(decided, number, choice.folder)
    return decided


class ChooseRows(beam.PTransform):
    """An Impulse in; kept rows, counts, sorted uids and the fitted filters in the run's folder."""

    def __init__(self, steps: Sequence[Step], choice: select.Choice, all_pieces: Sequence[Piece]) -> None:
        super().__init__()
        self.steps, self.choice, self.all_pieces = steps, choice, list(all_pieces)

    def expand(self, once):
        pieces = once | "Pieces" >> Spread(self.all_pieces)
        filters: list[Any] = []
        for number, step in enumerate(self.steps):
            made: Any = None
            if isinstance(step, Fit):
                made = FitStep(step, number, self.choice, list(filters))
            elif isinstance(step, Grouping):
                made = GroupStep(step, number, self.choice, list(filters), self.all_pieces, once)
            filters.append(AsSingleton(pieces | f"{step.name}{number}" >> made) if made else step)
        selected = pieces | "Select" >> beam.Map(_select_piece, self.choice, *filters)
        for number, step in enumerate(self.steps):
            if isinstance(step, Fit) and step.tells:
                _ = (
                    selected
                    | f"Tally{number}"
                    >> beam.Map(_tally_piece, self.choice, filters[number]).with_output_types(_Stated)
                    | f"MergeTally{number}" >> beam.CombinePerKey(_MergeStates())
                    | f"WriteTally{number}" >> beam.Map(_write_tally, number, self.choice)
                )
        bound = once | "Uids" >> Bind(select.uids_of, (self.all_pieces, self.choice), selected)
        return (
            once
            | "Partitions" >> Spread(range(self.choice.partitions))
            | "MergeUids" >> beam.Map(_merge_uids, self.all_pieces, self.choice, AsList(bound))
        )


@failures.told
def _select_piece(piece: Piece, choice: select.Choice, *filters: Any) -> Piece:
    select.select_piece(piece, filters, choice)
    return piece


@failures.told
def _tally_piece(piece: Piece, choice: select.Choice, chosen: Any) -> _Stated:
    return _ALL, (chosen.tally(), select.tally_piece(piece, choice, chosen))


@failures.told
def _write_tally(merged: _Stated, number: int, choice: select.Choice) -> None:
    _, (_, state) = merged
    select.write_tally(state, number, choice.folder)


@failures.told
def _merge_uids(partition: int, pieces: list[Piece], choice: select.Choice, _bound: list[Any]) -> None:
    select.merge_uids(partition, pieces, choice)


class ForEach(beam.PTransform):
    """Applies a plain function to each created item; for what it writes, not for what it returns."""

    def __init__(self, function: Callable[..., None], *args: Any) -> None:
        super().__init__()
        self.function, self.args = failures.told(function), args

    def expand(self, items):
        return items | beam.Map(self.function, *self.args)
