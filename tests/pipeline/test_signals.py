"""A signal that comes while a command forks its workers ends the command, as at any other time."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from task_sets import write_tar

#: In every fork's hook the parent gets the signal. What is raised there, Python drops.
COMMAND = """
import os, signal, sys, time
number = int(sys.argv.pop(1))

def disturb():
    os.kill(os.getpid(), number)
    time.sleep(0.01)

os.register_at_fork(after_in_parent=disturb)
from jobs import cli
cli.entry()
"""


@pytest.fixture
def reshard(tmp_path) -> list[str]:
    """Its options, for two tars of a sample each."""
    for number in range(2):
        fact = json.dumps({"uid": f"{number:032x}"}).encode()
        write_tar(tmp_path / "in" / f"{number:08d}.tar", [("a.jpg", b"image"), ("a.json", fact)])
    np.save(tmp_path / "subset.npy", np.array([(0, 0), (0, 1)], "u8,u8"))
    return ["reshard", "--shards", str(tmp_path / "in"), "--subset", str(tmp_path / "subset.npy"),
            "--out", str(tmp_path / "out"), "--workers", "2"]  # fmt: skip


@pytest.fixture
def choose(tmp_path) -> list[str]:
    return ["--pool", "demo:400", "--select-only", "--out", str(tmp_path / "out"), "--workers", "2"]


@pytest.mark.parametrize("job", ["reshard", "choose"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_fork_is_not_lost(request, tmp_path, job, number, code):
    words = [str(int(number)), *request.getfixturevalue(job)]
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith("curate: stopped. What is finished is kept: run the same command again to go on.\n")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()
