"""Flink and Spark: what is checked before any work, Beam's job server, and what every job is given."""

import atexit
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from jobs.launch import guard
from metadata.errors import CurateError, printable

#: Masters that mean a Flink inside the job server.
_EMBEDDED = ("[local]", "[auto]")

#: What Spark needs of Java 17 besides what Beam opens for it: where a task fails, its thread would die without a word,
#: and the job never end.
_OPENED = {"flink": [], "spark": ["--add-opens=java.base/sun.security.action=ALL-UNNAMED"]}

#: What a cluster's machines start for every worker, see jobs.launch.worker. They go on from one stage to the next.
_WORKERS = [
    "--environment_type=PROCESS", '--environment_config={"command": "curate-worker"}',
    "--environment_cache_millis=60000",
]  # fmt: skip

_START_S = 120.0


class Engine:
    """A Flink or Spark that a run's jobs are handed to.

    Args:
        runner: `flink` or `spark`.
        workers: processes of one that is embedded in the job server; a cluster's are as many as its slots.
        options: Beam's, from the user; they count before ours.
        job: how the names of the run's jobs begin; the user's own follows.

    Raises:
        CurateError: there is no Java, the cluster does not answer or is of another version.
    """

    def __init__(self, runner: str, workers: int, options: Sequence[str], job: str) -> None:
        from apache_beam.options import pipeline_options as beams

        self.runner, self.workers, self.given, self.job = runner, workers, list(options), job
        asked = beams.PipelineOptions(self.given)
        self.endpoint = asked.view_as(beams.PortableOptions).job_endpoint
        self.rest, self.parallelism = "", 0
        self.defaults: list[str] = []
        # An orphan is found by how its name begins, so the user's doesn't replace ours.
        self.name = "-".join(filter(None, [job, asked.view_as(beams.GoogleCloudOptions).job_name]))
        if not asked.view_as(beams.PortableOptions).environment_type:
            self.defaults += _WORKERS
        if runner == "flink":
            flink = asked.view_as(beams.FlinkRunnerOptions)
            if flink.flink_master not in _EMBEDDED:
                self.parallelism = flink.parallelism
                self.rest = flink.flink_master if "://" in flink.flink_master else f"http://{flink.flink_master}"
                self.defaults.append(f"--flink_version={self._version(flink.PUBLISHED_FLINK_VERSIONS)}")
        else:
            self.defaults.append(f"--spark_master_url=local[{workers}]")
        java = asked.view_as(beams.JobServerOptions).job_server_java_launcher
        if not self.endpoint and not shutil.which(java):
            raise CurateError(f"{java}: it was not found, but --runner {runner} needs Java for Beam's job server. "
                              f"Install Java 17, or give the --job_endpoint of a job server.")  # fmt: skip

    def options(self) -> list[str]:
        """Beam's options for one job, when the job server runs and no earlier driver's job does.

        Raises:
            CurateError: the job server does not start, or the cluster does not answer or has too few slots.
        """
        processes = self.workers
        sizes = [f"--parallelism={processes}"]
        if self.rest:
            overview = self._ask("/overview")
            if not overview["slots-total"]:
                raise CurateError(f"--flink_master {self.rest}: the cluster has no TaskManager, but workers run beside "
                                  f"them. Start one, then run the same command again.")  # fmt: skip
            if self.parallelism > overview["slots-total"]:  # for which a job would wait until it is lost
                raise CurateError(f"--parallelism {self.parallelism}: the cluster at {self.rest} has slots for "
                                  f"{overview['slots-total']}, but a job needs all at once. Ask for "
                                  f"{overview['slots-total']} at most, or start more TaskManagers; then run the same "
                                  f"command again.")  # fmt: skip
            try:
                guard.cancel(self.rest, self.job)
            except OSError as error:
                raise CurateError(f"--flink_master {self.rest}: {printable(error)}. Cancel them, then run the same "
                                  f"command again.") from error  # fmt: skip
            sizes = [f"--parallelism={overview['slots-total']}"]
            processes = -(-overview["slots-total"] // overview["taskmanagers"])
        options = [*self.defaults, *sizes, f"--sdk_worker_parallelism={processes}", *self.given,
                   f"--job_name={self.name}"]  # fmt: skip
        if self.rest:
            options.append(f"--flink_master={self.rest}")
        if not self.endpoint:
            self.endpoint = self._start(options)
        return [*options, f"--job_endpoint={self.endpoint}"]

    def _version(self, published: Sequence[str]) -> str:
        """The cluster's, as Beam calls it."""
        found = str(self._ask("/config").get("flink-version"))
        version = ".".join(found.split(".")[:2])
        if version not in published:
            raise CurateError(f"--flink_master {self.rest}: the cluster is Flink {printable(found)}, but Beam runs on "
                              f"{', '.join(published)}. Use another cluster.")  # fmt: skip
        return version

    def _ask(self, path: str) -> dict:
        try:
            return guard.ask(self.rest, path)
        except OSError as error:
            reason = printable(getattr(error, "reason", error))
            raise CurateError(f"--flink_master {self.rest}: {reason}, but Flink's REST interface must answer there. "
                              f"Start the cluster, then run the same command again; or name the port of its web page."
                              ) from error  # fmt: skip

    def _start(self, options: list[str]) -> str:
        """Starts Beam's job server, and the guard that ends it with this process; gives its address."""
        folder = tempfile.mkdtemp(prefix="curate-job-server-")
        # What is registered last is done first. The guard itself removes the folder where this process is killed.
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        command, endpoint = _command(self.runner, [f"--artifacts_dir={folder}", *options])
        # An embedded cluster's workers are this environment's.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
        process = subprocess.Popen(
            [sys.executable, "-I", guard.__file__, folder, self.rest, self.job, *command],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path}, start_new_session=True,
        )  # fmt: skip
        atexit.register(process.communicate)  # which ends its input, and waits
        _wait_for(endpoint, process, folder)
        return endpoint


def _command(runner: str, options: list[str]) -> tuple[list[str], str]:
    """What starts the job server, and the address that it will have; its jar is downloaded when it isn't there."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability import flink_runner, spark_runner

    kinds = {"flink": flink_runner.FlinkJarJobServer, "spark": spark_runner.SparkJarJobServer}
    try:
        command, endpoint = kinds[runner](PipelineOptions(options)).subprocess_cmd_and_endpoint()
    except (OSError, RuntimeError, ValueError) as error:
        raise CurateError(
            f"Beam's job server for {runner}: {printable(error, 1000)}, but the jobs go through it. "
            f"Give its jar by --{runner}_job_server_jar."
        ) from error
    java, *words = map(str, command)
    return [java, *_OPENED[runner], *words], endpoint


def _wait_for(endpoint: str, process: subprocess.Popen, folder: str) -> None:
    import grpc

    end = time.monotonic() + _START_S
    with grpc.insecure_channel(endpoint) as channel:
        ready = grpc.channel_ready_future(channel)
        while True:
            try:
                return ready.result(timeout=0.2)
            except grpc.FutureTimeoutError:
                if process.poll() is None and time.monotonic() < end:
                    continue
            lines = (pathlib.Path(folder) / "log").read_text(errors="replace").strip().splitlines() or ["no word"]
            raise CurateError(f"Beam's job server: it does not start ({printable(lines[-1], 500)}). "
                              f"Give a jar that fits by --flink_job_server_jar or --spark_job_server_jar.")  # fmt: skip
