"""Evaluation sets are read whole or not at all, and what is wrong with one is said with its file and sample."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from task_sets import npy, write_tar

from metadata.errors import CurateError
from pipeline import task_files


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Two tars of a classification task with metadata."""
    folder = tmp_path / "wds_x_test"
    write_tar(folder / "test/0.tar", [("s0.cls", b"1\n"), ("s0.webp", b"a"), ("s0.npy", npy(np.array([2, 0.5])))])
    write_tar(folder / "test/1.tar", [("s1.jpg", b"b"), ("s1.cls", b"0"), ("s2.PNG", b"c"), ("s2.cls", b"2")])
    (folder / "test/nshards.txt").write_text("2\n")
    (folder / "classnames.txt").write_text("cat\ndog \nred star\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\n{c}")
    return folder


def test_classes(folder):
    files = task_files.look(str(folder))
    assert files.classes == ["cat", "dog", "red star"]
    assert files.templates == ["a photo of a {c}.", "{c}"]
    first, *rest = files.samples()
    assert first[:3] == (f"{folder}/test/0.tar: s0", b"a", 1)
    assert first.metadata.tolist() == [2, 0.5]
    assert rest == [(f"{folder}/test/1.tar: s1", b"b", 0, None), (f"{folder}/test/1.tar: s2", b"c", 2, None)]


def test_captions(folder):
    (folder / "dataset_type.txt").write_text("Retrieval\n")
    write_tar(folder / "test/0.tar", [("s0.jpg", b"a"), ("s0.txt", b"ein Stern\na star")])
    write_tar(folder / "test/1.tar", [("s1.jpg", b"b"), ("s1.txt", b"\xff")])
    samples = task_files.look(str(folder)).samples()
    assert next(samples).label == ["ein Stern", "a star"]
    with pytest.raises(CurateError, match=r"1\.tar: s1: captions that are no UTF-8 \(.*Get the evaluation set again"):
        next(samples)


def test_parquet(tmp_path):
    image = {"bytes": b"a", "path": "a.jpg"}
    path = tmp_path / "flickr/TEST/test/0000.parquet"
    path.parent.mkdir(parents=True)
    rows = [{"image": image, "caption": ["one", "two"], "split": "test"}, {"image": image, "caption": []}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    samples = task_files.look(str(tmp_path / "flickr")).samples()
    assert next(samples) == (f"{path}: row 0", b"a", ["one", "two"], None)
    with pytest.raises(CurateError, match=r"0000\.parquet: row 1: lacks the image's bytes or a caption, but"):
        next(samples)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CurateError, match=r"0000\.parquet: can't be read \("):
        next(task_files.look(str(tmp_path / "flickr")).samples())


@pytest.mark.parametrize(
    "row",
    [
        {"image": b"a", "caption": 5},
        {"image": b"a", "caption": [1, 2]},
        {"image": b"a", "caption": ["a", None]},
        {"image": b"a", "caption": {"raw": "a"}},
        {"image": b"a", "caption": ""},
        {"image": "a.jpg", "caption": "a"},
        {"image": [b"a"], "caption": "a"},
    ],
)
def test_rows_of_other_types(tmp_path, row):
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "0.parquet")
    with pytest.raises(CurateError, match=r"row 0: lacks the image's bytes or a caption, but"):
        next(task_files.look(str(tmp_path)).samples())


def test_a_caption_alone(tmp_path):
    pq.write_table(pa.Table.from_pylist([{"image": b"a", "caption": "one"}]), tmp_path / "0.parquet")
    assert list(task_files.look(str(tmp_path)).samples()) == [(f"{tmp_path}/0.parquet: row 0", b"a", ["one"], None)]


@pytest.mark.parametrize(
    "change",
    [
        {"cue": 5},
        {"cue": ["owl"]},
        {"candidate_images": b"a"},
        {"candidate_images": 5},
        {"candidate_images": ["a.jpg"]},
        {"candidates": "a"},
        {"candidates": 5},
        {"associations": 5},
        {"candidates": [["a"]], "associations": "a"},
    ],
)
def test_games_of_other_types(tmp_path, change):
    good = {"cue": "owl", "candidates": ["a"], "associations": ["a"], "candidate_images": [b"a"]}
    pq.write_table(pa.Table.from_pylist([good | change]), tmp_path / "0.parquet")
    with pytest.raises(CurateError, match=r"row 0: lacks a cue, an image or an answer, but"):
        next(task_files.look(str(tmp_path)).games())


def test_lines_end_where_editors_end_them_and_a_mark_at_the_beginning_is_no_text(folder):
    (folder / "classnames.txt").write_bytes("\ufeffcat\r\nred\u2028star\n".encode())
    assert task_files.look(str(folder)).classes == ["cat", "red\u2028star"]
    (folder / "dataset_type.txt").write_text("retrieval")
    write_tar(folder / "test/0.tar", [("s.jpg", b"a"), ("s.txt", "\ufeffone\u2028more\r\ntwo".encode())])
    assert next(task_files.look(str(folder)).samples()).label == ["one\u2028more", "two"]


def test_games(tmp_path):
    images = [{"bytes": bytes([n]), "path": None} for n in range(3)]
    good = {"cue": "owl", "candidates": ["a", "b", "c"], "associations": ["c", "a"], "candidate_images": images}
    pq.write_table(pa.Table.from_pylist([good, good | {"associations": ["d"]}]), tmp_path / "0.parquet")
    games = task_files.look(str(tmp_path)).games()
    game = next(games)
    assert (game.cue, game.images, game.answers.tolist()) == ("owl", [b"\0", b"\1", b"\2"], [True, False, True])
    with pytest.raises(CurateError, match=r"row 1: lacks a cue, an image or an answer, but"):
        next(games)
    with pytest.raises(CurateError, match=r"0\.parquet: has no column caption, image, but image, caption are needed"):
        next(task_files.look(str(tmp_path)).samples())


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("classnames.txt", None, "classnames.txt: is not there, but"),
        ("classnames.txt", "", "classnames.txt: line 1 is empty, but"),
        ("classnames.txt", "a\n\nb", "classnames.txt: line 2 is empty, but"),
        (
            "zeroshot_classification_templates.txt",
            "a {c}\na {}",
            "templates.txt: the template 'a {}', but each has {c}",
        ),
        (
            "test/nshards.txt",
            "3",
            "nshards.txt says '3' and there are 2 tars, but as many as it says, one or more, are needed (see 2.tar)",
        ),
        (
            "test/nshards.txt",
            "1",
            "nshards.txt says '1' and there are 2 tars, but as many as it says, one or more, are needed (see 1.tar)",
        ),
        ("test/nshards.txt", "two", "nshards.txt says 'two' and there are 2 tars, but"),
        ("test/nshards.txt", None, "has neither test/nshards.txt nor a parquet file, but"),
        (
            "dataset_type.txt",
            "multilabel",
            "dataset_type.txt: says 'multilabel', but only classification and retrieval",
        ),
    ],
)
def test_what_is_missing_is_said_before_anything_is_read(folder, name, text, told):
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(CurateError) as error:
        task_files.look(str(folder))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("s.cls", b"0")], "0.tar: s: has cls, but an image and a .cls are needed"),
        ([("s.jpg", b"a")], "0.tar: s: has jpg, but"),
        ([("s.jpg", b"a"), ("s.cls", b"3")], "0.tar: s: the class '3', but a number from 0 to 2 is needed"),
        ([("s.jpg", b"a"), ("s.cls", b"-1")], "the class '-1', but"),
        ([("s.jpg", b"a"), ("s.cls", "²".encode())], "the class '²', but"),
        ([("s\x1b[2J.jpg", b"a"), ("s\x1b[2J.cls", b"\x1b[2J")], r"0.tar: s\x1b[2J: the class '\\x1b[2J', but"),
        ([("s.jpg", b"a"), ("s.cls", b"0"), ("s.npy", b"x")], "0.tar: s: metadata that can't be read ("),
        ([("s.jpg", b"a"), ("s.cls", b"0"), ("s.npy", b"PK\3\4")], "0.tar: s: metadata that can't be read ("),
        (
            [("s.jpg", b"a"), ("s.cls", b"0"), ("s.npy", b"\x93NUMPY\1\0\x06\0{[]:1}")],
            "metadata that can't be read (unhashable",
        ),
        (
            [("s.jpg", b"a"), ("s.cls", b"0"), ("s.npy", npy(np.array([{}]), allow_pickle=True))],
            "metadata that can't be",
        ),
        ([("s.jpg", b"a"), ("s.cls", b"0"), ("s.npy", npy(np.zeros((2, 2))))], "metadata that can't be read (no line"),
    ],
)
def test_broken_samples_are_named(folder, members, told):
    write_tar(folder / "test/0.tar", members)
    with pytest.raises(CurateError) as error:
        list(task_files.look(str(folder)).samples())
    assert told in str(error.value)


def test_a_tar_that_is_cut_off(folder):
    path = folder / "test/1.tar"
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(CurateError, match=r"1\.tar, byte .*cut off"):
        list(task_files.look(str(folder)).samples())
