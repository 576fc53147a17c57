"""What a model is trained on is whole, or there is no training."""

import io
import json
import pathlib
import tarfile

import pytest

from metadata.errors import CurateError
from pipeline import training_data


def write_run(folder: pathlib.Path, counts: list[int]) -> pathlib.Path:
    """A finished run with that many samples in its shards; images are not looked at."""
    (folder / "shards").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "manifest.json").write_text(json.dumps({"of": folder.name}))
    sizes = {}
    for shard, count in enumerate(counts):
        sizes[f"{shard:08d}.tar"] = count
        with tarfile.open(folder / f"shards/{shard:08d}.tar", "w") as tar:
            for n in range(count):
                for ending, body in (("jpg", b"\xff\xd8" * 400), ("txt", b"a cat"), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{shard:08d}{n:04d}.{ending}")
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))
    (folder / "shards/sizes.json").write_text(json.dumps(sizes))
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", [3, 0, 5])


def refused(given: object, *words: str) -> None:
    with pytest.raises(CurateError) as caught:
        training_data.check(training_data.open_all(str(given)))
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_whole_run_passes(run):
    (data,) = training_data.open_all(str(run))
    assert (data.samples, data.weight) == (8, 1.0)
    assert data.pattern == f"{run}/shards/{{00000000..00000002}}.tar"
    training_data.check([data])


def test_a_folder_of_shards_passes_too(run):
    (data,) = training_data.open_all(str(run / "shards"))
    assert data.samples == 8


def test_weights_follow_colons(run, tmp_path):
    other = write_run(tmp_path / "other:x", [2])
    found = training_data.open_all(f"{run}:0.5,{other}")
    assert [(data.run, data.weight) for data in found] == [(str(run), 0.5), (str(other), 1.0)]


def test_what_data_is_doesnt_depend_on_where_it_lies(run):
    (data,) = training_data.open_all(str(run))
    moved = run.rename(run.with_name("moved"))
    (again,) = training_data.open_all(str(moved))
    assert again.record() == data.record()
    (moved / "manifest.json").write_text("{}")
    assert training_data.open_all(str(moved))[0].record() != data.record()


@pytest.mark.parametrize("weight", ["0", "-1", "1e9"])
def test_a_weight_is_above_0(run, weight):
    refused(f"{run}:{weight}", "the weight is", "above 0")


def test_a_run_is_given_once(run):
    refused(f"{run},{run}:2", f"--data {run}: is given twice, first as {run}, but", f"Give it once, as {run}:2.")
    refused(f"{run},{run}/shards", f"--data {run}/shards: is given twice, first as {run}, but")


@pytest.mark.parametrize("given", ["s3://bucket/run", "a{b}", "a::b", "$HOME"])
def test_only_plain_local_paths_reach_the_trainer(given):
    refused(given, "plain local paths")


def test_a_path_that_isnt_there(tmp_path):
    refused(tmp_path / "nowhere", "is no folder")


@pytest.mark.parametrize("given", [".", "shards"])
def test_an_unfinished_run(run, given):
    (run / "manifest.json").unlink()
    refused(run / given, "unfinished")


def test_an_unfinished_reshard_to_a_folder_called_shards(run):
    (run / "shards/run.json").write_text("{}")
    refused(run / "shards", "unfinished")


def test_a_run_without_shards(tmp_path):
    (tmp_path / "run").mkdir()
    refused(tmp_path / "run", "has no shards", "--select-only")


def test_shards_without_sizes(run):
    (run / "shards/sizes.json").unlink()
    refused(run, "sizes.json: is missing", "curate reshard")


@pytest.mark.parametrize("text", ["{", "[1]", '{"00000000.tar": "3"}', "[" * 100_000])
def test_sizes_that_cant_be_read(run, text):
    (run / "shards/sizes.json").write_text(text)
    refused(run, "sizes.json: can't be read")


def test_a_missing_shard_is_named(run):
    (run / "shards/00000002.tar").unlink()
    refused(run, "00000002.tar is missing, but sizes.json names it")


def test_a_shard_too_many_is_named(run):
    (run / "shards/00000003.tar").write_bytes((run / "shards/00000002.tar").read_bytes())
    refused(run, "00000003.tar is not in sizes.json")


def test_a_gap_in_the_numbers_is_named(run):
    (run / "shards/00000001.tar").unlink()
    sizes = json.loads((run / "shards/sizes.json").read_text())
    del sizes["00000001.tar"]
    (run / "shards/sizes.json").write_text(json.dumps(sizes))
    refused(run, "00000001.tar is not among them", "without a gap")


@pytest.mark.parametrize("cut", [1024, 5000])
def test_a_cut_shard_is_named(run, cut):
    tar = run / "shards/00000002.tar"
    tar.write_bytes(tar.read_bytes()[:cut])
    refused(run, "00000002.tar", "cut off")


def test_a_damaged_shard_is_named(run):
    tar = run / "shards/00000000.tar"
    body = bytearray(tar.read_bytes())
    body[100] ^= 1
    tar.write_bytes(body)
    refused(run, "00000000.tar", "damaged")


def test_a_shard_with_other_samples_is_named(run):
    sizes = json.loads((run / "shards/sizes.json").read_text()) | {"00000002.tar": 6}
    (run / "shards/sizes.json").write_text(json.dumps(sizes))
    refused(run, "00000002.tar: has 5 samples", "says 6")


def test_no_samples_at_all(tmp_path):
    refused(write_run(tmp_path / "run", [0, 0]), "have no samples")
    refused(write_run(tmp_path / "none", []), "have no samples")


def test_many_shards_are_read_by_several_processes(tmp_path):
    run = write_run(tmp_path / "run", [1] * 40)
    (run / "shards/00000039.tar").write_bytes((run / "shards/00000039.tar").read_bytes()[:700])
    refused(run, "00000039.tar", "cut off")
