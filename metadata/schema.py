"""Every column of a pool once: its name, type, unit, range and origin.

Source: CommonPool as published with DataComp (arXiv:2304.14108). Pools under other names are mapped to these.
"""

import dataclasses

import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class Column:
    """A column filters and the image step may ask for.

    Attributes:
        type: what readers hand on; a file may hold any type of the same kind (int32 for int64, double for float, large
            strings), which is cast. Scores in double are rounded to float32, as CommonPool holds them.
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
