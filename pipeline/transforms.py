"""The Beam side: thin PTransforms over the plain functions of select.py and shards.py, and nothing else.

Elements are pieces, shard numbers, fitted numbers and small counts; never rows, never image bytes. What a step makes,
it writes into the run's folder; what the next one needs to know of it, it finds there.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton

from filters.base import Filter, Fit, Step
from pipeline import failures, select, storage
from pipeline.pieces import Piece


class _MergeStates(beam.CombineFn):
    """Merges (fit, state) pairs by the fit's own merge."""

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
    """Pieces in, the finished Filter out (one element), after as many passes as the fit needs."""

    def __init__(self, fit: Fit, number: int, choice: select.Choice, before: beam.PCollection) -> None:
        super().__init__()
        self.fit, self.number, self.choice, self.before = fit, number, choice, before

    def expand(self, pieces):
        fit = pieces.pipeline | "Fit" >> beam.Create([self.fit])
        for n in range(1, self.fit.passes + 1):
            fit = (
                pieces
                | f"Pass{n}"
                >> beam.Map(_fit_piece, AsSingleton(fit), AsList(self.before), self.choice, f"{self.number}.{n}")
                | f"Merge{n}" >> beam.CombineGlobally(_MergeStates()).without_defaults()
                | f"Finish{n}" >> beam.Map(_finish)
            )
        return fit


@failures.told
def _fit_piece(
    piece: Piece, fit: Fit, before: list[tuple[int, Filter]], choice: select.Choice, name: str
) -> tuple[Fit, Any]:
    state = select.fit_piece(piece, _in_order(before), fit, choice)
    storage.write(select.pass_marker(piece, name, choice.folder), b"")
    return fit, state


@failures.told
def _finish(merged: tuple[Fit, Any]) -> Any:  # a Filter or a Fit; Beam would take the union at its word
    fit, state = merged
    return fit.finish(state)


def _in_order(numbered: Iterable[tuple[int, Filter]]) -> list[Filter]:
    return [step for _, step in sorted(numbered, key=lambda pair: pair[0])]


class ChooseRows(beam.PTransform):
    """Pieces in; kept rows, counts and sorted uids in the run's folder. Out: the fitted filters as (number, Filter)."""

    def __init__(self, steps: Sequence[Step], choice: select.Choice, all_pieces: Sequence[Piece]) -> None:
        super().__init__()
        self.steps, self.choice, self.all_pieces = steps, choice, list(all_pieces)

    def expand(self, pieces):
        filters = pieces.pipeline | "Filters" >> beam.Create(
            [(n, s) for n, s in enumerate(self.steps) if isinstance(s, Filter)]
        )
        for number, step in enumerate(self.steps):
            if isinstance(step, Fit):
                before = filters | f"Before{number}" >> beam.Filter(lambda pair, number=number: pair[0] < number)
                fitted = (
                    pieces
                    | f"{step.name}{number}" >> FitStep(step, number, self.choice, before)
                    | f"Number{number}" >> beam.Map(lambda f, number=number: (number, f))
                )
                filters = (filters, fitted) | f"With{number}" >> beam.Flatten()
        selected = pieces | "Select" >> beam.Map(_select_piece, AsList(filters), self.choice)
        _ = (
            pieces.pipeline
            | "Partitions" >> beam.Create(range(self.choice.partitions))
            | "Spread" >> beam.Reshuffle()
            | "MergeUids" >> beam.Map(_merge_uids, self.all_pieces, self.choice, AsList(selected))
        )
        return filters | "Record" >> beam.combiners.ToList() | "Write" >> beam.Map(_record, self.choice)


@failures.told
def _select_piece(piece: Piece, filters: list[tuple[int, Filter]], choice: select.Choice) -> None:
    select.select_piece(piece, _in_order(filters), choice)


@failures.told
def _merge_uids(partition: int, pieces: list[Piece], choice: select.Choice, _selected: list[None]) -> None:
    select.merge_uids(partition, pieces, choice)


@failures.told
def _record(filters: list[tuple[int, Filter]], choice: select.Choice) -> None:
    select.write_fitted(_in_order(filters), choice.folder)


class ForEach(beam.PTransform):
    """Applies a plain function to each item, spread over the workers; for what it writes, not for what it returns."""

    def __init__(self, function: Callable[..., None], *args: Any) -> None:
        super().__init__()
        self.function, self.args = failures.told(function), args

    def expand(self, items):
        return items | beam.Reshuffle() | beam.Map(self.function, *self.args)
