"""Recipes in YAML files.

    name: my_subset
    about: Large images with fitting captions.
    steps:
      - image_size: {min_side_px: 512}
      - language: en
      - where: "text not ilike '%stock photo%'"
      - clip_score: {model: l14, fraction: 0.3}
    shards: {samples: 10000}

Rows must pass every step, and a step sees only the rows that passed those before it: a fraction is of these. `about`
and `shards` may be left out; `steps: []` keeps every row. A step whose other parameters have defaults may be written
with the value of its first alone, and one with only defaults by its name alone. The name is of letters, digits and
. _ -, as a run's folder is called by it unless told otherwise.
"""

import dataclasses
import pathlib
import re
import sys
import typing
from typing import Any

from filters.balance import Balance
from filters.base import Step
from filters.captions import CaptionLength, CaptionTokens
from filters.clip_score import ClipScore, ClipScoreFraction
from filters.duplicates import Distinct, GroupSize
from filters.evaluation_sets import OutsideEvaluationSets
from filters.frequent_tokens import FrequentTokens
from filters.fused_score import FusedScoreFraction
from filters.image_based import ImageBased
from filters.language import Cld3, Language
from filters.negcliploss import NegClipLossFraction
from filters.normsim import NormSim, NormSimFraction
from filters.not_listed import NotListed
from filters.recipes import Recipe
from filters.semantic_distinct import SemanticDistinct
from filters.sizes import AspectRatio, ImageSize
from filters.soft_cap import SoftCap
from filters.text_based import ImagenetWord
from filters.where import Where
from metadata import plain_yaml
from metadata.errors import CurateError, printable, unknown

#: What a YAML recipe may call a step, and what it makes; with a fraction in place of a threshold, what FRACTIONS has.
STEPS: dict[str, type[Step]] = {
    "caption_length": CaptionLength,
    "caption_tokens": CaptionTokens,
    "image_size": ImageSize,
    "aspect_ratio": AspectRatio,
    "language": Language,
    "cld3": Cld3,
    "clip_score": ClipScore,
    "image_based": ImageBased,
    "negcliploss": NegClipLossFraction,
    "normsim": NormSim,
    "imagenet_word": ImagenetWord,
    "frequent_tokens": FrequentTokens,
    "fused_score": FusedScoreFraction,
    "soft_cap": SoftCap,
    "outside_evaluation_sets": OutsideEvaluationSets,
    "where": Where,
    "balance": Balance,
    "distinct": Distinct,
    "group_size": GroupSize,
    "semantic_distinct": SemanticDistinct,
    "not_listed": NotListed,
}

FRACTIONS: dict[type[Step], type[Step]] = {ClipScore: ClipScoreFraction, NormSim: NormSimFraction}

#: A shard is one file, which is written whole or again from its start.
_MOST_SAMPLES = 1_000_000

_NAME = re.compile(r"[\w.-]{1,100}")

_KINDS = {int: "a whole number", float: "a number", dict: "a mapping of names to values", list: "a list"}


def read(path: str) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        CurateError: the file can't be read or is not a recipe; names the line or the step.
    """
    try:
        text = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise CurateError(f"{path}: can't be read ({error.strerror}), but it is the recipe. Check the path.") from error
    content = plain_yaml.parse(text, path, "a recipe is plain YAML")
    if content is None:
        raise CurateError(f"{path}: is empty, but a recipe has a name and steps. Write at least: {{name: mine, steps: "
                          f"[]}}")  # fmt: skip
    content = _typed(content, dict, "the file", path)
    for key in content:
        if key not in ("name", "about", "steps", "shards"):
            raise unknown("key", str(key), ["name", "about", "steps", "shards"], where=path)
    for key in ("name", "steps"):
        if content.get(key) is None:
            raise CurateError(f"{path}: {key} is missing, but a recipe needs it. Add it (`steps: []` keeps every row).")
    steps = _typed(content["steps"], list, "steps", path)
    name = _typed(content["name"], str, "name", path)
    if not _NAME.fullmatch(name):
        raise CurateError(f"{path}: name is {printable(name)!r}, but runs' folders are called by it: 1 to 100 letters, "
                          f"digits and . _ - are needed. Rename it.")
    return Recipe(
        name=name,
        steps=tuple(_step(step, f"{path}, step {number}") for number, step in enumerate(steps, 1)),
        about=_typed(content.get("about", ""), str, "about", path),
        source=path,
        samples_per_shard=_samples(content.get("shards", {}), path),
    )


def _samples(shards: Any, path: str) -> int:
    for key in _typed(shards, dict, "shards", path):
        if key != "samples":
            raise unknown("key", str(key), ["samples"], where=f"{path}, shards")
    samples = _typed(shards.get("samples", Recipe.samples_per_shard), int, "samples", f"{path}, shards")
    if not 1 <= samples <= _MOST_SAMPLES:
        raise CurateError(f"{path}: shards have {samples} samples, but at least 1 and at most {_MOST_SAMPLES} are "
                          f"needed. Usual is 10000.")
    return samples


def _step(item: Any, where: str) -> Step:
    """A step of a YAML recipe: `name`, `{name: {parameter: value}}` or `{name: value of the first parameter}`."""
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, dict) or len(item) != 1:
        raise CurateError(f"{where}: is {printable(repr(item))}, but it is one step's name with its parameters. "
                          f"Write for example: - image_size: {{min_side_px: 200}}")
    ((name, given),) = item.items()
    if name not in STEPS:
        raise unknown("step", str(name), STEPS, where=where)
    step, where = where, f"{where} ({name})"
    if given is None:
        raise CurateError(f"{where}: has nothing after the colon, but its parameters are needed there. Write them, or "
                          f"the step's name without a colon.")  # fmt: skip
    made = STEPS[name]
    if not isinstance(given, dict):
        given = {dataclasses.fields(made)[0].name: given}  # type: ignore[arg-type]
    if made in FRACTIONS:
        if ("threshold" in given) == ("fraction" in given):
            has = "both" if "threshold" in given else "neither"
            raise CurateError(f"{where}: has {has} of threshold and fraction, but exactly one is needed. "
                              f"Give a score, or the share of the rows that score best.")
        made = FRACTIONS[made] if "fraction" in given else made
    parameters = _parameters(made, given, where)
    try:
        return made(**parameters)
    except CurateError as error:
        raise CurateError(f"{step}: {error}") from error  # the step has said its name


def _parameters(made: type[Step], given: dict, where: str) -> dict[str, Any]:
    """`given`, once every name and type is known to be right."""
    fields = {field.name: field for field in dataclasses.fields(made) if field.init}  # type: ignore[arg-type]
    types = typing.get_type_hints(made)
    for name in given:
        if name not in fields:
            raise unknown("parameter", str(name), fields, where=where)
    for name, field in fields.items():
        if name not in given and field.default is dataclasses.MISSING:
            raise CurateError(f"{where}: {name} is missing, but the step needs it. Add it.")
    return {name: _typed(value, types[name], name, where) for name, value in given.items()}


def _typed(value: Any, kind: Any, name: str, where: str) -> Any:
    """`value`, if it is of the type; a whole number will do for any number, true and false for none.

    Numbers are those that JSON and Arrow have: finite ones, and whole ones of 64 bits, with a sign but for a seed.
    """
    kind = next((part for part in typing.get_args(kind) if part is not type(None)), kind)  # of `X | None`
    if kind in (int, float) and isinstance(value, kind | int) and not isinstance(value, bool):
        if kind is int and not -(1 << 63) <= value < 1 << (64 if name == "seed" else 63):
            raise CurateError(f"{where}: {name} is {printable(value)}, but it is a whole number of 64 bits. Mend it.")
        if not abs(value) <= sys.float_info.max:
            raise CurateError(f"{where}: {name} is {printable(value)}, but it is a finite number. Mend it.")
        return kind(value)
    if isinstance(value, kind) and kind not in (int, float):
        return value
    given = "without a value" if value is None else printable(repr(value))
    raise CurateError(f"{where}: {name} is {given}, but it is {_KINDS.get(kind, 'text')}. {_advice(value, kind)}")


def _advice(value: Any, kind: type) -> str:
    if value is None:
        return "Give one, or leave the name out."
    if kind is float and isinstance(value, str):
        return "Write it without quotes, as 0.1 or 1.0e-1: YAML needs the point and the exponent's sign."
    if kind in _KINDS or isinstance(value, dict | list):
        return "Mend it."
    return "Put it in quotes: YAML reads no, yes and digits otherwise."
