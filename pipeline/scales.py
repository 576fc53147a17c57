"""DataComp's scales: a table, no logic. Source: arXiv:2304.14108, section 3."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Scale:
    """One row of the benchmark's table.

    Attributes:
        pool_rows: pairs in the scale's CommonPool when it was published; also the number of samples seen in training.
    """

    pool_rows: int


SCALES = {
    "small": Scale(12_800_000),
    "medium": Scale(128_000_000),
    "large": Scale(1_280_000_000),
    "xlarge": Scale(12_800_000_000),
}
