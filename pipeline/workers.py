"""Beam's local runner over worker processes of our own: forked in milliseconds, and missed when they die.

FnApiRunner's own multi_processing mode starts a fresh interpreter per worker (about 1.5 s) and, when one dies (out of
memory, a segmentation fault in an image decoder), waits for it for ever. Here the standard library's forkserver imports
Beam once, beside the driver's own start-up, and each worker is a fork of it; the runner is told at once of a death.
"""

import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess

from pipeline.failures import marked

_CONTEXT = multiprocessing.get_context("forkserver")

#: What workers need whatever they do. Imported in the fork server, so each worker has it for nothing.
_PRELOAD = [
    "pipeline.beam_logging", "pipeline.transforms", "apache_beam.runners.worker.sdk_worker", "pyarrow.compute",
    "pyarrow.parquet",
]  # fmt: skip


def start_fork_server(preload: list[str]) -> None:
    """Starts the process that workers are forked from; it imports Beam and `preload` while the caller goes on.

    Call it first thing, before Beam is imported, so that both imports run side by side. Workers compute on one thread
    each: the number of workers is what bounds the cores in use.
    """
    # Two malloc arenas: with one for every thread, a worker that fetches images takes an eighth more memory.
    settings = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        _CONTEXT.set_forkserver_preload([*_PRELOAD, *preload, "pipeline.frozen"])
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(control_address: str, worker_id: str) -> None:
    """The life of one worker: serve the runner until it hangs up, and never outlive the driver."""
    import pyarrow as pa
    from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
        DATA_BUFFER_TIME_LIMIT_MS,
        FNAPI_RUNNER_CAPABILITIES,
    )
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    # Beam logs and prints every exception here, besides sending it to the driver, which tells it once.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    pa.set_cpu_count(1)
    driver = multiprocessing.parent_process()
    assert driver is not None

    def follow_driver() -> None:
        driver.join()
        os._exit(1)

    threading.Thread(target=follow_driver, daemon=True).start()
    SdkHarness(
        control_address,
        worker_id=worker_id,
        state_cache_size=0,
        data_buffer_time_limit_ms=DATA_BUFFER_TIME_LIMIT_MS,
        runner_capabilities=FNAPI_RUNNER_CAPABILITIES,
    ).run()


def local_runner(workers: int):
    """A Beam runner on this machine with that many worker processes.

    Returns:
        An apache_beam runner. When a worker dies the run raises RuntimeError within a second, naming the signal.
    """
    from apache_beam.portability.api import beam_fn_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
    from apache_beam.transforms import environments

    urn = "clip-curate:environment:forked:v1"

    @environments.Environment.register_urn(urn, None)
    class ForkedWorkers(environments.Environment):
        def to_runner_api_parameter(self, context):
            return urn, None

        @staticmethod
        def from_runner_api_parameter(payload, capabilities, artifacts, context):
            return ForkedWorkers(capabilities=capabilities, artifacts=artifacts)

        @classmethod
        def default(cls):
            return cls(capabilities=environments.python_sdk_capabilities(), artifacts=())

    @worker_handlers.WorkerHandler.register_environment(urn, bytes)
    class ForkedWorkerHandler(worker_handlers.GrpcWorkerHandler):
        def __init__(self, payload, state, provision_info, grpc_server):
            super().__init__(state, provision_info, grpc_server)

        def start_worker(self) -> None:
            self.stopping = False
            self.process = _CONTEXT.Process(target=_work, args=(self.control_address, self.worker_id), daemon=True)
            self.process.start()
            threading.Thread(target=self._watch, daemon=True).start()

        def stop_worker(self) -> None:
            self.process.join(timeout=5)
            if self.process.is_alive():
                self.process.kill()

        def close(self) -> None:
            self.stopping = True
            super().close()

        def _watch(self) -> None:
            self.process.join()
            if self.stopping:
                return
            # Every instruction the worker was given gets an error for an answer: that, not an exception in a thread,
            # is what the runner's waiting loops look at.
            conn = self.control_conn
            message = _epitaph(self.process)
            for instruction_id, future in list(conn._futures_by_id.items()):
                future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=instruction_id, error=message))

    return fn_runner.FnApiRunner(default_environment=ForkedWorkers.default())


def _epitaph(process: BaseProcess) -> str:
    code = process.exitcode
    how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
    hint = " This is what the kernel does when memory runs out: try fewer --workers." if code == -signal.SIGKILL else ""
    return marked(
        f"local runner: a worker process (pid {process.pid}) {how} in the middle of its work.{hint} "
        f"What is finished is kept: run the same command again to go on."
    )
