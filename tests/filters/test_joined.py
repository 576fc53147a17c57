"""JoinedScore gives each uid the score that the files have for it, however they are cut, and sorts them in parts."""

import hashlib
import pathlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import joined
from filters.joined import JoinedScore
from metadata.errors import CurateError


def uid(n: int) -> str:
    return hashlib.md5(str(n).encode()).hexdigest()


def written(path: pathlib.Path, uids: list, **columns: list) -> str:
    arrays = {name: values if isinstance(values, pa.Array) else pa.array(values, pa.float32(), from_pandas=False)
              for name, values in columns.items()}  # fmt: skip
    pq.write_table(pa.table({"uid": pa.array(uids, pa.string()), **arrays}), path, row_group_size=7)
    return str(path)


def scored(paths: list[str], uids: list[str], column: str = "dfn") -> list[float | None]:
    scorer = JoinedScore(column, tuple(paths))
    found = scorer.load(scorer.build())(pa.record_batch({"uid": pa.array(uids, pa.string())}))
    assert found.type == pa.float32()
    return found.to_pylist()


def test_each_uid_gets_its_score_whatever_the_order(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    scores = {uid(n): float(np.float32(draw.gauss(0, 1))) for n in range(1000)}
    order = draw.sample(sorted(scores), 1000)
    paths = [written(tmp_path / f"{n}.parquet", order[n::3], dfn=[scores[u] for u in order[n::3]]) for n in range(3)]
    asked = draw.sample([*order, *(uid(n) for n in range(1000, 1200))], 700)
    expected = [scores.get(u) for u in asked]
    assert scored(paths, asked) == scored(paths[::-1], asked) == expected
    assert None in expected
    assert scored(paths, [u.upper() for u in asked]) == expected
    for rows in (500, 1, 10_000):  # in 4, in 1024 and in 2 parts
        monkeypatch.setattr(joined, "_PART_ROWS", rows)
        assert scored(paths, asked) == expected
    assert scored(paths, []) == []


WORDS = st.sampled_from([0, 1, 2**63, 2**64 - 1])


@settings(max_examples=150)
@given(held=st.dictionaries(st.tuples(WORDS, WORDS), st.sampled_from([0.5, -1.0, None]), max_size=12),
       asked=st.lists(st.tuples(WORDS, WORDS), max_size=12))  # fmt: skip
def test_uids_that_share_a_word_are_told_apart(
    held: dict, asked: list, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def text(words: tuple[int, int]) -> str:
        return f"{words[0]:016x}{words[1]:016x}"

    held = {**held, (7, 7): 7.0}
    path = written(tmp_path_factory.mktemp("scores") / "a.parquet", [*map(text, held)], dfn=list(held.values()))
    assert scored([path], [text(words) for words in asked]) == [held.get(words) for words in asked]


def test_null_nan_and_infinity_are_no_score(tmp_path: pathlib.Path) -> None:
    uids = [uid(n) for n in range(6)]
    nothing = written(tmp_path / "a.parquet", uids, dfn=[None, float("nan"), float("inf"), -float("inf"), 1.0, -0.0])
    assert scored([nothing], uids) == [None, None, None, None, 1.0, 0.0]
    again = written(tmp_path / "b.parquet", uids[:1], dfn=[3.0])  # so this is no repeat
    assert scored([nothing, again], uids)[0] == 3.0


@pytest.mark.parametrize("kind", [pa.float64(), pa.int8(), pa.uint64()], ids=str)
def test_any_number_will_do(tmp_path: pathlib.Path, kind: pa.DataType) -> None:
    values = pa.array(np.array([3, 2], kind.to_pandas_dtype()), kind)
    assert scored([written(tmp_path / "a.parquet", [uid(0), uid(1)], dfn=values)], [uid(1), uid(0)]) == [2.0, 3.0]


def test_a_column_is_gathered_from_the_files_that_have_it(tmp_path: pathlib.Path) -> None:
    a = written(tmp_path / "a.parquet", [uid(0)], dfn=[1], l14=[2])
    b = written(tmp_path / "b.parquet", [uid(1)], l14=[3])
    found = joined.sources(str(tmp_path / "*.parquet"), ["dfn", "l14", "b32"], "mine")
    assert found == {"dfn": (a,), "l14": (a, b), "b32": ()}
    assert joined.sources(b, ["l14"], "mine") == {"l14": (b,)}


def test_the_hash_is_of_the_contents(tmp_path: pathlib.Path) -> None:
    a = written(tmp_path / "a.parquet", [uid(0)], dfn=[1])
    b = written(tmp_path / "b.parquet", [uid(0)], dfn=[1])
    assert joined.sha256([a]) == joined.sha256([b]) != joined.sha256([a, b])


def test_a_uid_with_two_scores_is_named_with_its_files(tmp_path: pathlib.Path) -> None:
    a = written(tmp_path / "a.parquet", [uid(n) for n in range(50)], dfn=range(50))
    b = written(tmp_path / "b.parquet", [uid(n) for n in range(50, 60)], dfn=range(10))
    c = written(tmp_path / "c.parquet", [uid(70), uid(30)], dfn=[1, 2])
    with pytest.raises(CurateError, match=rf"^{a} and {c}: uid {uid(30)} has a dfn twice, but .* Remove one of them\."):
        JoinedScore("dfn", (a, b, c)).build()


def twice(path: pathlib.Path, names: list[str]) -> None:
    arrays = {"uid": pa.array([uid(0)]), "dfn": pa.array([1.0])}
    pq.write_table(pa.Table.from_arrays([arrays[name] for name in names], names), path)


def raw(path: pathlib.Path) -> None:
    uids = pa.array([bytes.fromhex(uid(0))], pa.binary(16))
    pq.write_table(pa.table({"uid": uids, "dfn": [1.0]}), path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, r"no file fits '.*', but scores are read from there"),
        (lambda path: path.write_bytes(b"PAR1"), r"a\.parquet: it can't be read \(.*\), but scores are in parquet"),
        (lambda path: pq.write_table(pa.table({"id": ["a"], "dfn": [1.0]}), path), "its columns are id, dfn, but"),
        (lambda path: pq.write_table(pa.table({"uid": [uid(0)], "dfn": ["1"]}), path), "column 'dfn' is string, but"),
        (lambda path: pq.write_table(pa.table({"uid": [[1]], "dfn": [1.0]}), path), "column 'uid' is list<.*>, but a"),
        (lambda path: pq.write_table(pa.table({"uid": [1], "dfn": [1.0]}), path), "column 'uid' is int64, but a"),
        (lambda path: written(path, [uid(0), uid(1)], dfn=pa.array([None, -1e300])),
         r"a\.parquet: column 'dfn' has -1e\+300, but .* float32, which ends at 3\.4e\+38\. Scale them down\.$"),
        (raw, r"a\.parquet: the uid of row 0 is '\\\\xcf\\\\xcd.*', but a uid is 32 hexadecimal digits"),
        (lambda path: twice(path, ["uid", "uid", "dfn"]), "a.parquet: column 'uid' is there 2 times, but"),
        (lambda path: twice(path, ["uid", "dfn", "dfn"]), "a.parquet: column 'dfn' is there 2 times, but"),
        (lambda path: written(path, ["abc"], dfn=[1]), r"uid of row 0 is 'abc', .* Mend the file, or leave it out\.$"),
        (lambda path: written(path, [None], dfn=[1]), r"of row 0 is null, .* Remove such rows, or leave it out\.$"),
        (lambda path: written(path, [uid(0)], dfn=[None]), r"a\.parquet: no row has a dfn, but it has a weight"),
    ],
)
def test_files_that_are_none(tmp_path: pathlib.Path, make, words: str) -> None:
    make(tmp_path / "a.parquet")
    with pytest.raises(CurateError, match=words):
        JoinedScore("dfn", joined.sources(str(tmp_path / "a*"), ["dfn"], "mine")["dfn"]).build()


def test_a_damaged_page_is_named(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(written(tmp_path / "a.parquet", [uid(n) for n in range(100)], dfn=range(100)))
    data = bytearray(path.read_bytes())
    data[40:400] = bytes(360)
    path.write_bytes(data)
    with pytest.raises(CurateError, match=r"a\.parquet: row group 0 can't be read \(.*\), but every score is"):
        JoinedScore("dfn", (str(path),)).build()


def test_no_room_in_the_temporary_folder_is_said(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(CurateError, match=r"none: 20 bytes can't be had \(No such file.*\), but .* set TMPDIR"):
        JoinedScore("dfn", (written(tmp_path / "a.parquet", [uid(0)], dfn=[1]),)).build()
