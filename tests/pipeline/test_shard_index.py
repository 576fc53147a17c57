import json

import numpy as np
import pytest

from metadata.uids import UID_DTYPE
from pipeline import shard_index, tars

FIRST, SECOND, NONE = (1, 2), (1, 3), (1, 4)


def write_tar(path, samples):
    """Samples of (uid, copy), whose image says which they are; of None there is only a json."""
    with open(path, "wb") as file:
        for n, (uid, copy, image) in enumerate(samples):
            facts = {"uid": "{:016x}{:016x}".format(*uid), **({"copy": copy} if copy else {}), "caption": ""}
            for extension, body in (("jpg", image), ("json", json.dumps(facts).encode())):
                if body is not None:
                    file.write(tars.member_header(f"{n}.{extension}", len(body)) + body + tars.padding(len(body)))
        file.write(tars.END)


@pytest.mark.parametrize("order", [1, -1])
def test_any_copy_of_a_row_has_its_image_and_the_lowest_is_read(tmp_path, order):
    parts = [
        [(SECOND, 3, b"second 3"), (FIRST, 2, b"first 2")],
        [(FIRST, 0, None), (FIRST, 1, b"first 1")],
        [(SECOND, 2, b"second 2")],
    ]
    shards, out = tmp_path / "shards", str(tmp_path / "out")
    shards.mkdir()
    for number, samples in enumerate(parts[::order]):
        write_tar(shards / f"{number}.tar", samples)
        shard_index.index_tar((number, f"{number}.tar"), str(shards), out)
    shard_index.merge([f"{number}.tar" for number in range(3)], out)
    wanted = np.array([SECOND, NONE, FIRST], UID_DTYPE)
    found = list(shard_index.read_images(str(shards), out, wanted, 100))
    assert found == [("ok", b"second 2"), ("not_in_shards", b""), ("ok", b"first 1")]
