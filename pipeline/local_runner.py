"""Beam's local runner over worker processes of our own, which are forked in milliseconds and missed when they die.

FnApiRunner's own multi_processing mode starts a fresh interpreter per worker (about 1.5 s) and, when one dies (out of
memory, a segmentation fault in an image decoder), waits for it for ever. It also speaks to each by four gRPC servers,
and a message costs milliseconds. Here a worker is forked, see pipeline.workers, and has one pipe to the runner:

    runner to worker    (request, descriptor or None, inputs): run a bundle
    worker to runner    ("state", key, token): give me that state, which is part of a side input
    runner to worker    (state, token)
    worker to runner    ("done", response, outputs)

All but the names are bytes: Beam's messages, and elements as Beam encodes them.
"""

import contextlib
import os
import select
import socket
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any

from apache_beam.internal import cloudpickle_pickler, pickler
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
from apache_beam.runners.worker import bundle_processor, data_plane, sdk_worker, statesampler
from apache_beam.runners.worker.statecache import StateCache
from apache_beam.transforms import environments

from pipeline import workers
from pipeline.failures import marked

#: Seconds for which the end of a worker is waited for, once its pipe has closed, so that it can be told.
_PATIENCE_S = 5.0


class LocalRunner(fn_runner.FnApiRunner):
    """A Beam runner on this machine, for one run at a time.

    When a worker dies the run raises RuntimeError within a second, naming the signal. Its workers are as many as the
    options' direct_num_workers.
    """

    def __init__(self) -> None:
        workers.start_nursery()
        super().__init__(default_environment=environments.EmbeddedPythonEnvironment.default())

    def run_pipeline(self, pipeline, options):
        """Runs the pipeline and waits for its end."""
        with _ours():
            return super().run_pipeline(pipeline, options)


_BEAMS = pickler.desired_pickle_lib, fn_runner.WorkerHandlerManager
_running = 0
_counting = threading.Lock()


@contextlib.contextmanager
def _ours() -> Iterator[None]:
    """Has Beam use our workers and pickles as long as any run is on: one that was stopped may end in the next one."""
    global _running
    with _counting:
        _running += 1
        pickler.desired_pickle_lib, fn_runner.WorkerHandlerManager = _QuickPickles, _Team  # type: ignore
    try:
        yield
    finally:
        with _counting:
            _running -= 1
            if not _running:
                pickler.desired_pickle_lib, fn_runner.WorkerHandlerManager = _BEAMS  # type: ignore[misc]


class _QuickPickles:
    """Beam's pickles compressed by zlib: by bz2, as it does for all runners, each takes six times as long."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> bytes:
        return cloudpickle_pickler.dumps(value, use_zlib=True)

    @staticmethod
    def loads(encoded: bytes, **_: Any) -> Any:
        return cloudpickle_pickler.loads(encoded, use_zlib=True)


class _Team:
    """The workers of one run, in the place of Beam's WorkerHandlerManager."""

    def __init__(self, _environments: Any, _provision_info: Any) -> None:
        self.state_servicer = worker_handlers.StateServicer()
        self.descriptors: dict[str, Any] = {}
        self.workers: list[_Worker] = []
        self.failures: list[str] = []
        self.over = threading.Event()  # the run, in failure or not

    def register_process_bundle_descriptor(self, descriptor: Any) -> None:
        self.descriptors[descriptor.id] = descriptor

    def get_worker_handlers(self, _environment_id: str | None, count: int) -> "list[_Worker]":
        while len(self.workers) < count:
            self.workers.append(_Worker(self))
        return self.workers[:count]

    def fail(self, error: str) -> None:
        """Ends the run: Beam waits for its workers one after the other, and each may have hours of work."""
        self.failures.append(error)
        self.over.set()
        for worker in self.workers:
            worker.hang_up()

    def close_all(self) -> None:
        self.over.set()
        for worker in self.workers:
            worker.close()


class _Worker:
    """The runner's side of a worker, in the place of Beam's WorkerHandler; and what it is controlled by."""

    def __init__(self, team: _Team) -> None:
        self.team = team
        self.known: set[str] = set()  # descriptors that the worker has
        self.control_conn, self.data_conn = self, data_plane.InMemoryDataChannel()
        self.busy, self.ending = threading.Lock(), threading.Lock()
        self.pipe, theirs = Pipe()
        with theirs:
            workers.fork(theirs, self._mourn)

    def data_api_service_descriptor(self) -> None:
        """None: there is no server."""

    state_api_service_descriptor = data_api_service_descriptor

    def push(self, request: Any) -> worker_handlers.ControlFuture:
        """Has the worker run a bundle whose inputs are in `data_conn`, and waits; the outputs are there then."""
        try:
            with self.busy:
                if self.team.over.is_set():
                    raise EOFError
                response = self._run(request)
        except (EOFError, OSError):  # it is gone, or another failed
            self.team.over.wait(_PATIENCE_S)
            error = next(iter(self.team.failures), marked("local runner: a worker process hung up"))
            response = beam_fn_api_pb2.InstructionResponse(instruction_id=request.instruction_id, error=error)
        else:
            if response.error:
                self.team.fail(response.error)
        return worker_handlers.ControlFuture(request.instruction_id, response)

    def _run(self, request: Any) -> Any:
        wanted = request.process_bundle.process_bundle_descriptor_id
        descriptor = None if wanted in self.known else self.team.descriptors[wanted].SerializeToString()
        self.known.add(wanted)
        channel = self.data_conn.inverse()
        self.pipe.send((request.SerializeToString(), descriptor, _taken(channel, request.instruction_id)))
        while (message := self.pipe.recv())[0] == "state":
            _, key, token = message
            self.pipe.send(self.team.state_servicer.get_raw(beam_fn_api_pb2.StateKey.FromString(key), token))
        _, response, outputs = message
        _put(channel, request.instruction_id, outputs)
        return beam_fn_api_pb2.InstructionResponse.FromString(response)

    def hang_up(self) -> None:
        """Ends the worker, which nobody has to wait for; whoever waits for what it sends gets an EOFError."""
        with self.ending:
            if not self.pipe.closed:
                end = socket.socket(fileno=self.pipe.fileno())
                with contextlib.suppress(OSError):  # it has ended
                    end.shutdown(socket.SHUT_RDWR)
                end.detach()

    def close(self) -> None:
        self.hang_up()
        with self.busy, self.ending:
            self.pipe.close()

    def _mourn(self, epitaph: str) -> None:
        if not self.team.over.is_set():
            self.team.fail(epitaph)


def _taken(channel: data_plane.InMemoryDataChannel, bundle: str) -> list[tuple[str, bytes]]:
    """The elements of a bundle that a channel has, and the names of their transforms."""
    return [(element.transform_id, element.data) for element in channel.input_elements(bundle, ())]


def _put(channel: data_plane.InMemoryDataChannel, bundle: str, elements: list[tuple[str, bytes]]) -> None:
    for transform, data in elements:
        stream = channel.output_stream(bundle, transform)
        stream.write(data)
        stream.close()


def serve(pipe: Connection) -> None:
    """The life of a worker: runs bundles until the runner hangs up."""
    _leave_unmeasured()
    pickler.desired_pickle_lib = _QuickPickles  # type: ignore[assignment]
    channel, descriptors = data_plane.InMemoryDataChannel(), dict[str, Any]()
    state = sdk_worker.GlobalCachingStateHandler(StateCache(0), _State(pipe))
    processors = sdk_worker.BundleProcessorCache(
        worker_handlers.FNAPI_RUNNER_CAPABILITIES,
        worker_handlers.SingletonStateHandlerFactory(state),
        data_plane.InMemoryDataChannelFactory(channel.inverse()),
        descriptors,
    )
    worker = sdk_worker.SdkWorker(processors)
    at_work, alone = threading.Event(), threading.Event()
    threading.Thread(target=_follow, args=(pipe, at_work, alone), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            encoded, descriptor, inputs = pipe.recv()
            at_work.set()
            if alone.is_set():
                break
            request = beam_fn_api_pb2.InstructionRequest.FromString(encoded)
            bundle = request.instruction_id
            if descriptor is not None:
                found = beam_fn_api_pb2.ProcessBundleDescriptor.FromString(descriptor)
                descriptors[found.id] = found
            _put(channel, bundle, inputs)
            try:
                response = worker.do_instruction(request)
            except Exception:
                text = traceback.format_exc().encode(errors="backslashreplace").decode()
                response = beam_fn_api_pb2.InstructionResponse(instruction_id=bundle, error=text)
            at_work.clear()
            pipe.send(("done", response.SerializeToString(), _taken(channel, bundle)))
    processors.shutdown()


def _follow(pipe: Connection, at_work: threading.Event, alone: threading.Event) -> None:
    """Ends the worker when the runner hangs up on it at work: the run has failed or was stopped, and may begin anew."""
    end = select.poll()
    end.register(pipe.fileno(), getattr(select, "POLLRDHUP", 0))  # a pipe that is no more is told unasked
    end.poll()
    alone.set()
    if at_work.is_set():
        os._exit(1)


class _State(sdk_worker.StateHandler):
    """The runner's state, of which our steps have only side inputs."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def get_raw(self, state_key: Any, continuation_token: bytes | None = None) -> tuple[bytes, bytes | None]:
        self.pipe.send(("state", state_key.SerializeToString(), continuation_token))
        return self.pipe.recv()

    def append_raw(self, state_key: Any, data: bytes) -> Any:
        raise NotImplementedError(f"local runner: no step has state of its own, but one writes {state_key}")

    def clear(self, state_key: Any) -> Any:
        raise NotImplementedError(f"local runner: no step has state of its own, but one clears {state_key}")

    @contextlib.contextmanager
    def process_instruction_id(self, bundle_id: str) -> Iterator[None]:
        yield

    def done(self) -> None:
        pass


def _leave_unmeasured() -> None:
    """Has Beam neither sample what step a bundle is in nor count elements: nobody here asks for it.

    It samples in a thread that sleeps ever longer, and that the end of a bundle waits for: a tenth of the time that the
    bundle took, up to 200 ms.
    """

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
