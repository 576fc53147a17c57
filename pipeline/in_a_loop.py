"""The whole choice by plain calls, in one process and in order: what ChooseRows does on Beam.

A plan measures it on a few files, and tests hold Beam to it.
"""

import functools
from collections.abc import Sequence
from typing import Any

from filters.base import Fit, Grouping, Step
from pipeline import groups, parts, select
from pipeline.pieces import Piece


def choose(steps: Sequence[Step], pieces: Sequence[Piece], choice: select.Choice, times: float = 1.0) -> None:
    """Kept rows, counts, sorted uids and the fitted filters in the run's folder.

    Args:
        times: rows of the pool that the pieces are a sample of, over the pieces' own.
    """
    filters: list[Any] = []
    for number, step in enumerate(steps):
        filters.append(_decide(step, number, filters, pieces, choice, times))
        if filters[-1] is not step:
            select.write_fitted(filters[-1], number, choice.folder)
    for piece in pieces:
        select.select_piece(piece, filters, choice)
    _bind(select.uids_of(pieces, choice))
    for partition in range(choice.partitions):
        select.merge_uids(partition, pieces, choice)
    for number, step in enumerate(steps):
        if isinstance(step, Fit) and step.tells:
            tally = filters[number].tally()
            states = (select.tally_piece(piece, choice, filters[number]) for piece in pieces)
            select.write_tally(functools.reduce(tally.merge, states), number, choice.folder)


def _decide(
    step: Step, number: int, before: Sequence[Any], pieces: Sequence[Piece], choice: select.Choice, times: float
) -> Step:
    """The filter that the step finishes as."""
    if isinstance(step, Grouping):
        counts = [groups.spread_piece(piece, before, step, number, choice) for piece in pieces]
        _bind(groups.rows_of(pieces, number, choice))
        for partition in range(choice.partitions):
            groups.judge_partition(partition, pieces, step, number, choice)
        _bind(groups.judged_of(len(pieces), number, choice))
        for piece in pieces:
            groups.settle_piece(piece, len(pieces), number, choice)
        return groups.decided(step, counts)
    while isinstance(step, Fit):
        state = step.empty()
        for piece in pieces:
            state = step.merge(state, select.fit_piece(piece, before, step, choice))
        step = step.finish(step.grown(state, times))
    return step


def _bind(shuffle: parts.Shuffle) -> None:
    for number in shuffle.bindings:
        shuffle.bind(number)
