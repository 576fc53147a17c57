"""Worker processes, forked in milliseconds and missed when they die.

The driver has a nursery: a process that is forked from it as soon as it has imported Beam, while it still has one
thread, and that forks the workers. So Beam is imported once, its memory is shared by all, and whoever ordered a worker
is told at once of its death.
"""

import atexit
import contextlib
import ctypes
import errno
import gc
import importlib
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from pipeline import signals
from pipeline.failures import marked

#: What workers need whatever they do.
_PRELOAD = [
    "pipeline.beam_logging", "pipeline.beam_memos", "pipeline.transforms", "pipeline.local_runner", "pyarrow.compute",
    "pyarrow.parquet",
]  # fmt: skip

#: Workers compute on one thread each: the number of workers is what bounds the cores in use.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

#: Packages whose own threads, which Python knows nothing of, a process may have once it has imported them: their pools
#: wait for these for ever in a fork.
_THREADED = {"cv2", "torch"}

#: Bytes of a worker's number, which is all of an order but the pipe's end that comes with it.
_NUMBER_BYTES = 8

#: Of glibc's malloc.h: M_ARENA_MAX, as with one for every thread a worker that fetches takes an eighth more memory; and
#: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, so that arrays lie where others have lain: to have the kernel give and take
#: such memory again and again was a tenth of the time of choosing.
_MALLOPT = {-8: 2, -1: 64 << 20, -3: 32 << 20}


class _Death(NamedTuple):
    """The nursery's answer, whenever it comes; `code` as multiprocessing has it, negative for a signal.

    With an `error` where there never was a worker: nothing could be forked.
    """

    number: int
    pid: int
    code: int
    error: str = ""


class _Nursery:
    """The driver's side: orders workers and hears of their deaths."""

    def __init__(self, preload: Sequence[str]) -> None:
        self.numbers = itertools.count()
        self.mourners: dict[int, Callable[[str], None]] = {}
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
            self.orders, orders = socket.socketpair()
            self.deaths, deaths = context.Pipe(duplex=False)
            with signals.held_back():
                context.Process(target=_tend, args=(orders, deaths, list(preload)), name="nursery").start()
                atexit.register(self._dismiss)  # before Python, at its exit, waits for the nursery's end
                orders.close()
                deaths.close()
        finally:
            gc.enable()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        threading.Thread(target=self._listen, daemon=True).start()

    def fork(self, pipe: Connection, mourn: Callable[[str], None]) -> None:
        """See `fork` below."""
        number = next(self.numbers)
        self.mourners[number] = mourn
        with contextlib.suppress(OSError):  # it may have been killed
            socket.send_fds(self.orders, [number.to_bytes(_NUMBER_BYTES, "big")], [pipe.fileno()])
        if self.gone:  # and the listener with it
            self._mourn_all()

    def _dismiss(self) -> None:
        with contextlib.suppress(OSError):
            self.orders.shutdown(socket.SHUT_WR)

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                death = self.deaths.recv()
                self.mourners.pop(death.number)(_epitaph(death))
        self.gone = True
        self._mourn_all()

    def _mourn_all(self) -> None:
        """The nursery has died, and its workers with it."""
        for number in list(self.mourners):
            if mourn := self.mourners.pop(number, None):
                mourn(_epitaph(_Death(number, 0, -signal.SIGKILL)))


_nursery: _Nursery | None = None


def start_nursery(preload: Sequence[str] = ()) -> None:
    """Imports Beam and starts the process that workers are forked from, which goes on to import `preload`.

    Call it first thing: it is quick and shares memory only while the caller has one thread. Later calls do nothing.
    """
    global _nursery
    _nursery = _nursery or _Nursery(preload)


def fork(pipe: Connection, mourn: Callable[[str], None]) -> None:
    """Has a worker forked by the nursery, which must have been started.

    Args:
        pipe: the worker's end of a pipe, see local_runner.serve; the caller closes its own copy then.
        mourn: is called in another thread, with a sentence, when the worker has ended, however it has.
    """
    assert _nursery is not None
    _nursery.fork(pipe, mourn)


def keep_memory() -> None:
    """Has glibc, where the process has it, keep memory as workers do."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)


def _tend(orders: socket.socket, deaths: Connection, preload: list[str]) -> None:
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
    workers: dict[int, tuple[int, BaseProcess]] = {}
    try:
        _fork_and_mourn(orders, deaths, workers)
    finally:  # or multiprocessing would end the workers by a signal that they ignore, and wait
        for _, worker in workers.values():
            worker.kill()
        os._exit(0)


def _fork_and_mourn(orders: socket.socket, deaths: Connection, workers: dict[int, tuple[int, BaseProcess]]) -> None:
    """Keeps `workers`, which are numbered by the driver, by their sentinels."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    context = multiprocessing.get_context("fork")
    while True:
        for ready in wait([orders, driver.sentinel, *workers]):
            if isinstance(ready, int) and ready in workers:
                number, worker = workers.pop(ready)
                worker.join()
                deaths.send(_Death(number, worker.pid or 0, worker.exitcode or 0))
                continue
            message, handles, _, _ = socket.recv_fds(orders, _NUMBER_BYTES, 1) if ready is orders else (b"", [], 0, 0)
            if not message:
                return
            number = int.from_bytes(message, "big")
            try:
                if not handles:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                # Closed here, or the next worker would have it too, and nobody would see this one's end.
                with Connection(handles[0]) as pipe:
                    worker = context.Process(target=_work, args=(pipe,), daemon=True)
                    worker.start()
                workers[worker.sentinel] = number, worker
            except OSError as error:
                deaths.send(_Death(number, 0, 0, error.strerror or str(error)))


def _work(pipe: Connection) -> None:
    """The life of one worker, which never outlives the nursery."""
    import pyarrow as pa

    from pipeline.local_runner import serve

    pa.set_cpu_count(1)
    nursery = multiprocessing.parent_process()
    assert nursery is not None

    def follow() -> None:
        nursery.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    serve(pipe)


def _epitaph(death: _Death) -> str:
    if death.error:
        return marked(
            f"local runner: no worker process could be forked ({death.error}). What is finished is kept: run the same "
            f"command again with fewer --workers."
        )
    who = f"a worker process (pid {death.pid})" if death.pid else "the process that workers are forked from"
    names = {number.value: number.name for number in signal.Signals}  # not the real-time ones
    killed = f"was killed by {names.get(-death.code, f'signal {-death.code}')}"
    how = killed if death.code < 0 else f"ended with code {death.code}"
    hint = " This is what the kernel does when memory runs out: try fewer --workers." if death.code == -9 else ""
    return marked(
        f"local runner: {who} {how} in the middle of its work.{hint} "
        f"What is finished is kept: run the same command again to go on."
    )
