"""Whose a folder is, and that nothing else in it is touched."""

import json
import os
import pathlib

import pytest

from metadata.errors import CurateError
from pipeline import folder, storage


def file(name: str, **facts) -> dict:
    return {"path": name, "size": 1, **facts}


IDENTITY = {"command": "curate", "pool": "p", "files": [file("a"), file("b"), file("d")]}


def claim(out: pathlib.Path, identity=IDENTITY, overwrite=False) -> None:
    with folder.claim(str(out), identity, overwrite):
        pass


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its run.json is not one that this version of curate writes, but a folder is needed that is new"),
        ("[]", "its run.json is not one that this version of curate writes, but"),
        ('{"foo": 1}', "its run.json is not one that this version of curate writes, but"),
        ('{"command": "train", "pool": "p"}', r"holds another run \(command was train, now curate\), but"),
    ],
)
def test_a_folder_with_another_run_json_stays_as_it_is(tmp_path, text, words, overwrite):
    (tmp_path / "checkpoints").mkdir()
    for name in ("run.json", "manifest.json", "checkpoints/mine.pt", ".a.0123.tmp"):
        (tmp_path / name).write_text(text)
    with pytest.raises(CurateError, match=f"--out {tmp_path}: {words}"):
        claim(tmp_path, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == [".a.0123.tmp", "checkpoints", "manifest.json", "run.json"]
    assert (tmp_path / "run.json").read_text() == text
    assert (tmp_path / "checkpoints/mine.pt").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([file("a"), file("b", etag="2"), file("d", etag="2")], "of its files b has changed"),
        ([file("a"), file("b"), file("c"), file("d")], "of its files c is new"),
        ([file("a"), file("d")], "of its files b is gone"),
    ],
)
def test_of_a_pool_that_changed_the_first_file_is_named(tmp_path, files, words):
    claim(tmp_path / "run")
    with pytest.raises(CurateError, match=rf"holds another run \({words}\), but"):
        claim(tmp_path / "run", IDENTITY | {"files": files})


def test_clearing_that_was_stopped_is_ended_by_the_next_run(tmp_path, monkeypatch):
    claim(tmp_path / "run")
    for name in folder.OUTPUTS:
        (tmp_path / "run" / name).mkdir()
    removed = []

    def stop(path):
        removed.append(os.path.basename(path))
        if len(removed) > 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", stop)
        with pytest.raises(KeyboardInterrupt):
            claim(tmp_path / "run", IDENTITY | {"pool": "q"}, overwrite=True)
    assert removed == ["manifest.json", "train.json", "scores.json", "work"]
    claim(tmp_path / "run", IDENTITY | {"pool": "q"})
    assert os.listdir(tmp_path / "run") == ["run.json"]
    assert json.loads((tmp_path / "run/run.json").read_text()) == IDENTITY | {"pool": "q"}


@pytest.mark.parametrize(
    ("path", "directory"),
    [
        ("{0}/a/b", "file://{0}/a"),
        ("file://{0}/a/b", "{0}/link"),
        ("local://{0}/link/b", "file://{0}/a"),
        ("memory://o/x", "memory:///o"),
        ("s3://b/o/", "s3://b/o"),
    ],
)
def test_a_place_is_the_same_however_it_is_written(tmp_path, path, directory):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    path, directory = path.format(tmp_path), directory.format(tmp_path)
    assert folder.is_inside(path, directory)
    assert not folder.is_inside(f"{directory}bc", directory)
    assert not folder.is_inside(directory, f"{path.rstrip('/')}/c")
    with pytest.raises(CurateError, match=f"--pool {path}: lies in --out {directory}, but"):
        folder.refuse_inside(directory, "--pool", [f"{tmp_path}/other", path])
