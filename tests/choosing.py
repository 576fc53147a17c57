"""Choosing rows by plain calls, in one process and in order: what runs on Beam must equal, and is timed against."""

import dataclasses
import pathlib

from filters.recipes import Recipe, recipe_columns, scorers
from pipeline import in_a_loop, scores, select
from pipeline.pieces import Piece, inspect
from pipeline.pools import open_pool


def plan(recipe: Recipe, pool: pathlib.Path, out: pathlib.Path, **changes) -> tuple[list[Piece], select.Choice]:
    """What the driver prepares."""
    columns = tuple(column for column in recipe_columns(recipe) if column != "uid")
    choice = select.Choice(str(out), select.checkpoints(recipe.steps), columns, partitions=8, scorers=scorers(recipe))
    scores.build(choice.scorers, choice.folder)
    found = inspect(open_pool(str(pool), None, {}), ("uid", *columns))
    return found.pieces, dataclasses.replace(choice, **changes)


def choose_in_a_loop(recipe: Recipe, pieces: list[Piece], choice: select.Choice) -> None:
    """The whole choice by plain calls: what Beam must equal."""
    in_a_loop.choose(recipe.steps, pieces, choice)


def choose_on_beam(recipe: Recipe, pieces: list[Piece], choice: select.Choice, workers: int) -> None:
    """The same through the runner."""
    import apache_beam as beam

    from jobs.engines import run_with
    from pipeline.transforms import ChooseRows

    run_with("local", workers, [])(lambda p: p | beam.Impulse() | ChooseRows(recipe.steps, choice, pieces))


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file below the folder by its name, but for the marks that only progress looks at."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("work/passes/")}
