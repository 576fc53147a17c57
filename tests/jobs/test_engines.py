"""What is said of runners and their options before any work, and the guard that ends a job server with its driver."""

import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest
from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions, PipelineOptions

from jobs.launch import flink as launch
from jobs.launch import guard
from jobs.launch.portable import Engine
from metadata.errors import CurateError

POOL = ("--pool", "demo:400", "--select-only")

#: What Dataflow can't do without.
DATAFLOW = ("--project=project", "--region=r", "--temp_location=gs://bucket/t", "--sdk_container_image=image")


@pytest.fixture
def flink():
    """A stand-in for a cluster's REST interface: it tells its version, and ends a job when it is told to.

    Its address, what it was asked to do, and what it answers by path, which may be changed.
    """
    asked: list[tuple[str, str]] = []
    jobs = [
        {"jid": "a", "name": "curate-1", "state": "RUNNING"},
        {"jid": "b", "name": "curate-2", "state": "RUNNING"},
        {"jid": "c", "name": "curate-1", "state": "FINISHED"},
    ]
    known = {
        "/config": {"flink-version": "1.2.3"},
        "/overview": {"taskmanagers": 0, "slots-total": 0},
        "/jobs/overview": {"jobs": jobs},
    }

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(known[self.path]).encode())

        def do_PATCH(self):
            asked.append(("PATCH", self.path))
            next(job for job in jobs if job["jid"] == self.path.split("/")[-1])["state"] = "CANCELED"
            self.send_response(202)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"localhost:{server.server_address[1]}", asked, known
        server.shutdown()


def java(folder: pathlib.Path) -> dict[str, str]:
    """An environment in which there is something called java."""
    (folder / "bin").mkdir()
    (folder / "bin/java").write_text("#!/bin/sh\necho no such class\nexit 1\n")
    (folder / "bin/java").chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def last_line(done: subprocess.CompletedProcess) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--runner", "flink", "--flink_mastr", "x:1"], 2, "Did you mean --flink_master?"),
        (["--runner", "flnk"], 2, "unknown runner 'flnk'. Did you mean 'flink'? Known: local, flink,"),
        (["--runner", "PortableRuner"], 2, "Did you mean 'PortableRunner'?"),
        (["--runner", ""], 2, "unknown runner ''. Known:"),
        (["--runner", "no.such.Runner"], 1, "--runner no.such.Runner: can't be had (No module named 'no'), but"),
        (["--runner", "portable"], 1, "--runner PortableRunner: no --job_endpoint was given, but"),
        (["--runner", "Flink", "--parallelism", "x"], 2, "curate: error: argument --parallelism: invalid int value"),
        (["--runner", "FLINK", "--flink_master", "localhost:x"], 1, "nonnumeric port: 'x', but Flink's REST interface"),
        (["--runner", "flink", "--flink_master", "foo bar:1"], 1, "--flink_master http://foo bar:1: URL can't contain"),
        (["--runner", "flink", "--flink_master", "localhost:1"], 1, "Flink's REST interface must answer there"),
        (["--runner", "flink", "--job_server_java_launcher", "no-java"], 1, "no-java: it was not found"),
        (["--runner", "spark", "--job_server_java_launcher", "no-java"], 1, "--runner spark needs Java"),
        (["--runner", "dataflow"], 1, "no --project, --region, --temp_location, --sdk_container_image was given"),
        (["--runner", "Dataflow", *DATAFLOW[:3]], 1, "no --sdk_container_image was given"),
        (["--runner", "dataflow", *DATAFLOW], 1, "Dataflow's machines"),
        (["--runner", "DataflowRunner", *DATAFLOW], 1, "Dataflow's machines"),
        (["--runner", "dataflow", *DATAFLOW, "--temp_location=/tmp/x"], 1, "(Invalid GCS path (/tmp/x), given for"),
        (["--runner", "dataflow", *DATAFLOW, "--temp_location=gs://bb/x"], 1, "(Invalid GCS bucket (gs://bb/x), given"),
        (["--runner", "dataflow", *DATAFLOW, "--staging_location=gs://b"], 1, "(gs://b), given for the option: stag"),
        (["--runner", "dataflow", *DATAFLOW, "--job_name", "Bad_Name"], 1, "do not fit (Invalid job_name (Bad_Name); "),
        (["--runner", "dataflow", *DATAFLOW, "--project", "P_ROJ", "--num_workers=0"], 1,
         "not project description; Invalid value (0) for option: num_workers. Value needs to be positive), but"),
    ],
)
def test_what_a_runner_lacks_is_told_before_any_work(told, tmp_path, options, code, words):
    given, _, errors = told(*POOL, "--out", tmp_path / "run", *options)
    assert given == code
    assert words in errors.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--out", "--pool"])
@pytest.mark.parametrize("place", ["file:///tmp/place", "local:///tmp/place", "/tmp/place"])
def test_a_place_on_this_machine_is_none_for_dataflow(told, option, place):
    places = {"--pool": "s3://bucket/pool", "--out": "s3://bucket/run", option: place}
    code, _, errors = told(*(word for pair in places.items() for word in pair), "--runner", "dataflow", *DATAFLOW)
    assert code == 1
    assert errors.startswith(f"curate: {option} {place}: is on this machine, but Dataflow's machines need it.")


@pytest.mark.parametrize("job", [
    ("--pool", "commoncrawl", "--scale", "small"),
    ("score", "--pool", "s3://bucket/pool", "--model", "m", "--workers", "1"),
])  # fmt: skip
def test_dataflow_without_beams_part_for_it_is_told_before_any_work(told, tmp_path, monkeypatch, job):
    monkeypatch.setitem(sys.modules, "apache_beam.runners.dataflow.internal.apiclient", None)
    code, _, errors = told(*job, "--out", f"memory://{tmp_path}", "--runner", "dataflow", *DATAFLOW)
    assert code == 1
    assert errors.splitlines()[-1].endswith("but the job is handed over by that. pip install 'apache-beam[gcp]'.")


def test_another_version_of_flink_is_refused(curate, tmp_path, flink):
    done = curate(*POOL, "--out", tmp_path / "run", "--runner", "flink", "--flink_master", flink[0])
    assert done.returncode == 1
    assert "the cluster is Flink 1.2.3, but Beam runs on 1.19" in last_line(done)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\n\r\n[1]", b"HTTP/1.1 200 OK\r\n\r\n<"]
)
def test_what_is_not_flink_is_said_to_be_none(told, tmp_path, answer):
    with socket.create_server(("localhost", 0)) as server:
        def serve():
            client, _ = server.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        master = f"localhost:{server.getsockname()[1]}"
        given, _, errors = told(*POOL, "--out", tmp_path / "run", "--runner", "flink", "--flink_master", master)
    assert given == 1
    assert f"--flink_master http://{master}: what answers is not Flink, but" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runner", "Prism", "--prism_location", "none"], "--runner prism: no job came of it (Unable to parse"),
        (["--runner", "Portable", "--job_endpoint=localhost:1", "--job_server_timeout=1"], "it (FutureTimeoutError)"),
    ],
)
def test_a_job_that_was_never_taken_is_not_lost(told, tmp_path, options, words):
    given, _, errors = told(*POOL, "--out", tmp_path / "run", *options)
    assert given == 1
    assert words in errors.splitlines()[-1]
    assert "lost" not in errors


def test_a_cluster_that_has_lost_its_taskmanagers_says_how_to_go_on(flink):
    address, asked, known = flink
    known["/config"] = {"flink-version": "1.19.1"}
    engine = Engine("flink", 1, [f"--flink_master={address}", "--job_endpoint=localhost:1"], "curate-1")
    with pytest.raises(CurateError) as error:
        engine.options()
    assert str(error.value) == (f"--flink_master http://{address}: the cluster has no TaskManager, but workers run "
                                f"beside them. Start one, then run the same command again.")  # fmt: skip
    assert not asked


def test_more_parallelism_than_the_cluster_has_slots_is_refused_before_a_job_is_handed_over(flink):
    address, asked, known = flink
    known |= {"/config": {"flink-version": "1.19.1"}, "/overview": {"taskmanagers": 2, "slots-total": 2}}
    given = [f"--flink_master={address}", "--job_endpoint=localhost:1"]
    with pytest.raises(CurateError) as error:
        Engine("flink", 1, [*given, "--parallelism=3"], "curate-3").options()
    assert str(error.value) == (f"--parallelism 3: the cluster at http://{address} has slots for 2, but a job needs "
                                f"all at once. Ask for 2 at most, or start more TaskManagers; then run the same "
                                f"command again.")  # fmt: skip
    assert not asked
    for more, processes in ([], 2), (["--parallelism=2"], 2), (["--parallelism=1"], 1):
        options = PipelineOptions(Engine("flink", 1, [*given, *more], "curate-3").options())
        assert options.view_as(FlinkRunnerOptions).parallelism == processes


def test_a_user_s_name_for_a_job_comes_behind_the_one_by_which_it_is_cancelled():
    given = ["--flink_master=[local]", "--job_endpoint=localhost:1"]
    for more, name in ([], "curate-1"), (["--job_name", "mine"], "curate-1-mine"):
        options = PipelineOptions(Engine("flink", 1, [*given, *more], "curate-1").options())
        assert options.view_as(GoogleCloudOptions).job_name == name


def test_a_port_of_a_cluster_on_this_machine_is_looked_at(capsys):
    with pytest.raises(SystemExit) as ended:
        launch.main(["start", "--port", "99999"])
    assert ended.value.code == 2
    assert "the port '99999' is given, but a whole number from 1 to 65535 is needed" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_told_as_all_else(capsys, tmp_path):
    assert launch.main(["stop", "--dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"curate: --dir {tmp_path}: there is no cluster, but")


def test_a_job_server_that_does_not_start_is_told_with_its_last_word(curate, tmp_path):
    (tmp_path / "any.jar").touch()
    (tmp_path / "tmp").mkdir()
    options = ("--runner", "flink", "--flink_job_server_jar", tmp_path / "any.jar")
    environment = java(tmp_path) | {"TMPDIR": str(tmp_path / "tmp")}
    done = curate(*POOL, "--out", tmp_path / "run", *options, env=environment)
    assert done.returncode == 1
    assert not list((tmp_path / "tmp").glob("curate-job-server-*"))
    assert "Beam's job server: it does not start (no such class)" in last_line(done)


def test_jobs_of_an_earlier_driver_are_cancelled_and_no_others(flink):
    guard.cancel(f"http://{flink[0]}", "curate-1")
    assert flink[1] == [("PATCH", "/jobs/a")]


def test_a_job_server_ends_with_its_driver(flink, tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    guarded = subprocess.Popen(
        [sys.executable, "-I", guard.__file__, folder, f"http://{flink[0]}", "curate-1", "sleep", "4321.5"],
        stdin=subprocess.PIPE,
    )
    end = time.monotonic() + 20
    while not (found := sleeping()) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(found) == 1
    guarded.stdin.close()  # as the kernel does when the driver is killed
    guarded.wait(timeout=20)
    assert not sleeping()
    assert not folder.exists()
    assert flink[1] == [("PATCH", "/jobs/a")]


def sleeping() -> list[pathlib.Path]:
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == b"sleep\x004321.5\x00":
                found.append(path)
        except OSError:
            pass
    return found
