"""The whole job on a Flink of two TaskManagers, and on the embedded: the local runner's bytes, whatever is killed."""

import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import time

import job_servers
import pyarrow.parquet as pq
import pytest
import yaml
from kills import Cluster, kill_runs, outputs, with_root

from jobs.launch import flink, guard

DEMO = ("--pool", "demo:400")


@pytest.fixture(scope="module")
def parts():
    """The job server's jar, or None, and folders to import Flink from."""
    try:
        return job_servers.flink()
    except job_servers.MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cluster(parts, tmp_path_factory):
    """A running one; that nothing of it is left is checked at the end."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("flink") / "cluster"
    running = Cluster(folder, port, parts[0], with_root(os.environ, *parts[1]))
    try:
        running.start()
    except subprocess.CalledProcessError:
        running.stop()
        raise
    workers = running.workers
    yield running
    left = workers()
    running.stop()
    end = time.monotonic() + 20
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in left) or named(folder):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert sorted(p.name for p in folder.iterdir()) == ["conf", "log"]


def test_a_folder_that_can_t_be_made_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert flink.main(["start", "--dir", str(tmp_path / "file")]) == 1
    told = "Not a directory, but a folder must be there. Look at the path."
    assert capsys.readouterr().err == f"curate: {tmp_path}/file: {told}\n"


@pytest.mark.parametrize(("deed", "told"), [("start", "holds something but no cluster. Give a folder that is new or"),
                                            ("stop", "there is no cluster, but one was to be stopped.")])  # fmt: skip
def test_a_folder_of_something_else_stays_as_it_is(tmp_path, capsys, deed, told):
    mine = [tmp_path / name for name in ("conf/config.yaml", "pids/mine", "tmp/mine")]
    for file in mine:
        file.parent.mkdir()
        file.write_text("mine")
    assert flink.main([deed, "--dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"curate: --dir {tmp_path}: {told}")
    assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == mine
    assert {file.read_text() for file in mine} == {"mine"}


def test_the_current_folder_is_not_meant_by_none(capsys):
    with pytest.raises(SystemExit) as ended:
        flink.main(["stop", "--dir", ""])
    assert ended.value.code == 2
    assert "'' is given, but a folder's path or address is needed" in capsys.readouterr().err


def test_without_flink_or_java_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert flink.main(["start", "--dir", str(tmp_path / "cluster")]) == 1
    assert not (tmp_path / "cluster").exists()


@pytest.mark.parametrize(("name", "text"), [("jobmanager", ""), ("jobmanager", "mine"), ("taskmanager-1", "99999")])
def test_a_damaged_port_of_a_running_cluster_is_one_sentence(tmp_path, capsys, name, text):
    for place in ("conf", "pids"):
        (tmp_path / place).mkdir()
    (tmp_path / "conf/port").write_text(text)
    process = subprocess.Popen([sys.executable, "-c", "input()", tmp_path / "conf"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "pids" / name).write_text(str(process.pid))
        while str(tmp_path) not in read(pathlib.Path(f"/proc/{process.pid}/cmdline")):
            time.sleep(0.01)
        assert flink.main(["start", "--dir", str(tmp_path)]) == 1
    finally:
        process.kill()
        process.wait()
    told = f"curate: {tmp_path}/conf/port: is {text!r}, but the running cluster's port is needed. `stop` it, and"
    assert capsys.readouterr().err.startswith(told)


def test_any_name_of_a_folder_is_yaml(tmp_path):
    folder = tmp_path / 'my "own" ü: {}'
    (folder / "conf").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flink._write_config(folder, 1, port)
    config = yaml.safe_load((folder / "conf/config.yaml").read_text())
    assert config["io"]["tmp"]["dirs"] == config["blob"]["storage"]["directory"] == str(folder / "tmp")


def named(folder: pathlib.Path) -> list[pathlib.Path]:
    """The processes that have it in their command."""
    return [p for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if str(folder) in read(p)]


def read(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def curate(
    *args: str | pathlib.Path, cwd: pathlib.Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jobs.cli", *map(str, args)]
    return subprocess.run(command, env=with_root(os.environ) | environment, capture_output=True, text=True, timeout=300,
                          cwd=cwd)  # fmt: skip


def read_records(port: int, name: str) -> list[list[int]]:
    """What each TaskManager was given of every step of that name."""
    rest = f"http://localhost:{port}/jobs"
    jobs = [f"/{job['id']}" for job in guard.ask(rest, "")["jobs"]]
    steps = [f"{job}/vertices/{step['id']}" for job in jobs for step in guard.ask(rest, job)["vertices"]
             if name in step["name"]]  # fmt: skip
    return [[task["metrics"]["read-records"] for task in guard.ask(rest, step)["subtasks"]] for step in steps]


@pytest.mark.slow
def test_two_task_managers_make_the_local_bytes(cluster, tmp_path):
    local = curate(*DEMO, "--out", tmp_path / "local")
    assert local.returncode == 0, local.stderr
    temporary = tmp_path / "temporary"  # its own: other runs have job servers, too
    temporary.mkdir()
    # The cluster was started in another folder.
    done = curate(*DEMO, "--out", "flink", *cluster.options, cwd=tmp_path, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path / "flink") == outputs(tmp_path / "local")
    logs = [cluster.folder / f"log/taskmanager-{number}.log" for number in (1, 2)]
    assert all("Python sdk harness starting" in log.read_text() for log in logs)
    (merged,) = read_records(cluster.port, "ChooseRows/MergeUids")
    assert merged == [4, 4]  # of 8 partitions
    lines = done.stderr.splitlines()
    assert lines[0].startswith("curate: pool demo:400")
    assert all(line.startswith(("choosing: ", "images: ")) for line in lines[1:])
    assert "choosing: 1,600 of 1,600 rows in 4 passes (100%)" in done.stderr
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_a_job_manager_that_died_is_started_again_for_the_task_managers_that_live(cluster):
    living = cluster.task_managers()
    os.kill(int((cluster.folder / "pids/jobmanager").read_text()), signal.SIGKILL)
    cluster.start()
    assert cluster.task_managers() == living
    assert guard.ask(f"http://localhost:{cluster.port}", "/overview")["taskmanagers"] == len(living) == 2


@pytest.mark.long
def test_a_broken_file_is_named(cluster, toy_pool, tmp_path):
    (file, *_) = sorted(toy_pool.iterdir())
    column = pq.read_metadata(file).row_group(0).column(2)
    with open(file, "r+b") as raw:  # the caption's pages; the footer stays whole
        raw.seek(column.dictionary_page_offset or column.data_page_offset)
        raw.write(b"\xff" * column.total_compressed_size)
    done = curate("--pool", toy_pool, "--recipe", "basic_filter", "--select-only", "--out", tmp_path / "run",
                  *cluster.options)  # fmt: skip
    assert done.returncode == 1
    assert str(file) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "it is started again" not in done.stderr


@pytest.mark.long
def test_kills_do_not_change_the_bytes(cluster, tmp_path):
    seed = int(os.environ.get("KILLS_SEED") or secrets.randbelow(1 << 31))
    print(f"KILLS_SEED={seed}")  # shown where the test fails
    kill_runs(int(os.environ.get("KILLS") or 1), seed, tmp_path, cluster, print)


@pytest.mark.slow
def test_the_embedded_flink_needs_java_alone(parts, tmp_path):
    jar, _ = parts
    options = ["--flink_job_server_jar", jar, "--flink_version", "1.19"] if jar else []
    args = (*DEMO, "--recipe", "clip_score_l14_30_percent", "--select-only", "--out")
    done = curate(*args, tmp_path / "run", "--runner", "flink", "--flink_master=[local]", *options)
    assert done.returncode == 0, done.stderr
    assert curate(*args, tmp_path / "local").returncode == 0
    assert outputs(tmp_path / "run") == outputs(tmp_path / "local")
