"""What a run would give and cost, told by a trial on a few of the pool's files and some of their images."""

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from filters import recipes
from metadata.errors import CurateError
from pipeline import pieces, tars, trial
from pipeline.curate import asked_columns
from pipeline.options import FetchPolicy, ImageOptions
from pipeline.pools import Pool
from pipeline.statuses import OK

#: What a figure rests on, from best to worst.
COUNTED, SAMPLED, ASSUMED = "counted", "sampled", "assumed"
_BASES = (COUNTED, SAMPLED, ASSUMED)

#: Between minus and plus this a normal number lies with a probability of 95%; Student's, for 1, 2, … degrees of
#: freedom, of which more than are here are taken for the last.
_Z, _T = 1.96, (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number, an interval for the true one (95%, where it is sampled), and what it rests on."""

    value: float
    low: float
    high: float
    basis: str

    def __mul__(self, other: "Figure") -> "Figure":
        """The product. Its interval holds all products of what is in both, so it is rather too wide."""
        basis = max(self.basis, other.basis, key=_BASES.index)
        return Figure(self.value * other.value, self.low * other.low, self.high * other.high, basis)

    def __add__(self, other: "Figure") -> "Figure":
        basis = max(self.basis, other.basis, key=_BASES.index)
        return Figure(self.value + other.value, self.low + other.low, self.high + other.high, basis)


def known(value: float, basis: str = COUNTED) -> Figure:
    """A number that is counted, or one of which nothing tells how far it is off."""
    return Figure(value, value, value, basis)


#: Where no image is fetched. Of CommonPool's links 60 to 90 percent still give an image; DataComp's 450 GB for the
#: 12.8M rows of small are 35 kB each; a worker with a core to itself made 80 images of a megapixel a second.
ASSUMED_OK = Figure(0.75, 0.6, 0.9, ASSUMED)
ASSUMED_BYTES = Figure(35e3, 25e3, 50e3, ASSUMED)
ASSUMED_SECONDS, ASSUMED_TAIL_S, ASSUMED_MEMORY = 1 / 80, 30.0, 400e6


@dataclasses.dataclass(frozen=True)
class Asked:
    """The run that is to be estimated, and what may be looked at.

    Attributes:
        files: of the pool that are read.
        images: that are fetched.
    """

    pool: Pool
    recipe: recipes.Recipe
    workers: int
    limit_files: int | None = None
    select_only: bool = False
    fetch: FetchPolicy = FetchPolicy()
    image_options: ImageOptions = ImageOptions()
    files: int = 3
    images: int = 200


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of a run.

    Attributes:
        files: the pool's, then those that were read; rows: in these.
        images: that were fetched.
        figures: by name. Bytes and seconds; memory is one worker's.
        dropped: the share of the rows in that each step drops, in order.
        unreachable: the share of the images that ends as each status but ok; empty where none was fetched.
        at_most: steps that keep more of a sample than of the pool, so rows_kept is a bound.
    """

    files: tuple[int, int]
    rows: int
    images: int
    figures: Mapping[str, Figure]
    dropped: Mapping[str, float]
    unreachable: Mapping[str, Figure]
    at_most: Sequence[str]


def estimate(asked: Asked) -> Estimate:
    """What the run would give and cost.

    Raises:
        CurateError: for what the run would stop at, as far as it shows in the files read.
    """
    listed = pieces.find_files(asked.pool, asked.limit_files)
    some = spread(listed, asked.files)
    found = pieces.inspect_files(some, asked.pool, *asked_columns(asked.recipe, asked.select_only))
    recipes.check(asked.recipe, found.schema)
    rows_in = _rows_in(listed, found)
    with tempfile.TemporaryDirectory(prefix="curate-plan-") as folder:
        chosen = trial.choose(asked.recipe, found, rows_in.value, folder)
        kept = chosen.counts["kept"]
        if not kept:
            raise CurateError(f"recipe {asked.recipe.name}: keeps none of the {found.rows:,} rows that were read, but "
                              f"a plan needs some. Read more with --files, or check its steps.")
        fetched = None
        if asked.images and not asked.select_only:
            fetched = trial.fetch(asked.pool, asked.recipe, found, chosen.kept, asked.images, asked.fetch,
                                  asked.image_options, folder)  # fmt: skip
    rows_kept = rows_in * _share_kept(chosen, found.rows, len(listed))
    figures = {"rows_in": rows_in, "rows_kept": rows_kept}
    unreachable = {}
    if not asked.select_only:
        figures |= _images(rows_kept, asked.recipe.samples_per_shard, fetched)
        unreachable = _unreachable(fetched, rows_kept.value) if fetched else {}
    figures["bytes_beside_shards"] = rows_in * known(chosen.bytes / found.rows, SAMPLED)
    units = max(1.0, len(found.pieces) * len(listed) / len(some))
    figures |= _seconds(asked, figures, chosen, fetched, units)
    figures["memory_bytes"] = _memory(asked, fetched)
    return Estimate(
        (len(listed), len(some)),
        found.rows,
        len(fetched.arrived) if fetched else 0,
        figures,
        {step["step"]: step["dropped"] / found.rows for step in chosen.counts["dropped"]},
        unreachable,
        [step.name for step in asked.recipe.steps if not step.is_told_by_sample and len(some) < len(listed)],
    )


def spread(items: Sequence[Any], number: int) -> list[Any]:
    """So many of the items, evenly spread; all where there are no more."""
    number = min(number, len(items))
    return [items[(2 * n + 1) * len(items) // (2 * number)] for n in range(number)]


def _rows_in(listed: Sequence[tuple[str, int | None]], found: pieces.Inspection) -> Figure:
    """The pool's rows, by the bytes of its files; by their number where a server doesn't tell bytes."""
    if len(found.files) == len(listed):
        return known(found.rows)
    sizes = [size for _, size in listed]
    told = [size for size in sizes if size is not None]
    by_bytes = len(told) == len(sizes)
    of_each = np.array([file.size if by_bytes else 1 for file in found.files], float)
    rows = np.array([file.rows for file in found.files], float)
    half = _half(rows / of_each, len(listed))
    mean = rows.sum() / of_each.sum()
    return Figure(mean, max(0.0, mean - half), mean + half, SAMPLED) * known(sum(told) if by_bytes else len(listed))


def _half(values: Any, of: int) -> float:
    """Half of the interval for the mean of `of` values, some of which are given; 0 where there is but one of them."""
    number = len(values)
    if number < 2:
        return 0.0
    return _T[min(number - 1, len(_T)) - 1] * float(np.std(values, ddof=1)) * math.sqrt((1 - number / of) / number)


def _share_kept(chosen: trial.Chosen, rows: int, files: int) -> Figure:
    """The share of rows that is kept, by how it differs among files and, at least, as if each row were drawn."""
    share = chosen.counts["kept"] / rows
    read = max(1, len(chosen.shares))
    if read == files:
        return known(share)
    low, high = wilson(share * rows, rows, 1 - read / files)
    half = _half(chosen.shares, files)
    return Figure(share, max(0.0, min(low, share - half)), min(1.0, max(high, share + half)), SAMPLED)


def wilson(found: float, number: int, left: float = 1.0) -> tuple[float, float]:
    """The interval for a share of which `found` of `number` draws tell (Wilson's score).

    Args:
        left: the share of all there is that was not drawn; with all of it drawn nothing is uncertain.
    """
    z = _Z * math.sqrt(max(0.0, left))
    share, more = found / number, z * z / number
    half = z * math.sqrt(share * (1 - share) / number + more / (4 * number))
    return max(0.0, (share + more / 2 - half) / (1 + more)), min(1.0, (share + more / 2 + half) / (1 + more))


def _images(kept: Figure, samples: int, fetched: trial.Fetched | None) -> dict[str, Figure]:
    """Images and their bytes, and how many shards they fill."""
    value, low, high = (math.ceil(number / samples) for number in (kept.value, kept.low, kept.high))
    shards = Figure(value, low, high, kept.basis)
    ends = shards * known(len(tars.END))
    found = {"images_to_fetch": kept}
    if fetched is None:
        found |= {"images_ok": kept * ASSUMED_OK, "bytes_shards": kept * ASSUMED_OK * ASSUMED_BYTES + ends}
    else:
        left = 1 - len(fetched.arrived) / max(kept.value, len(fetched.arrived))
        ok = fetched.statuses[OK]
        share = Figure(ok / len(fetched.arrived), *wilson(ok, len(fetched.arrived), left), SAMPLED)
        found |= {"images_ok": kept * share, "bytes_fetched": kept * _mean(fetched.arrived, left),
                  "bytes_shards": kept * _mean(fetched.stored, left) + ends}  # fmt: skip
    return found | {"shards": shards}


def _mean(values: np.ndarray, left: float) -> Figure:
    mean = float(values.mean())
    half = _Z * float(values.std(ddof=min(1, len(values) - 1))) * math.sqrt(max(0.0, left) / len(values))
    return Figure(mean, max(0.0, mean - half), mean + half, SAMPLED)


def _unreachable(fetched: trial.Fetched, kept: float) -> dict[str, Figure]:
    number = len(fetched.arrived)
    return {
        status: Figure(n / number, *wilson(n, number, 1 - number / max(kept, number)), SAMPLED)
        for status, n in fetched.statuses.most_common()
        if status != OK
    }


def _seconds(
    asked: Asked, figures: Mapping[str, Figure], chosen: trial.Chosen, fetched: trial.Fetched | None, units: float
) -> dict[str, Figure]:
    """How long the parts take. More workers than there are pieces, or shards, wait."""
    def of(total: Figure, seconds: float, most: float, basis: str = SAMPLED) -> Figure:
        return total * known(seconds / min(asked.workers, most), basis)

    parts = {"seconds_choosing": of(figures["rows_in"], chosen.seconds_a_row, units)}
    if not asked.select_only:
        kept, shards = figures["rows_kept"], figures["shards"]
        if fetched:
            parts["seconds_images"] = (
                of(figures["rows_in"], fetched.seconds_a_row, units)
                + of(kept, fetched.seconds_an_image, shards.value)
                + of(shards, fetched.tail_s, shards.value)
            )
        else:
            parts["seconds_images"] = of(kept, ASSUMED_SECONDS, shards.value, ASSUMED) + of(
                shards, ASSUMED_TAIL_S, shards.value, ASSUMED
            )
    return parts | {"seconds": sum(parts.values(), known(0.0))}


def _memory(asked: Asked, fetched: trial.Fetched | None) -> Figure:
    """The most that a worker holds, by what this process has held, which has done a worker's work."""
    measured = known(trial.peak_bytes(), SAMPLED)
    is_assumed = fetched is None and not asked.select_only and measured.value < ASSUMED_MEMORY
    return known(ASSUMED_MEMORY, ASSUMED) if is_assumed else measured
