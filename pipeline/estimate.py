"""What a run would give and cost, told by a trial on a few of the pool's files and some of their images."""

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from filters import recipes
from filters.soft_cap import SoftCap
from metadata import uids
from metadata.errors import CurateError
from pipeline import finished, pieces, tars, trial
from pipeline.curate import asked_columns, check_scores
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

#: Bytes of a line in a ledger, where none was written: links take most of it. Of many lines one takes less than of few.
ASSUMED_LINE, _OF_MANY, ASSUMED_LEDGER = Figure(85, 60, 130, ASSUMED), 0.8, 2.5e3

#: Bytes that manifest.json and run.json take, and that each file and shard adds to what is beside the shards: hashes
#: and addresses mostly, of a few recipes long lists of what was fitted, and what columns take that have few lines.
_RECORDS, _OF_A_FILE = Figure(3e3, 2e3, 2e4, SAMPLED), Figure(600, 400, 900, SAMPLED)
_OF_A_SHARD = Figure(1000, 300, 2000, SAMPLED)

#: A sample's uid, in subset.npy and in what that is put together of.
_UID_BYTES = 2 * uids.UID_DTYPE.itemsize


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
        figures: by name; `samples` where they are not the rows kept. Bytes and seconds; memory is one worker's.
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
    try:
        found = pieces.inspect_files(some, asked.pool, *asked_columns(asked.recipe, asked.select_only))
    except CurateError:
        check_scores(asked.recipe, asked.pool, some)
        raise
    if not found.rows:
        advice = "Read more with --files" if len(some) < len(listed) else "Check the address"
        raise CurateError(f"--pool {asked.pool.name}: {len(some):,} of its {len(listed):,} files were read, but they "
                          f"have not one row. {advice}.")
    recipes.check(asked.recipe, found.schema)
    rows_in = _rows_in(listed, found)
    files = len(listed), len(some)
    units = max(1.0, len(found.pieces) * len(listed) / len(some))
    with tempfile.TemporaryDirectory(prefix="curate-plan-") as folder:
        chosen = trial.choose(asked.recipe, found, rows_in.value, folder)
        if not chosen.counts["kept"]:
            raise CurateError(f"recipe {asked.recipe.name}: keeps none of the {found.rows:,} rows that were read, but "
                              f"a plan needs some. Read more with --files, or check its steps.")
        seconds_planning = 0.0 if asked.select_only else trial.plan(found, folder)
        left = trial.left(found, chosen.samples, units, folder)
        fetched = None
        if asked.images and not asked.select_only:
            fetched = trial.fetch(asked.pool, asked.recipe, found, chosen.samples, asked.images, asked.fetch,
                                  asked.image_options, folder)  # fmt: skip
    rows_kept = rows_in * _share_kept(chosen, found.rows, *files)
    samples = _samples(asked.recipe, rows_in, rows_kept)
    figures = {"rows_in": rows_in, "rows_kept": rows_kept} | ({} if samples is rows_kept else {"samples": samples})
    unreachable = {}
    if not asked.select_only:
        figures |= _images(rows_kept, samples, asked.recipe.samples_per_shard, fetched)
        if fetched:
            unreachable = {
                status: _share(fetched, n, samples) for status, n in fetched.statuses.most_common() if status != OK
            }
    beside = rows_in * known(left.of_rows / found.rows, SAMPLED) + known(left.once)
    beside += samples * _of_a_sample(left, sum(chosen.samples), *files) + _RECORDS + known(len(listed)) * _OF_A_FILE
    if not asked.select_only:
        beside += _ledgers(rows_kept, figures["shards"], fetched)
    figures["bytes_beside_shards"] = beside
    figures |= _seconds(asked, figures, chosen, seconds_planning, fetched, units)
    figures["memory_bytes"] = _memory(asked, fetched)
    dropped = chosen.counts["dropped"]
    return Estimate(
        files,
        found.rows,
        len(fetched.arrived) if fetched else 0,
        figures,
        dict(zip(finished.numbered(step["step"] for step in dropped),
                 (step["dropped"] / found.rows for step in dropped), strict=True)),
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


def _share_kept(chosen: trial.Chosen, rows: int, files: int, read: int) -> Figure:
    """The share of rows that is kept, by how it differs among files and, at least, as if each row were drawn."""
    share = chosen.counts["kept"] / rows
    if read == files:
        return known(share)
    low, high = wilson(share * rows, rows, 1 - read / files)
    half = _half(chosen.shares, files)
    return Figure(share, max(0.0, min(low, share - half)), min(1.0, max(high, share + half)), SAMPLED)


def _samples(recipe: recipes.Recipe, rows_in: Figure, rows_kept: Figure) -> Figure:
    """How often rows are taken: once each, or as often in all as a soft cap says."""
    if recipe.steps and isinstance(last := recipe.steps[-1], SoftCap):
        return rows_in if last.samples is None else known(last.samples)
    return rows_kept


def _of_a_sample(left: trial.Left, samples: int, files: int, read: int) -> Figure:
    """Bytes that each sample adds to what is beside the shards, by how they differ among files."""
    mean = left.of_samples / samples
    half = _half(left.of_a_sample, files) if read < files else 0.0
    return Figure(mean, max(0.0, mean - half), mean + half, SAMPLED) + known(_UID_BYTES)


def _ledgers(kept: Figure, shards: Figure, fetched: trial.Fetched | None) -> Figure:
    """Bytes of the ledgers, in which a row's further lines take hardly any, and of what else a shard leaves."""
    line, rest = ASSUMED_LINE, ASSUMED_LEDGER
    if fetched:
        of_lines, rest = fetched.ledger
        mean = of_lines / len(fetched.arrived)
        line = Figure(mean, _OF_MANY * mean, 1.1 * mean, SAMPLED)
    return kept * line + shards * (known(rest) + _OF_A_SHARD)


def wilson(found: float, number: int, left: float = 1.0) -> tuple[float, float]:
    """The interval for a share of which `found` of `number` draws tell (Wilson's score).

    Args:
        left: the share of all there is that was not drawn; with all of it drawn nothing is uncertain.
    """
    z = _Z * math.sqrt(max(0.0, left))
    share, more = found / number, z * z / number
    half = z * math.sqrt(share * (1 - share) / number + more / (4 * number))
    return max(0.0, (share + more / 2 - half) / (1 + more)), min(1.0, (share + more / 2 + half) / (1 + more))


def _images(
    kept: Figure, samples: Figure, samples_per_shard: int, fetched: trial.Fetched | None
) -> dict[str, Figure]:
    """Images and their bytes, and how many shards they fill: a row is fetched once, and stored as often as taken."""
    value, low, high = (math.ceil(number / samples_per_shard) for number in (samples.value, samples.low, samples.high))
    shards = Figure(value, low, high, samples.basis)
    ends = shards * known(len(tars.END))
    found = {"images_to_fetch": kept}
    if fetched is None:
        found |= {"images_ok": samples * ASSUMED_OK, "bytes_shards": samples * ASSUMED_OK * ASSUMED_BYTES + ends}
    else:
        of_rows, of_samples = _left(len(fetched.arrived), kept), _left(len(fetched.stored), samples)
        found |= {"images_ok": samples * _share(fetched, fetched.statuses[OK], samples),
                  "bytes_fetched": kept * _mean(fetched.arrived, len(fetched.arrived), of_rows),
                  "bytes_shards": samples * _mean(fetched.stored, len(fetched.arrived), of_samples) + ends}  # fmt: skip
    return found | {"shards": shards}


def _left(number: int, of: Figure) -> float:
    """The share that was not fetched."""
    return 1 - number / max(of.value, number)


def _share(fetched: trial.Fetched, found: int, samples: Figure) -> Figure:
    """The share of the samples that so many of the fetched ones are. Copies of a row tell no more than one."""
    share, left = found / len(fetched.stored), _left(len(fetched.stored), samples)
    return Figure(share, *wilson(share * len(fetched.arrived), len(fetched.arrived), left), SAMPLED)


def _mean(values: np.ndarray, draws: int, left: float) -> Figure:
    mean = float(values.mean())
    half = _Z * float(values.std(ddof=min(1, len(values) - 1))) * math.sqrt(max(0.0, left) / draws)
    return Figure(mean, max(0.0, mean - half), mean + half, SAMPLED)


def _seconds(
    asked: Asked,
    figures: Mapping[str, Figure],
    chosen: trial.Chosen,
    planning: float,
    fetched: trial.Fetched | None,
    units: float,
) -> dict[str, Figure]:
    """How long the parts take. More workers than there are pieces, or shards, wait."""
    def of(total: Figure, seconds: float, most: float, basis: str = SAMPLED) -> Figure:
        return total * known(seconds / min(asked.workers, most), basis)

    parts = {"seconds_choosing": of(figures["rows_in"], chosen.seconds_a_row, units)}
    if not asked.select_only:
        kept, shards = figures["rows_kept"], figures["shards"]
        an_image, tail_s, basis = ASSUMED_SECONDS, ASSUMED_TAIL_S, ASSUMED
        if fetched:
            an_image, tail_s, basis = fetched.seconds_an_image, fetched.tail_s, SAMPLED
        parts["seconds_images"] = (
            of(figures["rows_in"], planning, units)
            + of(kept, an_image, shards.value, basis)
            + of(shards, tail_s, shards.value, basis)
        )
    return parts | {"seconds": sum(parts.values(), known(0.0))}


def _memory(asked: Asked, fetched: trial.Fetched | None) -> Figure:
    """The most that a worker holds, by what this process has held, which has done a worker's work."""
    measured = known(trial.peak_bytes(), SAMPLED)
    is_assumed = fetched is None and not asked.select_only and measured.value < ASSUMED_MEMORY
    return known(ASSUMED_MEMORY, ASSUMED) if is_assumed else measured
