"""Clean pairs of the demo world, as shards to train on: the little good data that a data filtering network is made of.

DFN (arXiv:2309.17425) trains the network that judges a pool on few pairs of high quality, not on the pool. These are
such pairs: pictures of the world with captions that fit them, as often of each concept as the world has it. They are
drawn from other seeds than any pool's and any evaluation set's, and no column of a pool is read.
"""

import os
from collections.abc import Iterator, Mapping

import cv2
import numpy as np

from pipeline import storage
from pipeline.made_tasks import write_tar
from pipeline.pools import demo_words
from pipeline.pools.demo_painting import paint
from pipeline.pools.demo_world import imagine, pick_concept

_PAIRS_PER_SHARD = 500


def write(folder: str, pairs: int, size_px: int, seed: int = 0) -> None:
    """Writes the pairs as tars with their sizes.json, for `curate train --data`; does nothing where that is there.

    Args:
        size_px: of the longer side of an image.
    """
    sizes_path = os.path.join(folder, "sizes.json")
    if os.path.exists(sizes_path):
        return
    sizes = {}
    for shard, start in enumerate(range(0, pairs, _PAIRS_PER_SHARD)):
        numbers, name = range(start, min(pairs, start + _PAIRS_PER_SHARD)), f"{shard:08d}.tar"
        write_tar(os.path.join(folder, name), _pairs(numbers, size_px, seed), start)
        sizes[name] = len(numbers)
    storage.write_json(sizes_path, sizes)


def _pairs(numbers: range, size_px: int, seed: int) -> Iterator[Mapping[str, bytes]]:
    for number in numbers:
        # The first word keeps these apart from all other generators of the demo world.
        rng = np.random.default_rng([0x636C65616E, seed, number])
        scene = imagine(pick_concept(rng), rng)
        caption = (demo_words.plain if rng.random() < 0.6 else demo_words.detailed)(scene, rng)
        scale = size_px / max(scene.width, scene.height)
        size = (max(1, round(scene.width * scale)), max(1, round(scene.height * scale)))
        image = cv2.resize(paint(scene), size, interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()
        yield {"jpg": jpeg, "txt": caption.encode()}
