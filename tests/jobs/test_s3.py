"""Runs whose pool and output lie in S3: moto's server in its place, which takes Amazon's requests over HTTP."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest
from demo_runs import command, outputs

from pipeline import storage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    moto = pytest.importorskip("moto.server")
    made = moto.ThreadedMotoServer(port=0)
    made.start()
    yield "http://{}:{}".format(*made.get_host_and_port())
    made.stop()


@pytest.fixture
def store(server, monkeypatch):
    """fsspec's file system of the server, with an empty bucket `own`; commands find it by the environment."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    for name, value in (("AWS_ENDPOINT_URL", server), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"),
                        ("AWS_DEFAULT_REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    made = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    made.mkdir("own")
    yield made
    made.rm("own", recursive=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same run in a folder of this machine; its files, and the command but for where to."""
    given = command(tmp_path_factory.mktemp("local") / "run", "2")
    subprocess.run(given, check=True, capture_output=True, timeout=300)
    at = given.index("--out")
    return pathlib.Path(given[at + 1]), given[3:at] + given[at + 2 :]


def fetched(store, address: str, folder: pathlib.Path) -> pathlib.Path:
    """The folder, in which everything under the address is now."""
    store.get(address, str(folder), recursive=True)
    return folder


def test_a_run_into_s3_writes_the_same_bytes_and_is_used_from_there(curate, store, local, tmp_path):
    run, args = local
    done = curate(*args, "--out", "s3://own/run")
    assert done.returncode == 0, done.stderr
    assert outputs(fetched(store, "s3://own/run", tmp_path / "run")) == outputs(run)
    again = curate(*args, "--out", "s3://own/run")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout

    retried = curate("retry", "s3://own/run", "--status", "http_4xx")
    assert retried.returncode == 0, retried.stderr
    for of, to in ((run, tmp_path / "copied"), ("s3://own/run", "s3://own/copied")):
        done = curate("reshard", "--shards", f"{of}/shards", "--subset", f"{of}/subset.npy", "--out", to)
        assert done.returncode == 0, done.stderr
    copied = [tmp_path / "copied", fetched(store, "s3://own/copied", tmp_path / "fetched")]
    one, other = ({tar.name: tar.read_bytes() for tar in folder.glob("*.tar")} for folder in copied)
    assert one
    assert one == other


def test_a_killed_run_into_s3_goes_on(curate, store, local, tmp_path):
    run, args = local
    process = subprocess.Popen([sys.executable, "-m", "jobs.cli", *args, "--out", "s3://own/run"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    end = time.monotonic() + 60
    while not store.glob("own/run/shards/*.parquet") and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not store.exists("own/run/manifest.json")
    done = curate(*args, "--out", "s3://own/run")
    assert done.returncode == 0, done.stderr
    assert outputs(fetched(store, "s3://own/run", tmp_path / "run")) == outputs(run)


def test_a_pool_in_s3_is_chosen_from(curate, store, toy_pool, tmp_path):
    store.put(str(toy_pool), "s3://own/pool/", recursive=pathlib.Path(toy_pool).is_dir())
    for pool, out in ((toy_pool, tmp_path / "a"), ("s3://own/pool/", tmp_path / "b")):
        done = curate("--pool", pool, "--recipe", "clip_score_l14_30_percent", "--select-only", "--out", out)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a/subset.npy").read_bytes() == (tmp_path / "b/subset.npy").read_bytes()


def test_a_file_that_is_written_anew_has_another_etag(store):
    found = set()
    for body in b"one", b"two", b"two":
        store.pipe_file("own/a.tar", body)
        found.add(storage.etag("s3://own/a.tar"))
    assert len(found) == 2
    assert "" not in found


def test_a_bucket_that_is_not_there_is_told_and_not_made(curate, store):
    done = curate("--pool", "demo:400", "--select-only", "--out", "s3://mistaken/run")
    assert done.returncode == 1
    assert "s3://mistaken/run" in done.stderr
    assert "Traceback" not in done.stderr
    assert not store.exists("mistaken")
