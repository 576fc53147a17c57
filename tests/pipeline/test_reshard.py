import bisect
import collections
import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time

import fsspec
import numpy as np
import pytest
import webdataset

from metadata.errors import CurateError
from pipeline import subset as subsets
from pipeline import tars
from pipeline.reshard import plan_shards, reshard

CAPTIONS = ["a dog", "ein Hündchen", "犬と猫 🐶", 'a "uid": "quoted" caption', ""]


def make_pool(folder, counts, seed=0, own_keys=False, uid_first=True):
    """Tars as webdataset's writer makes them for img2dataset; gives (uid, members) in order."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    pool = []
    for tar, count in enumerate(counts):
        with webdataset.TarWriter(str(folder / f"{tar:08d}.tar")) as writer:
            for n in range(count):
                uid = rng.randbytes(16).hex()
                caption = rng.choice(CAPTIONS)
                facts = {"uid": uid, "caption": caption, "key": f"{tar:08d}{n:04d}"}
                text = json.dumps(facts if uid_first else dict(reversed(facts.items())), indent=4 * uid_first)
                members = {"jpg": rng.randbytes(rng.randrange(3000)), "txt": caption.encode(), "json": text.encode()}
                if n % 7 == 3:
                    members["face.npy"] = rng.randbytes(100)
                writer.write({"__key__": f"part.d/{uid[:9]}" if own_keys else facts["key"], **members})
                pool.append((uid, dict(sorted(members.items()))))
    return pool


def write_subset(path, uids):
    numbers = sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in uids)
    np.save(path, np.array(numbers, "u8,u8"))
    return str(path)


def restated(pool, uids, samples):
    """What must come out: for each tar, (key, members) in order. Plain, all in memory."""
    wanted = sorted(uids)
    copies = [bisect.bisect_right(wanted, uid) - bisect.bisect_left(wanted, uid) for uid, _ in pool]
    order = [members for k in range(max(copies)) for (_, members), n in zip(pool, copies, strict=True) if n > k]
    return [
        [(f"{start // samples:08d}{n:04d}", members) for n, members in enumerate(order[start : start + samples])]
        for start in range(0, len(order), samples)
    ]


def read_tars(folder):
    """(key, members) of each tar, read by Python's tarfile."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        grouped = collections.defaultdict(dict)
        with tarfile.open(path, errorlevel=2) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.pax_headers) == (0, 0, 0, "", {})
                key, _, extension = member.name.partition(".")
                grouped[key][extension] = tar.extractfile(member).read()
        found.append(list(grouped.items()))
    return found


def digests(folder):
    """Every file's sha256 by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def shards(tmp_path):
    return tmp_path / "shards"


class TestResult:
    @pytest.mark.parametrize("samples", [1, 7, 50, 1000])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_it_is_the_plain_restatement(self, tmp_path, shards, samples, workers):
        pool = make_pool(shards, [40, 0, 1, 60, 25])
        uids = [uid for uid, _ in pool if int(uid, 16) % 3]
        uids += ["0" * 32, "f" * 32, pool[0][0][:16] + "0" * 16]  # not in the pool
        manifest = reshard(str(shards), write_subset(tmp_path / "s.npy", uids), str(tmp_path / "out"), samples, workers)
        if samples == 1:
            expected = [[(f"{n:08d}", members) for n, (_, members) in enumerate(one)] for one in ()] or None
            assert [m for tar in read_tars(tmp_path / "out") for _, m in tar] == [
                m for tar in restated(pool, uids, samples) for _, m in tar
            ]
            assert expected is None
        else:
            assert read_tars(tmp_path / "out") == restated(pool, uids, samples)
        kept = len(uids) - 3
        assert manifest["samples"] == {"in": 126, "kept": kept, "copies": 0, "written": kept}
        assert manifest["subset"]["uids"] == len(uids)
        assert manifest["subset"]["missing"] == 3
