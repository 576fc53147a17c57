"""Clean pairs of the demo world: shards that can be trained on, the same every time, and nothing of a pool's."""

import io
import tarfile

from PIL import Image

from pipeline import made_pairs, training_data
from pipeline.pools.demo_pairs import pair
from pipeline.pools.demo_shapes import SHAPES
from pipeline.pools.demo_world import COLOURS


def members(folder, extension: str) -> list[bytes]:
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [tar.extractfile(member).read() for member in tar if member.name.endswith(extension)]
    return found


def test_shards_of_clean_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(made_pairs, "_PAIRS_PER_SHARD", 50)
    made_pairs.write(str(tmp_path), 60, 64)
    (data,) = training_data.open_all(str(tmp_path))
    training_data.check([data])
    assert list(data.sizes.values()) == [50, 10]
    images, texts = members(tmp_path, ".jpg"), [text.decode() for text in members(tmp_path, ".txt")]
    assert len(images) == len(texts) == 60
    assert {max(Image.open(io.BytesIO(image)).size) for image in images} == {64}
    words = (*SHAPES, *COLOURS, "leaves", "cacti", "butterflies")
    assert all(any(word in text.lower() for word in words) for text in texts)
    pool = [pair(0, index) for index in range(50)]
    assert set(images).isdisjoint(made.sent for made in pool)
    assert sum(text in {made.row["text"] for made in pool} for text in texts) < 30


def test_what_is_there_stays_and_a_seed_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        made_pairs.write(str(tmp_path / name), 5, 32)
    made_pairs.write(str(tmp_path / "c"), 5, 32, seed=1)
    tars = [(tmp_path / name / "00000000.tar").read_bytes() for name in "abc"]
    assert tars[0] == tars[1] != tars[2]
    made_pairs.write(str(tmp_path / "a"), 7, 32)
    assert (tmp_path / "a/00000000.tar").read_bytes() == tars[0]
