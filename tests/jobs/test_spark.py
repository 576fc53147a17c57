"""The whole job on the Spark that is embedded in Beam's job server: the local runner's bytes, though a worker dies."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import job_servers
import pytest
from demo_runs import outputs
from kills import descendants, with_root

RUN = ("-m", "jobs.cli", "--pool", "demo:400", "--out")


def workers(driver: int) -> list[int]:
    found = []
    for pid in descendants(driver):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if b"curate-worker" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@pytest.mark.long
def test_spark_makes_the_local_bytes_though_a_worker_dies(tmp_path):
    try:
        jar = job_servers.spark()
    except job_servers.MissingError as error:
        pytest.skip(str(error))
    environment = with_root(os.environ)
    options = ["--runner", "spark", *(["--spark_job_server_jar", jar] if jar else [])]
    command = [sys.executable, *RUN, str(tmp_path / "spark"), *options]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as run:
        while run.poll() is None and not workers(run.pid):
            time.sleep(0.1)
        time.sleep(3)  # it works now
        for pid in workers(run.pid)[:1]:
            os.kill(pid, signal.SIGKILL)
        _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert "curate: --runner spark: the job was lost (" in errors
    assert "stack" not in errors
    subprocess.run([sys.executable, *RUN, str(tmp_path / "local")], env=environment, check=True)
    assert outputs(tmp_path / "spark") == outputs(tmp_path / "local")
