"""Keeps a job server while the driver lives, and ends it and its jobs when the driver has ended, however it has.

A program of its own, of the standard library alone: `python guard.py FOLDER REST JOB COMMAND…`. It waits for the end of
its standard input, which the driver holds open. A driver that is killed could not cancel the job that a cluster has of
it, and that would go on writing into the run's folder, perhaps beside the run that comes next.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

_UNDER_WAY = ("INITIALIZING", "CREATED", "RUNNING", "RESTARTING", "FAILING", "CANCELLING", "RECONCILING", "SUSPENDED")


def main(folder: str, rest: str, job: str, *command: str) -> None:
    """Runs the command, with its output in `folder`, until standard input ends; then cancels, kills and removes.

    Args:
        rest: the address of the cluster's REST interface, empty where the job server is the cluster.
        job: how the names of the jobs begin that are the driver's.
    """
    with open(os.path.join(folder, "log"), "wb") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def follow() -> None:  # the driver sees that this process has ended, and reads the log
        code = server.wait()
        os._exit(code or 1)

    threading.Thread(target=follow, daemon=True).start()
    sys.stdin.buffer.read()
    if rest:
        with contextlib.suppress(OSError):
            cancel(rest, job)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)  # with the workers of an embedded cluster, which are in its group


def cancel(rest: str, job: str, patience_s: float = 30.0) -> None:
    """Cancels the cluster's jobs of that name, and waits until they have ended.

    Raises:
        OSError: the cluster doesn't answer, or they have not ended in time.
    """
    end = time.monotonic() + patience_s
    while found := [j["jid"] for j in ask(rest, "/jobs/overview")["jobs"]
                    if j["name"].startswith(job) and j["state"] in _UNDER_WAY]:  # fmt: skip
        if time.monotonic() > end:
            raise TimeoutError(f"the jobs {', '.join(found)} of an earlier run do not end")
        for each in found:
            with contextlib.suppress(urllib.error.HTTPError):  # it has ended meanwhile
                ask(rest, f"/jobs/{each}", "PATCH")
        time.sleep(0.2)


def ask(rest: str, path: str, method: str = "GET") -> dict:
    """What the cluster's REST interface answers, as JSON.

    Raises:
        OSError: it doesn't answer, or not with a JSON object.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(rest + path, method=method), timeout=10) as answer:
            found = json.loads(answer.read(1 << 24))
    except http.client.InvalidURL as error:
        raise OSError(str(error)) from error
    except (http.client.HTTPException, ValueError) as error:
        raise OSError("what answers is not Flink") from error
    if not isinstance(found, dict):
        raise OSError("what answers is not Flink")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
