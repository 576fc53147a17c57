"""A reshard with removal lists: what is listed is left out and counted, by whatever its json members say."""

import hashlib
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest

from metadata.errors import CurateError
from pipeline.reshard import reshard

UIDS = [hashlib.md5(str(n).encode()).hexdigest() for n in range(120)]
HASHES = [hashlib.sha256(uid.encode()).hexdigest() for uid in UIDS]


def facts_of(n: int) -> dict:
    host = "www.example.com" if n % 10 == 0 else "other.test"
    return {"uid": UIDS[n], "sha256": None if n % 7 == 0 else HASHES[n], "url": f"http://{host}/{n}\ud800"}


def write_shards(folder: pathlib.Path, bodies: list[bytes], tars: int = 3) -> str:
    folder.mkdir()
    for tar in range(tars):
        with tarfile.open(folder / f"{tar:05d}.tar", "w") as file:
            for n, body in list(enumerate(bodies))[tar::tars]:
                for extension, data in (("jpg", b"image"), ("json", body)):
                    info = tarfile.TarInfo(f"{n:09d}.{extension}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))
    return str(folder)


@pytest.fixture
def shards(tmp_path: pathlib.Path) -> str:
    return write_shards(tmp_path / "in", [json.dumps(facts_of(n)).encode() for n in range(len(UIDS))])


@pytest.fixture
def subset(tmp_path: pathlib.Path) -> str:
    """The first 100, of which the first 20 twice."""
    numbers = sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in UIDS[:100] + UIDS[:20])
    np.save(tmp_path / "subset.npy", np.array(numbers, "u8,u8"))
    return str(tmp_path / "subset.npy")


def written(folder: pathlib.Path) -> list[int]:
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            bodies = [tar.extractfile(member).read() for member in tar if member.name.endswith(".json")]
        found += [UIDS.index(json.loads(body)["uid"]) for body in bodies]
    return sorted(found)


#: What a list has, its lines, and which samples go.
LISTS = [
    ("uid", [uid.upper() for uid in UIDS[::4]], set(range(0, 120, 4))),
    ("sha256", HASHES[::3], {n for n in range(0, 120, 3) if n % 7}),
    ("url", [f"http://other.test/{n}\ufffd" for n in range(9)], set(range(1, 9))),  # for half a character
    ("domain", ["Example.com"], set(range(0, 120, 10))),
]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("lists", [*([one] for one in LISTS), LISTS[:2], LISTS], ids=lambda x: str(len(x)))
def test_what_is_listed_is_left_out(lists, workers: int, shards, subset, tmp_path):
    remove, gone = [], set()
    for by, lines, numbers in lists:
        (tmp_path / f"{by}.txt").write_text("\n".join(lines), encoding="utf-8")
        remove.append((by, str(tmp_path / f"{by}.txt")))
        gone |= numbers
    manifest = reshard(shards, subset, str(tmp_path / "out"), 25, workers, remove=remove)
    stay = [n for n in range(100) if n not in gone]
    assert written(tmp_path / "out") == sorted(stay + [n for n in stay if n < 20])
    copies = sum(n < 20 for n in stay)
    assert manifest["samples"] == {"in": 120, "removed": 100 - len(stay), "kept": len(stay), "copies": copies,
                                   "written": len(stay) + copies}  # fmt: skip
    assert manifest["subset"]["missing"] == 0
    assert [found["by"] for found in manifest["removals"]] == [by for by, _ in remove]


def write_list(path: pathlib.Path, *lines: str) -> str:
    path.write_text("\n".join(lines))
    return str(path)


def test_samples_of_one_uid_that_are_all_listed_are_one_removed(subset, tmp_path):
    shards = write_shards(tmp_path / "in", [json.dumps(facts_of(n)).encode() for n in (0, 1, 2, 3, 1, 1)])
    lists = [("uid", write_list(tmp_path / "a.txt", UIDS[1]))]
    manifest = reshard(shards, subset, str(tmp_path / "out"), 25, 1, remove=lists)
    assert written(tmp_path / "out") == [0, 0, 2, 2, 3, 3]
    assert manifest["samples"] == {"in": 6, "removed": 1, "kept": 3, "copies": 3, "written": 6}
    assert manifest["subset"]["missing"] == 100 - 4
    with pytest.raises(CurateError, match=r"samples '000000001' of 0{4}1.tar and .* have the same uid"):
        reshard(shards, subset, str(tmp_path / "all"), 25, 1)


def test_a_copy_that_is_not_listed_stands_for_one_that_is(subset, tmp_path):
    """What is at a row's address may have changed between two fetches."""
    first = {"uid": UIDS[1], "sha256": HASHES[1]}
    second, third = ({"uid": UIDS[1], "copy": n, "sha256": HASHES[n]} for n in (2, 3))
    shards = write_shards(tmp_path / "in", [json.dumps(facts).encode() for facts in (third, first, second)])
    for gone, copy in ((1,), 2), ((1, 2), 3), ((2,), 0):
        out = tmp_path / str(copy)
        lists = [("sha256", write_list(tmp_path / f"{copy}.txt", *(HASHES[n] for n in gone)))]
        manifest = reshard(shards, subset, str(out), 1, 1, remove=lists)
        assert manifest["samples"] == {"in": 3, "removed": 0, "kept": 1, "copies": 1, "written": 2}
        with tarfile.open(out / "00000001.tar") as tar:
            (body,) = [tar.extractfile(member) for member in tar if member.name.endswith(".json")]
            assert json.load(body).get("copy", 0) == copy
    lists = [("uid", write_list(tmp_path / "a.txt", UIDS[1]))]
    with pytest.raises(CurateError, match=r"--remove: all 1 samples of .* that are in the subset are on a list"):
        reshard(shards, subset, str(tmp_path / "none"), 1, 1, remove=lists)


def test_the_command(shards, subset, tmp_path, curate):
    (tmp_path / "a.txt").write_text(UIDS[0])
    (tmp_path / "b.csv").write_text("domain\nexample.com\n")
    out = tmp_path / "out"
    command = ["reshard", "--shards", shards, "--subset", subset, "--out", out, "--workers", 2]
    lists = ["--remove", tmp_path / "a.txt", "--by", "uid", "--remove", tmp_path / "b.csv", "--by", "domain"]
    done = curate(*command, *lists)
    assert done.returncode == 0, done.stderr
    assert "removed                  10  of them that are in the subset and on a list\n" in done.stdout
    assert "nothing to do" in curate(*command, *lists).stdout
    assert "holds another run" in curate(*command).stderr
    assert "--remove is given 2 times, but --by 1 times." in curate(*command, *lists[:-2]).stderr


MISTAKES = [
    ("sha256", b'{"uid": "%s"}', 'sample \'000000000\' has no "sha256" in its json member, but --remove looks for it'),
    ("url", b'{"uid": "%s", "url": 5}', 'has no "url" in its json member'),
    ("sha256", b'{"uid": "%s", ', "has a json member that is no JSON, but --remove looks into it"),
    ("uid", b'{"uid": "%s"}', "--remove: all 1 samples of"),
]


@pytest.mark.parametrize(("by", "body", "words"), MISTAKES)
def test_mistakes(by: str, body: bytes, words: str, subset, tmp_path):
    shards = write_shards(tmp_path / "one", [body % UIDS[0].encode()], tars=1)
    (tmp_path / "list.txt").write_text({"uid": UIDS[0], "url": "x"}.get(by, HASHES[0]))
    with pytest.raises(CurateError) as error:
        reshard(shards, subset, str(tmp_path / "out"), 10, 1, remove=[(by, str(tmp_path / "list.txt"))])
    assert words in str(error.value)
