"""Every column of a pool once: its name, type, unit, range and origin.

COLUMNS are in a pool's parquet files. FEATURES are too wide for them: each is an array in an npz beside the parquet
file, whose rows are in the same order.

Source: CommonPool as published with DataComp (arXiv:2304.14108). Pools under other names are mapped to these.
"""

import dataclasses
import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from metadata.errors import CurateError, reason


@dataclasses.dataclass(frozen=True)
class Column:
    """A column filters and the image step may ask for.

    Attributes:
        type: what readers hand on; a file may hold any type of the same kind (`fits`), which is cast.
        about: unit, range and origin.
    """

    name: str
    type: pa.DataType
    about: str


COLUMNS = {
    column.name: column
    for column in (
        Column("uid", pa.string(), "32 hexadecimal digits, unique in the pool"),
        Column("url", pa.string(), "address of the image, as the crawl found it"),
        Column("text", pa.string(), "the caption: the image's alt text; may be empty or null"),
        Column("original_width", pa.int64(), "pixels, when the pool was built"),
        Column("original_height", pa.int64(), "pixels, when the pool was built"),
        Column("clip_b32_similarity_score", pa.float32(), "cosine of OpenAI CLIP ViT-B/32 embeddings, -1 to 1"),
        Column("clip_l14_similarity_score", pa.float32(), "cosine of OpenAI CLIP ViT-L/14 embeddings, -1 to 1"),
        Column("face_bboxes", pa.list_(pa.list_(pa.float64())), "faces as [x0, y0, x1, y1] in fractions of the image"),
        Column("sha256", pa.string(), "of the image's bytes when the pool was built, 64 hexadecimal digits"),
    )
}

FEATURES = {
    column.name: column
    for column in (
        Column("b32_img", pa.list_(pa.float16(), 512), "image embedding of OpenAI CLIP ViT-B/32, of unit length"),
        Column("b32_txt", pa.list_(pa.float16(), 512), "caption embedding of OpenAI CLIP ViT-B/32, of unit length"),
        Column("l14_img", pa.list_(pa.float16(), 768), "image embedding of OpenAI CLIP ViT-L/14, of unit length"),
        Column("l14_txt", pa.list_(pa.float16(), 768), "caption embedding of OpenAI CLIP ViT-L/14, of unit length"),
        Column("dedup", pa.list_(pa.float32(), 256), "descriptor of the image, alike for near-duplicates"),
    )
}

#: All columns that have a type of ours, wherever they are.
KNOWN = COLUMNS | FEATURES

#: The models whose scores CommonPool has.
MODELS = ("b32", "l14")

#: What `curate score` calls a model, and the names of what it adds by that model.
MODEL_NAME = re.compile(r"[a-z][a-z0-9]*")
_SCORE = re.compile(rf"clip_({MODEL_NAME.pattern})_similarity_score")
_FEATURE = re.compile(rf"({MODEL_NAME.pattern})_(img|txt)")


def known(name: str) -> Column | None:
    """The column of that name, if it has a type of ours: also what `curate score` adds by a model of any name.

    The features of such a model are float16 of as many dimensions as their array says: a list of no fixed length here.
    """
    if name in KNOWN:
        return KNOWN[name]
    if found := _SCORE.fullmatch(name):
        return Column(name, pa.float32(), f"cosine of the embeddings of the model {found[1]}, -1 to 1")
    if found := _FEATURE.fullmatch(name):
        what = "image" if found[2] == "img" else "caption"
        return Column(name, pa.list_(pa.float16()), f"{what} embedding of the model {found[1]}, of unit length")
    return None


def score_column(model: str) -> str:
    """The name of a model's scores: `l14` has clip_l14_similarity_score."""
    return f"clip_{model}_similarity_score"


def is_feature(name: str) -> bool:
    """Whether a column of that name is looked for in the npz where the parquet file has none."""
    return name in FEATURES or _FEATURE.fullmatch(name) is not None


def type_of(name: str, given: pa.DataType) -> pa.DataType:
    """What readers hand on of a column of that name that has the type `given` where it is."""
    column = known(name)
    if column is None:
        return _plain(given)
    if name in KNOWN or not is_feature(name):
        return column.type
    return pa.list_(pa.float16(), given.list_size) if pa.types.is_fixed_size_list(given) else given


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type, but for views of strings, which Arrow can't take rows of."""
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.string() if pa.types.is_string_view(kind) else pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if pa.types.is_map(kind):
        key, item = (field.with_type(_plain(field.type)) for field in (kind.key_field, kind.item_field))
        return pa.map_(key, item, kind.keys_sorted)
    if not _is_list(kind):
        return kind
    values = kind.value_field.with_type(_plain(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(values, kind.list_size)
    return pa.large_list(values) if pa.types.is_large_list(kind) else pa.list_(values)


_KINDS: tuple[Callable[[pa.DataType], bool], ...] = (
    lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t),
    pa.types.is_integer,
    pa.types.is_floating,
)


def fits(given: pa.DataType, needed: pa.DataType) -> bool:
    """Whether a column of type `given` can be read as `needed` without a change of meaning.

    So it is for strings of any layout, whole numbers of any width, floats of any width, lists of what fits (of no other
    fixed length), dictionaries of what fits, and a column that has nothing but nulls.
    """
    if pa.types.is_null(given):
        return True
    if pa.types.is_dictionary(given):
        return fits(given.value_type, needed)
    if _is_list(given) and _is_list(needed):
        lengths = {kind.list_size for kind in (given, needed) if pa.types.is_fixed_size_list(kind)}
        return len(lengths) <= 1 and fits(given.value_type, needed.value_type)
    return any(kind(given) and kind(needed) for kind in _KINDS)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def conform(array: pa.Array, column: str, where: str, first_row: int = 0) -> pa.Array:
    """The column's values in the type that readers hand on.

    Floats are rounded to the nearest of that type, as CommonPool holds its scores. A column that is not `known`
    keeps its type, but for views of strings. Nulls stay.

    Args:
        array: of a type that `fits`.
        column: our name of it.
        where: the file, for the error.
        first_row: row of the file that the array begins with, for the error.

    Raises:
        CurateError: a whole number is too large, a list of another length than it must be, or a string is not UTF-8
            (Arrow does not look when it reads).
    """
    needed = type_of(column, array.type)

    def convert(part: pa.Array) -> pa.Array:
        exact = not pa.types.is_floating(needed) and not is_feature(column)
        made = part if part.type == needed else pc.cast(part, needed, safe=exact)
        made.validate(full=True)
        return made

    try:
        return convert(array)
    except pa.ArrowException as error:
        row = next(i for i in range(len(array)) if not _succeeds(convert, array.slice(i, 1)))
        raise CurateError(f"{where}: column {column!r} has in row {first_row + row} a value that is no {needed} "
                          f"({reason(error)}), but every row is needed. Mend the file.") from error


def _succeeds(function: Callable[[pa.Array], pa.Array], part: pa.Array) -> bool:
    try:
        function(part)
    except pa.ArrowException:
        return False
    return True
