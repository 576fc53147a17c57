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
from pipeline.reshard_work import Run
from pipeline.tars import sample_key

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
        [(sample_key(start // samples, n, samples), sample) for n, sample in enumerate(order[start : start + samples])]
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
        assert read_tars(tmp_path / "out") == restated(pool, uids, samples)
        kept = len(uids) - 3
        assert manifest["samples"] == {"in": 126, "removed": 0, "kept": kept, "copies": 0, "written": kept}
        assert manifest["subset"]["uids"] == len(uids)
        assert manifest["subset"]["missing"] == 3
        sizes = json.loads((tmp_path / "out" / "sizes.json").read_bytes())
        assert sizes == {tar["name"]: tar["samples"] for tar in manifest["outputs"]}
        assert list(sizes.values()) == [len(tar) for tar in restated(pool, uids, samples)]
        found = digests(tmp_path / "out")
        assert {tar["name"]: tar["sha256"] for tar in manifest["outputs"]} == {name: found[name] for name in sizes}
        assert set(found) - set(sizes) == {"run.json", "manifest.json", "sizes.json"}

    def test_webdataset_reads_it(self, tmp_path, shards):
        pool = make_pool(shards, [30, 30])
        reshard(str(shards), write_subset(tmp_path / "s.npy", [u for u, _ in pool]), str(tmp_path / "out"), 25, 1)
        urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
        found = list(webdataset.WebDataset(urls, shardshuffle=False))
        assert [s["jpg"] for s in found] == [members["jpg"] for _, members in pool]
        assert [s["__key__"] for s in found] == [sample_key(n // 25, n % 25, 25) for n in range(60)]
        assert "".join(s["txt"].decode() for s in found) == "".join(members["txt"].decode() for _, members in pool)

    @pytest.mark.parametrize("layout", [{"own_keys": True}, {"uid_first": False}])
    def test_other_layouts(self, tmp_path, shards, layout):
        pool = make_pool(shards, [30, 30], **layout)
        uids = [uid for uid, _ in pool[::2]]
        reshard(str(shards), write_subset(tmp_path / "s.npy", uids), str(tmp_path / "out"), 10, 1)
        assert read_tars(tmp_path / "out") == restated(pool, uids, 10)

    def test_its_own_output_goes_in_again(self, tmp_path, shards):
        pool = make_pool(shards, [30, 30])
        everything = write_subset(tmp_path / "s.npy", [uid for uid, _ in pool])
        reshard(str(shards), everything, str(tmp_path / "one"), 25, 1)
        reshard(str(tmp_path / "one"), everything, str(tmp_path / "two"), 25, 2)
        one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
        assert [one[f"{n:08d}.tar"] for n in range(3)] == [two[f"{n:08d}.tar"] for n in range(3)]

    def test_members_that_a_block_does_not_hold(self, tmp_path, shards, monkeypatch):
        monkeypatch.setattr("pipeline.reshard_work._COPY_BYTES", 4096)
        pool = make_pool(shards, [60])
        uids = [uid for uid, _ in pool if int(uid, 16) % 2]
        reshard(str(shards), write_subset(tmp_path / "s.npy", uids), str(tmp_path / "out"), 20, 1)
        assert read_tars(tmp_path / "out") == restated(pool, uids, 20)

    @pytest.mark.parametrize("write", ["refused", "short"])
    def test_a_file_system_that_does_not_write_past_its_cache(self, tmp_path, shards, monkeypatch, write):
        def refused(file, block):
            raise OSError(22, "Invalid argument")

        def short(file, block, write=os.write):
            return write(file, block[:4096])

        pool = make_pool(shards, [60])
        uids = [uid for uid, _ in pool]
        monkeypatch.setattr("pipeline.reshard_work._COPY_BYTES", 16384)
        monkeypatch.setattr("pipeline.reshard_work.os.write", {"refused": refused, "short": short}[write])
        reshard(str(shards), write_subset(tmp_path / "s.npy", uids), str(tmp_path / "out"), 20, 1)
        assert read_tars(tmp_path / "out") == restated(pool, uids, 20)

    def test_addresses(self, tmp_path, shards):
        pool = make_pool(shards, [20, 20])
        uids = [uid for uid, _ in pool[::2]]
        subset = write_subset(tmp_path / "s.npy", uids)
        local = reshard(str(shards), subset, str(tmp_path / "local"), 8, 1)
        assert reshard(f"file://{shards}", f"file://{subset}", f"file://{tmp_path}/file", 8, 2) == local
        fs = fsspec.filesystem("memory")
        fs.put(str(shards), "/reshard-test/shards", recursive=True)
        assert reshard("memory://reshard-test/shards", subset, "memory://reshard-test/out", 8, 1) == local
        found = os.listdir(tmp_path / "local")
        assert sorted(found) == sorted(os.listdir(tmp_path / "file"))
        for name in found:
            bodies = [(tmp_path / place / name).read_bytes() for place in ("local", "file")]
            bodies.append(fs.cat_file(f"/reshard-test/out/{name}"))
            if name == "run.json":  # each place has etags of its own
                bodies = [re.sub(rb'"etag": "[^"]*"', b"", body) for body in bodies]
            assert bodies[0] == bodies[1] == bodies[2]
        fs.rm("/reshard-test", recursive=True)


class TestRepeatedUids:
    def test_copies(self, tmp_path, shards):
        pool = make_pool(shards, [30, 30])
        uids = [uid for n, (uid, _) in enumerate(pool) for _ in range(n % 4)]
        subset = write_subset(tmp_path / "s.npy", uids)
        manifest = reshard(str(shards), subset, str(tmp_path / "out"), 20, 1)
        assert read_tars(tmp_path / "out") == restated(pool, uids, 20)
        assert manifest["samples"] == {"in": 60, "removed": 0, "kept": 45, "copies": 45, "written": 90}
        assert manifest["subset"] | {"sha256": ""} == {"sha256": "", "uids": 45, "missing": 0}
        keys = [key for tar in read_tars(tmp_path / "out") for key, _ in tar]
        assert len(set(keys)) == 90

    def test_they_lie_apart(self, tmp_path, shards):
        pool = make_pool(shards, [50])
        thrice = write_subset(tmp_path / "s.npy", [uid for uid, _ in pool] * 3)
        reshard(str(shards), thrice, str(tmp_path / "out"), 50, 1)
        uids = [[json.loads(members["json"])["uid"] for _, members in tar] for tar in read_tars(tmp_path / "out")]
        assert uids == [[uid for uid, _ in pool]] * 3

    def test_plan(self):
        levels = {"a": [3, 1], "b": [], "c": [2, 2, 1]}
        assert plan_shards(levels, 4) == [
            [Run("a", 0, 0, 3), Run("c", 0, 0, 1)],
            [Run("c", 0, 1, 2), Run("a", 1, 0, 1), Run("c", 1, 0, 2)],
            [Run("c", 2, 0, 1)],
        ]

    def test_one_uid_for_two_samples(self, tmp_path, shards):
        pool = make_pool(shards, [20, 20])
        shards.joinpath("00000002.tar").write_bytes(shards.joinpath("00000000.tar").read_bytes())
        with pytest.raises(CurateError, match=r"'0{11}5' of 00000000.tar and '0{11}5' of 00000002.tar have the"):
            reshard(str(shards), write_subset(tmp_path / "s.npy", [pool[5][0]]), str(tmp_path / "out"), 20, 2)
        two = [("a.json", b'{"uid": "%s"}' % pool[5][0].encode()), ("b.json", b'{"uid": "%s"}' % pool[5][0].encode())]
        write_tar(shards / "00000002.tar", two)
        os.unlink(shards / "00000000.tar")
        with pytest.raises(CurateError, match=r"samples 'a' of 00000002.tar and 'b' of 00000002.tar have the same uid"):
            reshard(str(shards), str(tmp_path / "s.npy"), str(tmp_path / "other"), 20, 1)


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [tars.member_header(name, len(body)) + body + tars.padding(len(body)) for name, body in files]
    path.write_bytes(b"".join(parts) + tars.END)


UID = "0123456789abcdef" * 2


OTHER = "fedcba9876543210" * 2


def write_run(folder, layout):
    """Tars as the main job writes them, of (uid, copy) each, whose images are unlike."""
    for tar, samples in enumerate(layout):
        files = []
        for n, (uid, copy) in enumerate(samples):
            facts = {"uid": uid, **({"copy": copy} if copy else {}), "caption": "a dog"}
            files += [(f"{tar}{n}.jpg", b"%d %d" % (tar, n)), (f"{tar}{n}.json", json.dumps(facts).encode())]
        write_tar(folder / f"{tar:08d}.tar", files)


def read_run(folder):
    """The image and the copy of each sample, in order."""
    samples = (members for tar in read_tars(folder) for _, members in tar)
    return [(members["jpg"].decode(), json.loads(members["json"]).get("copy", 0)) for members in samples]


class TestCopiesOfTheInput:
    """A row's copies are fetched each by itself, so any of them may be missing."""

    @pytest.mark.parametrize("times", [1, 3])
    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize(
        ("layout", "read"),
        [
            ([[(UID, 0)], [(UID, 2)]], ("0 0", 0)),
            ([[(UID, 2)], [(OTHER, 0), (UID, 0)]], ("1 1", 0)),
            ([[(OTHER, 0), (UID, 3)], [], [(UID, 2)]], ("2 0", 2)),
            ([[(UID, 3)], [(UID, 1)], [(UID, 4)]], ("1 0", 1)),
            ([[(UID, 2), (UID, 1)]], ("0 1", 1)),
            ([[(UID, 12)]], ("0 0", 12)),
            ([[(UID, 2)], [(UID, 2)], [(UID, 1)]], ("2 0", 1)),
        ],
    )
    def test_the_lowest_there_is_read(self, tmp_path, shards, layout, read, times, workers):
        write_run(shards, layout)
        subset = write_subset(tmp_path / "s.npy", [UID] * times)
        manifest = reshard(str(shards), subset, str(tmp_path / "out"), 2, workers)
        assert read_run(tmp_path / "out") == [read] * times
        samples = {"in": sum(map(len, layout)), "removed": 0, "kept": 1, "copies": times - 1, "written": times}
        assert manifest["samples"] == samples
        assert manifest["subset"]["missing"] == 0
        assert [tar["kept"] for tar in manifest["shards"]] == [int(n == int(read[0][0])) for n in range(len(layout))]

    def test_only_two_of_the_same_copy_have_the_same_uid(self, tmp_path, shards):
        write_run(shards, [[(UID, 2)], [(OTHER, 0), (UID, 1)], [(UID, 1), (UID, 3)]])
        with pytest.raises(CurateError, match=r": samples '11' of 0{7}1.tar and '20' of 0{7}2.tar have the same uid"):
            reshard(str(shards), write_subset(tmp_path / "s.npy", [UID]), str(tmp_path / "out"), 2, 1)

    @pytest.mark.parametrize("torn", ["00000001.tar.npz", "00000000.tar", "sizes.json"])
    def test_a_stopped_run_goes_on_to_the_same_bytes(self, tmp_path, shards, monkeypatch, torn):
        rng = random.Random(0)
        layout = [[(f"{n:032x}", copy) for n in range(40) if rng.random() < 0.7] for copy in (2, 0, 1, 3)]
        write_run(shards, layout)
        subset = write_subset(tmp_path / "s.npy", [f"{n:032x}" for n in range(40) for _ in range(n % 3)])
        whole = reshard(str(shards), subset, str(tmp_path / "whole"), 10, 2)
        lowest = {}
        for tar in layout:
            for uid, copy in tar:
                lowest[uid] = min(copy, lowest.get(uid, copy))
        expected = [lowest[f"{n:032x}"] for n in range(40) if n % 3 and f"{n:032x}" in lowest for _ in range(n % 3)]
        assert sorted(copy for _, copy in read_run(tmp_path / "whole")) == sorted(expected)

        from pipeline import storage

        written = collections.Counter()

        def stops(write):
            def stopping(path, value):
                written[os.path.basename(path)] += 1
                # An index is written a second time without the samples that are passed over.
                if path.endswith(torn) and written[torn] == 1 + torn.endswith(".npz"):
                    raise OSError(28, "No space left on device", path)
                write(path, value)

            return stopping

        def atomic(path, atomic=storage.atomic):
            if path.endswith("/" + torn):
                raise OSError(28, "No space left on device", path)
            return atomic(path)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "write", stops(storage.write))
            patch.setattr(storage, "write_json", stops(storage.write_json))
            patch.setattr("pipeline.reshard_work.storage.atomic", atomic)
            with pytest.raises(OSError, match="No space left"):
                reshard(str(shards), subset, str(tmp_path / "out"), 10, 1)
        assert reshard(str(shards), subset, str(tmp_path / "out"), 10, 2) == whole
        assert digests(tmp_path / "out") == digests(tmp_path / "whole")


class TestSubset:
    @pytest.mark.parametrize("rows", [1, 2, 3, 1000])
    def test_find_is_bisection(self, rows):
        rng = random.Random(rows)
        near = [rng.getrandbits(3) << 64 | rng.getrandbits(3) for _ in range(rows)]
        values = sorted(rng.choice([value, rng.getrandbits(128)]) for value in near)
        uids = np.array([(v >> 64, v & (2**64 - 1)) for v in values], "u8,u8")
        wanted = [*values[:50], *near[:50], 0, 2**128 - 1, *(rng.getrandbits(128) for _ in range(50))]
        first, times = subsets.find(uids, np.array([(v >> 64, v & (2**64 - 1)) for v in wanted], "u8"))
        assert first.tolist() == [bisect.bisect_left(values, v) for v in wanted]
        assert times.tolist() == [values.count(v) for v in wanted]

    def test_facts(self, tmp_path, monkeypatch):
        monkeypatch.setattr(subsets, "_ROWS_AT_ONCE", 3)
        path = write_subset(tmp_path / "s.npy", [f"{n // 2:032x}" for n in range(20)] + ["f" * 32] * 5)
        digest = hashlib.sha256((tmp_path / "s.npy").read_bytes()).hexdigest()
        assert subsets.check(path, path) == (digest, 11)

    @pytest.mark.parametrize("step", range(1, 12))
    def test_it_must_be_sorted(self, tmp_path, monkeypatch, step):
        monkeypatch.setattr(subsets, "_ROWS_AT_ONCE", 3)
        uids = np.array([(n // 4, n) for n in range(12)], "u8,u8")
        uids[[step - 1, step]] = uids[[step, step - 1]]
        np.save(tmp_path / "s.npy", uids)
        with pytest.raises(CurateError, match=f"the uid in row {step} is smaller than the one before it, but"):
            subsets.check(str(tmp_path / "s.npy"), "s.npy")

    def test_what_is_none(self, tmp_path):
        path = tmp_path / "s.npy"
        arrays = [np.arange(4), np.zeros((2, 2), "u8,u8"), np.zeros(0, "u8,u8"), np.zeros(3, ">u8,>u8"), np.array([{}])]
        for array in arrays:
            np.save(path, array)
            with pytest.raises(CurateError, match=r"^--subset mine: .*, but DataComp's format is needed: \.npy"):
                subsets.check(str(path), "--subset mine")
        whole = io.BytesIO()
        np.save(whole, np.zeros(100, "u8,u8"))
        broken = [whole.getvalue()[:-1], whole.getvalue()[:40], whole.getvalue()[:6]]
        broken += [whole.getvalue().replace(b"(100,)", shape) for shape in (b"(((100", b"{[]:1}", b"(9**9)")]
        for body in (b"", b"uid\n", b"\x80\x04N.", b"PK\3\4", *broken):
            path.write_bytes(body)
            with pytest.raises(CurateError, match=r"^--subset mine: .*, but DataComp's format is needed"):
                subsets.check(str(path), "--subset mine")
        np.savez(tmp_path / "s.npz", a=np.zeros(1))
        with pytest.raises(CurateError, match="an archive of several arrays"):
            subsets.check(str(tmp_path / "s.npz"), "mine")


class TestBadInput:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"null",
            b"[]",
            b"{}",
            b'{"uid": null}',
            b'{"uid": 5}',
            b'{"uid": "abc"}',
            b"[" * 100_000,
            b"\xff",
            b'{"uid": "%s0"}' % UID.encode(),
            b'{"uid": "%s"}' % UID.replace("0", "g").encode(),
            b'{"meta": {"uid": "%s"}}' % UID.encode(),
            b'{"caption": "\\"uid\\": \\"%s\\""}' % UID.encode(),
            b'{"uid": "%s"}' % ("١" * 32).encode(),
            None,
        ],
    )
    def test_samples_without_a_uid(self, tmp_path, shards, body):
        members = [("a.jpg", b"1"), *([("a.json", body)] if body is not None else [])]
        write_tar(shards / "x.tar", [("0.json", b'{"uid": "%s"}' % UID.encode()), *members])
        subset = write_subset(tmp_path / "s.npy", [UID])
        with pytest.raises(CurateError, match=r"x\.tar: sample 'a' has no uid, but a json member with a \"uid\" of 32"):
            reshard(str(shards), subset, str(tmp_path / "out"), 10, 1)

    @pytest.mark.parametrize(
        "body",
        [
            f'{{"uid": "{UID}"}}',
            f' {{ "uid" :\n"{UID.upper()}" , "a": 1}}',
            f'{{"a": {{"uid": "x"}}, "uid": "{UID}"}}',
            f'{{"\\u0075id": "{UID}"}}',
            f'\t{{"uid": "{UID}", "caption": "\\ud800"}}',
        ],
    )
    def test_ways_to_write_a_uid(self, tmp_path, shards, body):
        write_tar(shards / "x.tar", [("a.json", body.encode()), ("a.jpg", b"1")])
        reshard(str(shards), write_subset(tmp_path / "s.npy", [UID]), str(tmp_path / "out"), 10, 1)
        assert read_tars(tmp_path / "out") == [[("000000000", {"json": body.encode(), "jpg": b"1"})]]

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_truncated_tar_stops_the_run_and_is_named(self, tmp_path, shards, curate, workers):
        pool = make_pool(shards, [20, 20, 20])
        subset = write_subset(tmp_path / "s.npy", [uid for uid, _ in pool])
        whole = (shards / "00000001.tar").read_bytes()
        (shards / "00000001.tar").write_bytes(whole[: len(whole) // 2])
        out = tmp_path / "out"
        done = curate("reshard", "--shards", shards, "--subset", subset, "--out", out, "--workers", workers)
        assert done.returncode == 1
        assert re.search(r"curate: .*/00000001\.tar, byte \d+: the tar is cut off: ", done.stderr)
        assert "Traceback" not in done.stderr
        assert not list(out.glob("*.tar"))
        # Mended, it goes on; the tar's size and etag are part of what was asked, so it is another run.
        (shards / "00000001.tar").write_bytes(whole)
        again = ["reshard", "--shards", shards, "--subset", subset, "--out", out, "--samples", 50]
        assert "holds another run" in curate(*again).stderr
        assert curate(*again, "--overwrite").returncode == 0
        assert read_tars(out) == restated(pool, [uid for uid, _ in pool], 50)

    def test_sentences(self, tmp_path, shards):
        make_pool(shards, [5])
        subset = write_subset(tmp_path / "s.npy", [UID])
        out = str(tmp_path / "out")
        with pytest.raises(CurateError, match=r"none of its uids is among the 5 samples of .*, but shards need some"):
            reshard(str(shards), subset, out, 10, 1)
        with pytest.raises(CurateError, match=r"no tars there, but a folder with .tar files is needed"):
            reshard(str(tmp_path / "nowhere"), subset, out, 10, 1)
        (shards / "9.tar.gz").touch()
        with pytest.raises(CurateError, match=r"shards: 9.tar.gz is compressed, but only plain tars are read."):
            reshard(str(shards), subset, out, 10, 1)
        (shards / "9.tar.gz").unlink()
        write_tar(shards / "x.tar", [("a.json", b'{"uid": "%s"}' % UID.encode()), ("a." + "e" * 81, b"")])
        with pytest.raises(CurateError, match=r"x.tar: sample 'a' has an extension of 81 bytes, but at most 80"):
            reshard(str(shards), subset, str(tmp_path / "new"), 10, 1)
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.tex").write_text("")
        with pytest.raises(CurateError, match=r"holds thesis\.tex but no run"):
            reshard(str(shards), subset, str(tmp_path / "full"), 10, 1, overwrite=True)
        for option, *args in (
            ("--shards", shards, subset, shards),
            ("--shards", shards, subset, tmp_path / "x" / ".."),
            ("--subset", shards, out + "/s.npy", out),
        ):
            with pytest.raises(CurateError, match=f"^{option} .*: lies in --out .*, but what is read must"):
                reshard(*map(str, args), 10, 1)

    @pytest.mark.parametrize("given", [".", "shards"])
    @pytest.mark.parametrize(("gone", "words"), [
        ("shards/00000001.tar", "{run}/shards: 00000001.tar is missing, but sizes.json names it."),
        ("shards/sizes.json", "{run}/shards/sizes.json: is missing, but"),
        ("manifest.json", "its run is unfinished, but shards are read when all are there."),
    ])  # fmt: skip
    def test_shards_of_a_run_are_whole(self, tmp_path, given, gone, words):
        run = tmp_path / "run"
        uids = [uid for uid, _ in make_pool(run / "shards", [3, 3])]
        (run / "run.json").write_text('{"command": "curate"}')
        (run / "manifest.json").write_text("{}")
        (run / "shards/sizes.json").write_text('{"00000000.tar": 3, "00000001.tar": 3}')
        subset = write_subset(tmp_path / "s.npy", uids)
        manifest = reshard(str(run / given), subset, str(tmp_path / "whole"), 10, 1)
        assert manifest["samples"]["written"] == 6
        (run / gone).unlink()
        with pytest.raises(CurateError) as error:
            reshard(str(run / given), subset, str(tmp_path / "out"), 10, 1)
        assert words.format(run=run) in str(error.value)
        assert not (tmp_path / "out").exists()

    def test_a_sample_too_large_to_hold(self, tmp_path, shards, monkeypatch):
        monkeypatch.setattr("pipeline.reshard_work._MAX_SAMPLE_BYTES", 2000)
        write_tar(shards / "x.tar", [("a.json", b'{"uid": "%s"}' % UID.encode()), ("a.jpg", bytes(3000))])
        with pytest.raises(CurateError, match=r"x.tar: sample 'a' has 4608 bytes, but at most 2000 are copied"):
            reshard(str(shards), write_subset(tmp_path / "s.npy", [UID]), str(tmp_path / "out"), 10, 1)

    def test_a_tar_that_shrinks_meanwhile(self, tmp_path, shards, monkeypatch):
        pool = make_pool(shards, [20])
        subset = write_subset(tmp_path / "s.npy", [uid for uid, _ in pool])

        def cut(levels, samples):
            os.truncate(shards / "00000000.tar", 9000)
            return plan_shards(levels, samples)

        monkeypatch.setattr("pipeline.reshard.plan_shards", cut)
        with pytest.raises(CurateError, match=r"00000000.tar: ends before byte"):
            reshard(str(shards), subset, str(tmp_path / "out"), 10, 1)
        assert not list((tmp_path / "out").glob("*.tar"))

    def test_command_line(self, tmp_path, curate):
        done = curate("reshard", "--shards", "a", "--subset", "b", "--out", "c", "--samples", "0")
        assert done.returncode == 2
        assert "'0' is given, but a whole number above 0 is needed" in done.stderr
        done = curate("reshard", "--shards", "a", "--subste", "b", "--out", "c")
        assert done.returncode == 2
        write_tar(tmp_path / "shards" / "x.tar", [])
        none = tmp_path / "none.npy"
        done = curate("reshard", "--shards", tmp_path / "shards", "--subset", none, "--out", tmp_path / "out")
        assert done.returncode == 1
        assert done.stderr.startswith(f"curate: {none}: No such file or directory, but it must be there. ")
        assert done.stderr.count("\n") == 1


def times(folder):
    """When each tar and what is said of them was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "run.json"}


class TestAgain:
    def test_a_finished_run_does_nothing_and_says_so(self, tmp_path, shards, curate):
        pool = make_pool(shards, [20, 20])
        subset = write_subset(tmp_path / "s.npy", [uid for uid, _ in pool[::2]])
        out = tmp_path / "out"
        command = ["reshard", "--shards", shards, "--subset", subset, "--out", out, "--samples", 8]
        first = curate(*command)
        assert first.returncode == 0
        assert re.search(r"kept +20 +\(50\.0%\)\n", first.stdout)
        assert "nothing to do" not in first.stdout
        before = times(out)
        second = curate(*command, "--workers", 1)
        assert second.returncode == 0
        assert "is finished already: nothing to do" in second.stdout
        assert times(out) == before

    def test_another_run_is_refused_unless_overwritten(self, tmp_path, shards):
        pool = make_pool(shards, [20, 20])
        one = write_subset(tmp_path / "one.npy", [uid for uid, _ in pool])
        two = write_subset(tmp_path / "two.npy", [uid for uid, _ in pool[:9]])
        out = tmp_path / "out"
        reshard(str(shards), one, str(out), 10, 1)
        before = digests(out)
        for change in ((two, 10), (one, 11)):
            with pytest.raises(CurateError, match=r"holds another run .* Give another --out, or --overwrite"):
                reshard(str(shards), change[0], str(out), change[1], 1)
        assert digests(out) == before
        reshard(str(shards), two, str(out), 10, 1, overwrite=True)
        assert read_tars(out) == restated(pool, [uid for uid, _ in pool[:9]], 10)

    @pytest.mark.parametrize("finished", [True, False])
    def test_a_tar_of_the_same_size_with_other_bytes_is_another_input(self, tmp_path, shards, monkeypatch, finished):
        pool = make_pool(shards, [20, 20])
        asked = (str(shards), write_subset(tmp_path / "s.npy", [uid for uid, _ in pool]), str(tmp_path / "out"), 10, 1)
        if finished:
            manifest = reshard(*asked)
            assert "etag" not in (tmp_path / "out/manifest.json").read_text()
        else:
            monkeypatch.setattr("pipeline.reshard.plan_shards", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                reshard(*asked)
            monkeypatch.undo()
        path = shards / "00000001.tar"
        before = path.stat()
        path.write_bytes(path.read_bytes().replace(b"caption", b"CAPTION"))
        assert path.stat().st_size == before.st_size
        with pytest.raises(CurateError, match=r"holds another run \(of its pool 00000001\.tar has changed\)"):
            reshard(*asked)
        again = reshard(*asked, overwrite=True)
        assert b"CAPTION" in (tmp_path / "out/00000003.tar").read_bytes()
        if finished:
            assert again["shards"] == manifest["shards"]
            assert again["outputs"] != manifest["outputs"]

    def test_a_folder_of_the_main_job_is_refused(self, tmp_path, shards):
        pool = make_pool(shards, [5])
        subset = write_subset(tmp_path / "s.npy", [uid for uid, _ in pool])
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.json").write_text('{"command": "curate", "pool": "commoncrawl"}')
        (tmp_path / "run" / "manifest.json").write_text('{"finished": "shards"}')
        for overwrite in (False, True):
            with pytest.raises(CurateError, match=r"holds another run \(command was curate, now reshard\)"):
                reshard(str(shards), subset, str(tmp_path / "run"), 10, 1, overwrite)
        assert (tmp_path / "run" / "manifest.json").exists()

    def test_workers_do_not_change_bytes(self, tmp_path, shards):
        pool = make_pool(shards, [30, 5, 30, 30])
        subset = write_subset(tmp_path / "s.npy", [uid for uid, _ in pool] + [uid for uid, _ in pool[::3]])
        for workers in (1, 2, 5, 10**12):  # as many as there are tars at most
            reshard(str(shards), subset, str(tmp_path / str(workers)), 16, workers)
            assert digests(tmp_path / "1") == digests(tmp_path / str(workers))

    def test_whole_tars_are_kept_and_torn_ones_made_again(self, tmp_path, shards):
        pool = make_pool(shards, [30, 30])
        uids = [uid for uid, _ in pool]
        subset = write_subset(tmp_path / "s.npy", uids)
        out = tmp_path / "out"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.reshard.storage.write_json", self.fails_for("sizes.json"))
            with pytest.raises(OSError, match="No space left"):
                reshard(str(shards), subset, str(out), 10, 1)
        before = times(out)
        assert set(before) == {*(f"{n:08d}.tar" for n in range(6)), "work"}
        (out / "00000002.tar").unlink()
        os.truncate(out / "00000003.tar", 1024)
        (out / ".00000004.tar.0123456789ab.tmp").write_bytes(b"half of it")
        reshard(str(shards), subset, str(out), 10, 1)
        kept = {path.name for path in out.glob("*.tar") if times(out)[path.name] == before[path.name]}
        assert kept == {f"{n:08d}.tar" for n in (0, 1, 4, 5)}
        assert read_tars(out) == restated(pool, uids, 10)
        assert not [name for name in os.listdir(out) if name.startswith(".") or name == "work"]

    @staticmethod
    def fails_for(name):
        from pipeline import storage

        write = storage.write_json

        def write_json(path, value):
            if path.endswith(name):
                raise OSError(28, "No space left on device", path)
            write(path, value)

        return write_json

    def test_a_worker_that_dies_ends_the_run(self, tmp_path, shards, monkeypatch):
        pool = make_pool(shards, [10, 10])
        subset = write_subset(tmp_path / "s.npy", [uid for uid, _ in pool])
        monkeypatch.setattr("pipeline.reshard_work.sample_uid", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(CurateError, match="a worker process died"):
            reshard(str(shards), subset, str(tmp_path / "out"), 10, 2)

    @pytest.mark.slow
    def test_killed_anywhere_it_goes_on_to_the_same_bytes(self, tmp_path, shards):
        pool = make_pool(shards, [1500] * 6)
        subset = write_subset(tmp_path / "s.npy", [uid for uid, _ in pool] * 2)

        def command(out):
            return [
                sys.executable,
                "-m",
                "jobs.cli",
                "reshard",
                "--shards",
                str(shards),
                "--subset",
                subset,
                "--out",
                str(out),
                "--samples",
                "1000",
                "--workers",
                "2",
            ]

        start = time.monotonic()
        subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
        whole_s = time.monotonic() - start
        expected, rng, killed = digests(tmp_path / "whole"), random.Random(0), 0
        for trial in range(4):
            out = tmp_path / str(trial)
            for _ in range(3):
                process = subprocess.Popen(
                    command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
                )
                time.sleep(rng.uniform(0.1, whole_s))
                process.kill()
                killed += process.wait() == -signal.SIGKILL
                while in_session(process.pid):  # its workers, which hold its lock, end by themselves
                    time.sleep(0.01)
            subprocess.run(command(out), check=True, capture_output=True)
            assert digests(out) == expected
            assert not [name for name in os.listdir(out) if name.startswith(".")]
        assert killed  # the others ended before they were killed

    @pytest.mark.slow
    def test_workers_end_with_a_killed_parent(self, tmp_path, shards):
        make_pool(shards, [1500] * 4)
        subset = write_subset(tmp_path / "s.npy", [UID])
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jobs.cli",
                "reshard",
                "--shards",
                str(shards),
                "--subset",
                subset,
                "--out",
                str(tmp_path / "out"),
                "--workers",
                "2",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while len(in_session(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while in_session(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not in_session(process.pid)


def in_session(session):
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.getsid(int(name)) == session:
                found.append(name)
        except ProcessLookupError:
            pass
    return found
