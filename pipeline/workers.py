"""Beam's local runner over worker processes of our own: forked in milliseconds, and missed when they die.

FnApiRunner's own multi_processing mode starts a fresh interpreter per worker (about 1.5 s) and, when one dies (out of
memory, a segmentation fault in an image decoder), waits for it for ever. Here the driver has a nursery: a process that
is forked from it as soon as it has imported Beam, while it still has one thread, and that forks the workers. So Beam is
imported once, its memory is shared by all, and the runner is told at once of a death.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import itertools
import logging
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from pipeline import signals
from pipeline.failures import marked

#: What workers need whatever they do.
_PRELOAD = [
    "pipeline.beam_logging", "pipeline.beam_memos", "pipeline.transforms", "apache_beam.runners.worker.sdk_worker",
    "apache_beam.runners.portability.fn_api_runner.worker_handlers", "grpc._channel", "grpc._interceptor",
    "grpc._utilities", "pyarrow.compute", "pyarrow.parquet",
]  # fmt: skip

#: Workers compute on one thread each: the number of workers is what bounds the cores in use.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

#: Seconds for which the end of a worker is waited for, once its connection has closed, so that it can be told.
_PATIENCE_S = 5.0

#: Packages whose own threads, which Python knows nothing of, a process may have once it has imported them: their pools
#: wait for these for ever in a fork.
_THREADED = {"cv2", "torch"}

#: How often Beam sends elements before the end of a bundle, in ms: at any other it starts a thread for each bundle.
_NEVER = 0

#: Of glibc's malloc.h: M_ARENA_MAX, as with one for every thread a worker that fetches takes an eighth more memory; and
#: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, so that arrays lie where others have lain: to have the kernel give and take
#: such memory again and again was a tenth of the time of choosing.
_MALLOPT = {-8: 2, -1: 64 << 20, -3: 32 << 20}


class _Birth(NamedTuple):
    """The driver's order: fork a worker that serves the runner at that address."""

    number: int
    control_address: str
    worker_id: str


class _Death(NamedTuple):
    """The nursery's answer, whenever it comes; `code` as multiprocessing has it, negative for a signal."""

    number: int
    pid: int
    code: int


class _Nursery:
    """The driver's side: orders workers and hears of their deaths."""

    def __init__(self, preload: Sequence[str]) -> None:
        self.numbers = itertools.count()
        self.mourners: dict[int, Callable[[_Death], None]] = {}
        self.gone = False
        before = {name: os.environ.get(name) for name in _ONE_THREAD}
        os.environ.update(_ONE_THREAD)  # read when numpy is imported, here or there
        gc.disable()  # what is imported stays: to look through it for garbage again and again would find none
        try:
            for name in _PRELOAD:
                importlib.import_module(name)
            gc.freeze()  # a collection writes to all that it visits, and what is written is shared no longer
            # A copy of a process has only the thread that copied it; locks that others held stay locked in it for ever.
            alone = threading.active_count() == 1 and not _THREADED & sys.modules.keys()
            context: Any = multiprocessing.get_context("fork" if alone else "spawn")
            self.connection, theirs = context.Pipe()
            with signals.held_back():
                context.Process(target=_tend, args=(theirs, list(preload)), name="nursery").start()
                atexit.register(self._dismiss)  # before Python, at its exit, waits for the nursery's end
                theirs.close()
        finally:
            gc.enable()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        threading.Thread(target=self._listen, daemon=True).start()

    def fork(self, control_address: str, worker_id: str, mourn: Callable[[_Death], None]) -> None:
        """Has a worker forked; `mourn` is called in another thread when it has ended, however it has."""
        birth = _Birth(next(self.numbers), control_address, worker_id)
        self.mourners[birth.number] = mourn
        with contextlib.suppress(OSError):
            self.connection.send(birth)
        if self.gone:  # and the listener with it
            self._mourn_all()

    def _dismiss(self) -> None:
        with contextlib.suppress(OSError):  # it may have been killed
            self.connection.send(None)

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                death = self.connection.recv()
                self.mourners.pop(death.number)(death)
        self.gone = True
        self._mourn_all()

    def _mourn_all(self) -> None:
        """The nursery has died, and its workers with it."""
        for number in list(self.mourners):
            if mourn := self.mourners.pop(number, None):
                mourn(_Death(number, 0, -signal.SIGKILL))


_nursery: _Nursery | None = None


def start_nursery(preload: Sequence[str] = ()) -> None:
    """Imports Beam and starts the process that workers are forked from, which goes on to import `preload`.

    Call it first thing: it is quick and shares memory only while the caller has one thread. Later calls do nothing.
    """
    global _nursery
    _nursery = _nursery or _Nursery(preload)


def keep_memory() -> None:
    """Has glibc, where the process has it, keep memory as workers do."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)


def _tend(orders: Connection, preload: list[str]) -> None:
    """The life of the nursery: forks workers as ordered and reports their deaths, until the driver is gone."""
    for ending in signals.ENDINGS:  # which all processes may be sent: the driver's to handle
        signal.signal(ending, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # or a reader of the driver's output would wait for these processes too
        os.dup2(nowhere, stream)
    keep_memory()
    gc.disable()  # as in the driver
    for name in (*_PRELOAD, *preload):
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    driver = multiprocessing.parent_process()
    assert driver is not None
    fork = multiprocessing.get_context("fork")
    workers: dict[int, tuple[int, BaseProcess]] = {}
    while True:
        for ready in wait([orders, driver.sentinel, *workers]):
            if isinstance(ready, int) and ready in workers:
                number, worker = workers.pop(ready)
                worker.join()
                with contextlib.suppress(OSError):
                    orders.send(_Death(number, worker.pid or 0, worker.exitcode or 0))
                continue
            try:
                birth = orders.recv() if ready is orders else None
            except EOFError:
                birth = None
            if birth is None:
                for _, worker in workers.values():
                    worker.kill()
                os._exit(0)
            worker = fork.Process(target=_work, args=(birth.control_address, birth.worker_id), daemon=True)
            worker.start()
            workers[worker.sentinel] = birth.number, worker


def _work(control_address: str, worker_id: str) -> None:
    """The life of one worker: serve the runner until it hangs up, and never outlive the nursery."""
    import pyarrow as pa
    from apache_beam.internal import pickler
    from apache_beam.runners.portability.fn_api_runner.worker_handlers import FNAPI_RUNNER_CAPABILITIES
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    # Beam logs and prints every exception here, besides sending it to the driver, which tells it once.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    _leave_unmeasured()
    pickler.desired_pickle_lib = _QuickPickles  # type: ignore[assignment]
    pa.set_cpu_count(1)
    nursery = multiprocessing.parent_process()
    assert nursery is not None

    def follow() -> None:
        nursery.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    SdkHarness(
        control_address,
        worker_id=worker_id,
        state_cache_size=0,
        data_buffer_time_limit_ms=_NEVER,
        runner_capabilities=FNAPI_RUNNER_CAPABILITIES,
    ).run()


def _leave_unmeasured() -> None:
    """Has Beam neither sample what step a bundle is in nor count elements: nobody here asks for it.

    It samples in a thread that sleeps ever longer, and that the end of a bundle waits for: a tenth of the time that the
    bundle took, up to 200 ms.
    """
    from apache_beam.runners.worker import bundle_processor, statesampler

    class Unsampled(statesampler.StateSampler):
        def start(self) -> None:
            self.tracked_thread = threading.current_thread()
            statesampler.set_current_tracker(self)
            self.started = True

        def stop(self) -> None:
            statesampler.set_current_tracker(None)
            self.finished = True

    statesampler.StateSampler = Unsampled  # type: ignore[misc]
    bundle_processor.BundleProcessor.monitoring_infos = lambda _: []  # type: ignore[assignment, method-assign]


class _QuickPickles:
    """Beam's pickles compressed by zlib: by bz2, as it does for all runners, each takes six times as long."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> bytes:
        from apache_beam.internal import cloudpickle_pickler

        return cloudpickle_pickler.dumps(value, use_zlib=True)

    @staticmethod
    def loads(encoded: bytes, **_: Any) -> Any:
        from apache_beam.internal import cloudpickle_pickler

        return cloudpickle_pickler.loads(encoded, use_zlib=True)


def local_runner(workers: int):
    """A Beam runner on this machine with that many worker processes.

    Returns:
        An apache_beam runner. When a worker dies the run raises RuntimeError within a second, naming the signal.
    """
    start_nursery()
    from apache_beam.internal import pickler
    from apache_beam.portability.api import beam_fn_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
    from apache_beam.transforms import environments

    worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = _NEVER
    urn, epitaphs = "clip-curate:environment:forked:v1", queue.SimpleQueue[str]()
    connections: list[Any] = []

    def fail(error: str) -> None:
        """Ends the run: the runner waits for its workers one after the other, and each may have hours of work.

        Every instruction that a worker was given, or will be, gets an error for an answer: that, not an exception in a
        thread, is what the runner's waiting loops look at.
        """
        answer = beam_fn_api_pb2.InstructionResponse(error=error)
        for connection in connections:

            def refuse(request, push=connection.push):
                is_last = request is worker_handlers.BeamFnControlServicer._DONE_MARKER
                return push(request) if is_last else worker_handlers.ControlFuture("", answer)

            connection.push = refuse
        time.sleep(0.1)  # one that was being pushed just now is among the waiting then
        for future in [future for connection in connections for future in list(connection._futures_by_id.values())]:
            future.set(answer)

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
            # Where a run fails, its connections are closed while this thread reads: its trace would tell users nothing.
            assert self.control_conn is not None
            connections.append(self.control_conn)
            self.control_conn._read_thread = threading.Thread(target=_read_quietly, args=(self.control_conn, fail))
            assert _nursery is not None
            _nursery.fork(self.control_address, self.worker_id, self._mourn)

        def stop_worker(self) -> None:
            pass  # it ends as its connection does, or with the driver: nobody has to wait

        def close(self) -> None:
            self.stopping = True
            super().close()

        def _mourn(self, death: _Death) -> None:
            error = _epitaph(death)
            if death.code or not self.stopping:
                epitaphs.put(error)
            if not self.stopping:
                fail(error)

    class LocalRunner(fn_runner.FnApiRunner):
        def run_pipeline(self, pipeline, options):
            before, pickler.desired_pickle_lib = pickler.desired_pickle_lib, _QuickPickles  # as in the workers
            try:
                return super().run_pipeline(pipeline, options)  # waits for its end
            except RuntimeError as error:
                # That of a worker whose output was waited for: its end is seen here before it is told.
                if "Channel closed prematurely" not in str(error):
                    raise
                with contextlib.suppress(queue.Empty):
                    raise RuntimeError(epitaphs.get(timeout=_PATIENCE_S)) from error
                raise
            finally:
                pickler.desired_pickle_lib = before

    return LocalRunner(default_environment=ForkedWorkers.default())


def _read_quietly(connection: Any, fail: Callable[[str], None]) -> None:
    """The reader of a connection to a worker, until it is closed; the nursery tells of a worker that has died."""
    import grpc

    with contextlib.suppress(grpc.RpcError):
        for answer in connection._input:
            connection._futures_by_id.pop(answer.instruction_id).set(answer)
            if answer.error:
                fail(answer.error)


def _epitaph(death: _Death) -> str:
    who = f"a worker process (pid {death.pid})" if death.pid else "the process that workers are forked from"
    names = {number.value: number.name for number in signal.Signals}  # not the real-time ones
    killed = f"was killed by {names.get(-death.code, f'signal {-death.code}')}"
    how = killed if death.code < 0 else f"ended with code {death.code}"
    hint = " This is what the kernel does when memory runs out: try fewer --workers." if death.code == -9 else ""
    return marked(
        f"local runner: {who} {how} in the middle of its work.{hint} "
        f"What is finished is kept: run the same command again to go on."
    )
