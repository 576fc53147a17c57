"""Recipes: named lists of steps that choose a subset of a pool."""

import dataclasses
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa

from filters.balance import LIST_NAMES, Balance
from filters.base import Scorer, Step
from filters.captions import CaptionLength, CaptionTokens
from filters.clip_score import ClipScore, ClipScoreFraction
from filters.duplicates import GroupSize
from filters.frequent_tokens import FrequentTokens
from filters.fused_score import FusedScoreFraction
from filters.image_based import ImageBased
from filters.language import Cld3, Language
from filters.negcliploss import NegClipLossFraction
from filters.normsim import NormSimFraction
from filters.semantic_distinct import SemanticDistinct
from filters.sizes import AspectRatio, ImageSize
from filters.soft_cap import COPIES, SoftCap
from filters.text_based import ImagenetWord
from metadata.errors import CurateError, printable, unknown


class Published(NamedTuple):
    """What a recipe gave at a scale, as published: ImageNet accuracy, and the mean of the 38 tasks, 0 to 1."""

    scale: str
    imagenet: float
    mean: float


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Steps that choose rows, and how the chosen are cut into shards.

    Attributes:
        about: one sentence.
        source: the paper.
        rows_at_small: rows it keeps of CommonPool's small scale, as published.
        expected: the benchmark's results on what it keeps.
        samples_per_shard: planned samples of each shard but the last.
    """

    name: str
    steps: tuple[Step, ...]
    about: str = ""
    source: str = ""
    rows_at_small: str = ""
    expected: tuple[Published, ...] = ()
    samples_per_shard: int = 10_000

    def __post_init__(self) -> None:
        if len(self.steps) > 127:
            raise CurateError(f"recipe {self.name}: has {len(self.steps)} steps, but at most 127 are possible: which "
                              f"one dropped a row is kept in a byte. Join some, as `where` can.")
        for number, step in enumerate(self.steps, 1):
            if step.comes_last and number < len(self.steps):
                raise CurateError(f"recipe {self.name}: {step.name} is step {number} of {len(self.steps)}, but it must "
                                  f"be the last, as its numbers are of what the run keeps. Put it at the end.")


DATACOMP = "DataComp (arXiv:2304.14108)"

#: DataComp's image_based: captions that are English and more than a word, of images like those of a benchmark.
_IMAGE_BASED = (CaptionLength(0, 6), CaptionTokens(2), Language(), ImageBased("centroids", "targets"))

#: M-FLYT's weights of standardised scores. The pool has the first two; a file has the others, under these names.
_M_FLYT = {
    "clip_b32_similarity_score": 0.08, "clip_l14_similarity_score": 0.21, "dfn_base": 0.60, "dfn_ft": 0.80,
    "cc2m_classifier": 0.17, "in1k_classifier": 0.36, "flyt": 0.65, "normsim_inf": 0.55, "negcliploss": 0.51,
    "hype_d_l": 0.45, "hype_eps_i": -0.05, "hype_eps_t": 0.02,
}  # fmt: skip

#: What a recipe may give in place of a path.
_NAME = re.compile(r"[\w-]+")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "no_filter", (), "Keeps every row.", DATACOMP, "12.8M",
            (Published("small", 0.025, 0.132), Published("medium", 0.176, 0.258), Published("large", 0.459, 0.437)),
        ),
        Recipe(
            "basic_filter", (ImageSize(), AspectRatio(), CaptionLength(), Language()),
            "Keeps English captions of some length, of images that are neither small nor stretched.", DATACOMP, "3.0M",
            (Published("small", 0.038, 0.142), Published("medium", 0.226, 0.285), Published("large", 0.516, 0.458)),
        ),
        Recipe(
            "clip_score_l14_30_percent", (ClipScoreFraction("l14", 0.3),),
            "Keeps the 30 percent whose image and caption fit best in the eyes of CLIP ViT-L/14.", DATACOMP, "3.8M",
            (Published("small", 0.051, 0.173), Published("medium", 0.273, 0.328), Published("large", 0.578, 0.529)),
        ),
        Recipe(
            "clip_score_b32_30_percent", (ClipScoreFraction("b32", 0.3),),
            "Keeps the 30 percent whose image and caption fit best in the eyes of CLIP ViT-B/32.", DATACOMP, "3.8M",
        ),
        Recipe(
            "laion2b", (ClipScore("b32", 0.28), Cld3()),
            "Keeps English captions that fit their image: how LAION-2B's English subset was made.",
            f"{DATACOMP}, after LAION-5B (arXiv:2210.08402)", "1.3M",
            (Published("small", 0.031, 0.133), Published("medium", 0.230, 0.292), Published("large", 0.553, 0.501)),
        ),
        Recipe(
            # Words first: they cost a fifth of the language, and half of the captions are gone.
            "text_based", (ImagenetWord(), Language()),
            "Keeps English captions that name something ImageNet-21k has pictures of.", DATACOMP, "3.2M",
            (Published("small", 0.046, 0.157), Published("medium", 0.255, 0.307), Published("large", 0.561, 0.466)),
        ),
        Recipe(
            "image_based", _IMAGE_BASED,
            "Keeps English captions of images whose nearest cluster is that of an image of a benchmark, ImageNet's.",
            DATACOMP, "3.0M",
            (Published("small", 0.043, 0.159), Published("medium", 0.268, 0.312), Published("large", 0.572, 0.476)),
        ),
        Recipe(
            "datacomp_1b", (ClipScoreFraction("l14", 0.3), *_IMAGE_BASED),
            "Keeps of the 30 percent that fit best in the eyes of CLIP ViT-L/14 what image_based keeps: how "
            "DataComp-1B was made.", DATACOMP, "1.4M",
            (Published("small", 0.039, 0.144), Published("medium", 0.297, 0.328), Published("large", 0.631, 0.537)),
        ),
        Recipe(
            # Alt texts of an image and tokens are of the raw pool, so they are counted before the rest. The order of
            # the rest does not matter to the rows: what is as long has the same text. A recipe by name can't do
            # without a file: near-duplicates of test images are left in.
            "align",
            (GroupSize("sha256", 1000), FrequentTokens(), ImageSize(201), AspectRatio(math.nextafter(3, 0)),
             CaptionLength(3, 0, 20), GroupSize("text", 10)),
            "Keeps captions of 3 to 20 frequent words that at most 10 images share, of images that are neither small "
            "nor stretched and have at most 1,000 captions.", "ALIGN (arXiv:2102.05918)",
        ),
        Recipe(
            "dfn", (ClipScoreFraction("dfn", 0.15),),
            "Keeps the 15 percent that fit best in the eyes of a data filtering network, a CLIP of clean pairs: needs "
            "`curate score --as dfn`.", "DFN (arXiv:2309.17425)", "", (Published("medium", 0.307, 0.349),),
        ),
        Recipe(
            "negcliploss", (NegClipLossFraction(0.3),),
            "Keeps the 30 percent that fit best, less how well they fit other pairs.", "negCLIPLoss (arXiv:2405.19547)",
        ),
        Recipe(
            "negcliploss_normsim", (NegClipLossFraction(0.3), NormSimFraction("targets", 0.2, "pool")),
            "Keeps of these the 20 percent of the pool whose images are most alike to a benchmark's, ImageNet's.",
            "negCLIPLoss and NormSim (arXiv:2405.19547)", "", (Published("medium", 0.327, 0.357),),
        ),
        Recipe(
            "semdedup", (SemanticDistinct("centroids", 0.05),),
            "Keeps images that have no cosine above 0.95 with one of their cluster that is farther from its centre.",
            "SemDeDup (arXiv:2303.09540), which has an eps for each share of rows to keep",
        ),
        Recipe(
            "m_flyt", (FusedScoreFraction(_M_FLYT, 0.2, "scores"),),
            "Keeps the best 20 percent by a weighed sum of twelve published scores.", "M-FLYT (arXiv:2503.08805)",
        ),
        Recipe(
            "m_flyt_scs", (SoftCap(_M_FLYT, "scores"),),
            "Keeps rows by the same sum, as often as soft cap sampling draws them: as many samples as the pool has "
            "rows.", "M-FLYT (arXiv:2503.08805)", "", (Published("medium", 0.401, 0.377),),
        ),
        Recipe(
            "metaclip", (Language(), Balance(t=20_000)),
            "Keeps English captions that match an entry; of entries with more than 20,000 matches about that many.",
            "MetaCLIP (arXiv:2309.16671)",
        ),
        Recipe(
            "metaclip_tail", (Language(), Balance(tail_share=0.06)),
            "Keeps the same, but with the t that leaves the tail 6 percent of the matches, whatever the pool's size.",
            "MetaCLIP (arXiv:2309.16671), its larger set",
        ),
        Recipe(
            "metaclip_worldwide", (Balance("worldwide", t=170_000),),
            "Keeps every language balanced by entries of its own, each tail with the share that English's has.",
            "MetaCLIP 2 (arXiv:2507.22062)",
        ),
        Recipe(
            "clip_score_balanced", (ClipScoreFraction("l14", 0.3), Balance(tail_share=0.06)),
            "Keeps the 30 percent that fit best in the eyes of CLIP ViT-L/14, balanced so that the tail has 6 percent.",
            f"{DATACOMP}, then MetaCLIP (arXiv:2309.16671)",
        ),
    )
}  # fmt: skip

#: What the command is for: the pairs that fit, with frequent things kept from drowning the rest.
DEFAULT = "clip_score_balanced"


def open_recipe(
    name_or_path: str,
    lists: Mapping[str, str] = MappingProxyType({}),
    files: Mapping[str, str] = MappingProxyType({}),
) -> Recipe:
    """The recipe of that name, or the one in a file that ends in .yaml or .yml; what its steps need is there.

    Args:
        lists: entry lists by LIST_NAMES, whether or not a step asks for one.
        files: paths by the names that steps give in place of one.

    Raises:
        CurateError: no such recipe or file, the file is not a recipe, a name is given no path or is no step's, a step
            lacks a file, model or package, or it adds a column of a name that another step reads or adds.
    """
    recipe = named(name_or_path, files)
    recipe = dataclasses.replace(recipe, steps=tuple(step.with_files({**lists, **files}) for step in recipe.steps))
    _check_scorers(recipe)
    describe(recipe)  # loads what the steps are described by, so that what is missing is known before the run
    return recipe


def named(name_or_path: str, files: Mapping[str, str]) -> Recipe:
    """The recipe as it is written, with names in place of `files`, of which none is looked for yet.

    Raises:
        CurateError: no such recipe or file, the file is not a recipe, or a name is given no path or is no step's.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        from filters import recipe_file  # needs YAML and more, which a recipe by name does not

        recipe = recipe_file.read(name_or_path)
    elif name_or_path in RECIPES:
        recipe = RECIPES[name_or_path]
    else:
        raise unknown("recipe", name_or_path, [*RECIPES, "or the path of a .yaml file"])
    _check_files(recipe, files)
    return recipe


def file_names(recipe: Recipe) -> tuple[str, ...]:
    """The names that its steps give in place of paths, each once."""
    given = [getattr(step, field) for step in recipe.steps for field in step.paths]
    return tuple(dict.fromkeys(name for name in given if name is not None and _NAME.fullmatch(name)))


def _check_files(recipe: Recipe, files: Mapping[str, str]) -> None:
    names = file_names(recipe)
    for name in LIST_NAMES:
        if name in names:
            raise CurateError(f"recipe {recipe.name}: a step calls its file {name!r}, but that is what entry lists are "
                              f"called, which `balance` takes. Call the file something else.")
    for name in files:
        if name not in names:
            raise unknown("file", name, names or ["none"], where=f"recipe {recipe.name}")
    if missing := [name for name in names if name not in files]:
        flags = " ".join(f"--file {name}=PATH" for name in missing)
        raise CurateError(f"recipe {recipe.name}: needs a file of {' and one of '.join(missing)}, but none was given. "
                          f"Give {flags}, each an .npy or .pt with vectors of the model that made the pool's features; "
                          f"not_listed's are removal lists, scores are parquet files with uids.")


def _check_scorers(recipe: Recipe) -> None:
    """Raises CurateError where a step would read, by its name, a column that another step's scorer has worked out."""
    first: dict[str, tuple[int, Scorer]] = {}
    for number, step in enumerate(recipe.steps, 1):
        for scorer in step.scorers:
            before, other = first.setdefault(scorer.column, (number, scorer))
            if other != scorer:
                raise CurateError(f"recipe {recipe.name}: step {number} ({step.name}) adds the column "
                                  f"{printable(scorer.column)}, but step {before} adds one of that name by other "
                                  f"parameters. Give both the same, or choose by each in its own run.")  # fmt: skip
    for number, step in enumerate(recipe.steps, 1):
        own = {scorer.column for scorer in step.scorers}
        for column in step.reads:
            if column in first and column not in own:
                raise CurateError(f"recipe {recipe.name}: step {number} ({step.name}) reads the pool's column "
                                  f"{printable(column)}, but step {first[column][0]} adds one of that name. Rename one "
                                  f"of them (the pool's by --columns), or choose by each in its own run.")  # fmt: skip


def scorers(recipe: Recipe) -> tuple[Scorer, ...]:
    """What works out columns for its steps, each once, in the order in which it must be done."""
    return tuple(dict.fromkeys(scorer for step in recipe.steps for scorer in step.scorers))


def recipe_columns(recipe: Recipe) -> tuple[str, ...]:
    """The pool's columns that its steps and their scorers read, each once, in the order they are first read."""
    made = {scorer.column for scorer in scorers(recipe)}
    read = [column for step in recipe.steps for column in step.reads]
    return tuple(column for column in dict.fromkeys(read) if column not in made)


def check(recipe: Recipe, schema: pa.Schema) -> None:
    """Checks every step, and what it needs, against a pool's columns.

    Raises:
        CurateError: a step reads a column that is not in `schema`, or does not fit the columns' types: an expression of
            others, vectors of other dimensions.
    """
    made = {scorer.column for scorer in scorers(recipe)}
    if COPIES in made.union(recipe_columns(recipe)) and isinstance(recipe.steps[-1], SoftCap):
        raise CurateError(f"recipe {recipe.name}: reads a column {COPIES!r}, but soft_cap writes one of that name into "
                          f"kept/. Rename the file's, or read the pool's by another name: --columns NAME={COPIES}.")
    for step in recipe.steps:
        for column in step.reads:
            if column not in schema.names and column not in made:
                raise unknown("column", column, schema.names, where=step.name)
        for reader in step.readers:
            reader.check_columns(schema)


def describe(recipe: Recipe) -> dict[str, Any]:
    """All that decides what the recipe gives, as JSON in the form of a YAML recipe, models by their sha256 besides."""
    return {
        "name": recipe.name,
        "steps": [{step.name: step.describe()} for step in recipe.steps],
        "shards": {"samples": recipe.samples_per_shard},
    }
