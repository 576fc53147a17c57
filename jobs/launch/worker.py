"""`curate-worker`: the Beam worker that a cluster's machines start. It needs what pip installs, and no container.

Beam's runners start it as `curate-worker --id=… --provision_endpoint=…` (environment type PROCESS) beside the process
that a task runs in, and speak with it over a socket. It ends with that process, however that has ended.
"""

import argparse
import os
import sys
import threading
import time

from jobs.cli import as_command

#: Workers compute on one thread each: what bounds the cores in use is how many of them there are.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_ENDPOINTS = ("logging_endpoint", "artifact_endpoint", "provision_endpoint", "control_endpoint")


def entry() -> None:
    """The console script."""
    as_command(lambda: work(sys.argv[1:]))


def work(argv: list[str]) -> int:
    """Serves the runner until it hangs up."""
    parser = argparse.ArgumentParser("curate-worker", description=__doc__, allow_abbrev=False)
    for name in ("id", *_ENDPOINTS):
        parser.add_argument(f"--{name}", metavar="ID" if name == "id" else "HOST:PORT", default="")
    parser.add_argument("--semi_persist_dir", metavar="FOLDER", default="")
    args, _ = parser.parse_known_args(argv)
    if not (args.id and args.provision_endpoint):
        parser.error("no --id and --provision_endpoint were given, but a runner gives them. This is not for people.")
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    for name, value in _ONE_THREAD.items():
        os.environ.setdefault(name, value)
    os.environ |= _provision(args)

    from pipeline import beam_logging  # noqa: F401, I001
    import pyarrow as pa
    from apache_beam.runners.worker import sdk_worker_main

    pa.set_cpu_count(1)
    sdk_worker_main.main([])
    return 0


def _end_with(parent: int) -> None:
    """Ends this process within a second of its parent."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _provision(args: argparse.Namespace) -> dict[str, str]:
    """What Beam's worker reads from its environment, as the runner tells it."""
    from pipeline import beam_logging  # noqa: F401, I001
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc, endpoints_pb2
    from google.protobuf import json_format, text_format

    with grpc.insecure_channel(args.provision_endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = service.GetProvisionInfo(request, metadata=[("worker_id", args.id)], timeout=60).info

    def described(url: str) -> str:
        return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=url))

    found = {
        "WORKER_ID": args.id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "CONTROL_API_SERVICE_DESCRIPTOR": described(args.control_endpoint or info.control_endpoint.url),
        "LOGGING_API_SERVICE_DESCRIPTOR": described(args.logging_endpoint or info.logging_endpoint.url),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    if info.status_endpoint.url:
        found["STATUS_API_SERVICE_DESCRIPTOR"] = described(info.status_endpoint.url)
    return found


if __name__ == "__main__":
    entry()
