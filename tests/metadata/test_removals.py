"""Removal lists: every form of file, every kind of value, and a sentence that names the line for every mistake."""

import gzip
import hashlib
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metadata import removals
from metadata.errors import CurateError

UIDS = [hashlib.md5(str(n).encode()).hexdigest() for n in range(300)]


def found(path: pathlib.Path, by: str, values: list[str | None]) -> list[bool]:
    packed = removals.read(str(path), by).packed
    return removals.Lookup(pa.py_buffer(packed), by).find(pa.array(values, pa.string())).tolist()


def write(path: pathlib.Path, data: str | bytes) -> pathlib.Path:
    data = data if isinstance(data, bytes) else data.encode()
    path.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)
    return path


def as_csv(uids: list[str]) -> str:
    return 'note,uid\r\n"a, b",' + "\r\n,".join(uids) + "\r\n"


FILES = {
    "list.txt": lambda uids: "\n".join(uids),
    "list": lambda uids: "\ufeff" + "\r\n".join(["", *uids, "", ""]),
    "list.txt.gz": lambda uids: "\n".join(uids) + "\n",
    "list.csv": as_csv,
    "list.csv.gz": as_csv,
    "LIST.CSV": as_csv,
    "list.Csv.GZ": as_csv,
}


@pytest.mark.parametrize("name", FILES)
def test_text_and_csv(name: str, tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / name, FILES[name]([*UIDS[:100], UIDS[3].upper()]))
    assert found(path, "uid", [*UIDS, None, "", UIDS[7].upper()]) == [True] * 100 + [False] * 202 + [True]
    read = removals.read(str(path), "uid")
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.values == 100


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"uid": UIDS[:50], "url": UIDS[:50]}),
        pa.table({"anything": pa.array(UIDS[:50], pa.large_string())}),
        pa.table({"anything": pa.array(UIDS[:50]).dictionary_encode()}),
    ],
)
def test_parquet(table: pa.Table, tmp_path: pathlib.Path) -> None:
    pq.write_table(table, tmp_path / "list.parquet", row_group_size=20)
    assert found(tmp_path / "list.parquet", "uid", UIDS) == [True] * 50 + [False] * 250
    (tmp_path / "list.parquet").rename(tmp_path / "LIST.PARQUET")
    assert found(tmp_path / "LIST.PARQUET", "uid", UIDS) == [True] * 50 + [False] * 250


def test_urls_are_the_same_to_the_last_byte(tmp_path: pathlib.Path) -> None:
    urls = ["http://a.test/x", 'http://a.test/"x",y', "http://a.test/ü", "not a url"]
    path = write(tmp_path / "urls.txt", "\n".join(urls))
    others = ["http://a.test/X", "http://a.test/x ", "http://a.test/x/", "HTTP://a.test/x", "http://a.test/u\u0308"]
    assert found(path, "url", [*urls, *others]) == [True] * 4 + [False] * 5


def test_sha256_are_the_same_in_either_case(tmp_path: pathlib.Path) -> None:
    hashes = [hashlib.sha256(uid.encode()).hexdigest() for uid in UIDS]
    path = write(tmp_path / "hashes.txt", "\n".join([hashes[0].upper(), hashes[1]]))
    assert found(path, "sha256", [hashes[0], hashes[1].upper(), hashes[2], None]) == [True, True, False, False]


def test_a_domain_stands_for_all_below_it(tmp_path: pathlib.Path) -> None:
    listed = ["example.com", "Sub.Example.ORG.", "bücher.test", "xn--r8jz45g.xn--zckzah", "10.0.0.1", "uk"]
    path = write(tmp_path / "domains.txt", "\n".join(listed))
    inside = ["http://example.com/x", "https://a.b.EXAMPLE.com:8443/", "http://u:p@example.com", "http://sub.example.org",
              "http://www.xn--bcher-kva.test/", "http://BÜCHER.test/", "http://例え.テスト/", "http://10.0.0.1/",
              "http://example.co.uk/"]  # fmt: skip
    outside = ["http://example.com.evil.test/", "http://notexample.com/", "http://example.org/", "http://0.0.1/",
               "http://other.test/?u=http://example.com/", "http://9.10.0.0.1/", "http://[::1]/", "example.com", "",
               None]  # fmt: skip
    assert found(path, "domain", inside) == [True] * len(inside)
    assert found(path, "domain", outside) == [False] * len(outside)


def test_no_rows_at_all(tmp_path: pathlib.Path) -> None:
    for by in ("url", "domain"):
        assert found(write(tmp_path / "list.txt", "example.com"), by, []) == []
        assert found(tmp_path / "list.txt", by, [None]) == [False]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=4)), st.lists(st.text(max_size=4)))
def test_equal_to_a_set(listed: list[str], values: list[str]) -> None:
    keys = np.unique(removals._keys(pa.array([*listed, "x"], pa.string()), "url"))
    packed = removals.pack(keys)
    assert removals.Lookup(packed, "url").find(pa.array(values, pa.string())).tolist() == [
        value in {*listed, "x"} for value in values
    ]


def test_ten_thousands_of_lines_take_a_dozen_bytes_each(tmp_path: pathlib.Path) -> None:
    urls = [f"http://a.test/{n}" for n in range(200_000)]  # more than are read at once
    path = write(tmp_path / "urls.txt", "\n".join(urls))
    assert len(removals.read(str(path), "url").packed) < 16 * len(urls)
    assert found(path, "url", [urls[0], urls[-1], "http://a.test/x"]) == [True, True, False]


MISTAKES = [
    ("none.txt", None, "uid", "it can't be read (No such file or directory), but it is the removal list."),
    ("list.txt", "", "uid", "it has no value, but a removal list has some."),
    ("list.txt", "\n\n", "url", "it has no value"),
    ("list.csv", "uid\n", "uid", "it has no value"),
    ("list.txt", f"{UIDS[0]}\n\n{UIDS[1]}x\n", "uid", f"line 3 is '{UIDS[1]}x', but 32 hexadecimal digits are needed."),
    ("list.txt", f" {UIDS[0]}", "uid", f"line 1 is ' {UIDS[0]}'"),
    ("list.txt", UIDS[0], "sha256", f"line 1 is '{UIDS[0]}', but 64 hexadecimal digits are needed."),
    ("list.csv", f"uid\n{UIDS[0]}\n\x1b[31m\n", "uid", "line 3 is '\\x1b[31m', but 32 hexadecimal"),
    ("list.csv", f"uid,n\n{UIDS[0]},1\n,2\n", "uid", "line 3 is '', but 32"),
    ("list.csv", "url,n\n,2\n", "url", "line 2 is '', but a url is needed."),
    ("list.csv", "uid\n\n\n\nbad", "uid", "line 5 is 'bad', but 32"),
    pytest.param("list.csv", f"url,n\nx,{'n' * 140_000}\n,x\n", "url", "line 3 is '', but a url", id="a long field"),
    ("list.csv.gz", f'\n"n",uid\r\n"a\n\nb",{UIDS[0]}\r\n\r\n1,bad', "uid", "line 7 is 'bad', but 32"),
    ("list.csv", "\n".join(UIDS), "uid", "its first line names no column uid, but a CSV file needs one."),
    ("list.csv", "uid,n\na\n", "uid", "Expected 2 columns, got 1"),
    ("list.csv", "", "uid", "it is damaged (Empty CSV file)"),
    ("list.txt", b"\xff\xfe", "url", "it is damaged ('utf-8' codec can't decode byte 0xff"),
    ("list.txt", "example.com\nhttp://example.com/", "domain", "line 2 is 'http://example.com/', but a domain such as"),
    ("list.txt", "*.example.com", "domain", "line 1 is '*.example.com', but a domain such as example.com is needed."),
    ("list.txt", ".", "domain", "line 1 is '.', but a domain"),
    ("list.txt", 'http://a.test/\n"http://b.test/"', "url", "line 2 is '\"http://b.test/\"', but a line of text is"),
    ("list.txt", "\n'http://b.test/'", "url", 'line 2 is "\'http://b.test/\'", but a line of text is a url alone'),
    ("list.txt", "http://b.test/ ", "url", "line 1 is 'http://b.test/ ', but a line of text is a url alone"),
    ("list.txt", " http://b.test/", "url", "line 1 is ' http://b.test/', but a line of text is a url alone"),
    ("list.tsv", "url\treason\nhttp://b.test/\tx", "url", "line 1 is 'url\\treason', but"),
    ("list.json", '["http://b.test/"]', "url", "line 1 is '[\"http://b.test/\"]', but"),
    ("list.jsonl", '{"url": "http://b.test/"}', "url", "and a table is in .csv or .parquet. Mend it, or take it out."),
    ("list.parquet", pa.table({"a": UIDS, "b": UIDS}), "uid", "it has columns a, b, but one named uid is needed"),
    ("list.parquet", pa.table({"uid": range(3)}), "uid", "its column uid is int64, but strings are needed."),
    ("list.parquet", pa.table({"uid": [UIDS[0], None]}), "uid", "row 1 is '', but 32 hexadecimal digits"),
    ("list.parquet", b"PAR1 and no more", "uid", "it is damaged"),
    ("list.txt", UIDS[0], "name", "unknown kind of removal list 'name'. Known: uid, sha256, url, domain."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "by", "words"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes(name: str, content: str | bytes | pa.Table | None, by: str, words: str, tmp_path: pathlib.Path):
    path = tmp_path / name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    elif content is not None:
        write(path, content)
    with pytest.raises(CurateError) as error:
        removals.read(str(path), by)
    assert words in str(error.value)
    assert "\x1b" not in str(error.value)
    assert by == "name" or str(error.value).startswith(str(path))


def test_what_is_cut_off_is_no_list(tmp_path: pathlib.Path) -> None:
    whole = gzip.compress("\n".join(UIDS).encode())
    for data in (whole[:-20], whole[:40] + bytes(40) + whole[80:], b"no gzip"):
        (tmp_path / "list.txt.gz").write_bytes(data)
        with pytest.raises(CurateError, match=r"list\.txt\.gz: it (is damaged|can't be read) \("):
            removals.read.__wrapped__(str(tmp_path / "list.txt.gz"), "uid")
    for address in ("nowhere://bucket/list.txt", "s3"):
        with pytest.raises(CurateError, match="it can't be read"):
            removals.read(address, "uid")
