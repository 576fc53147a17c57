"""Imported before Beam: keeps from users what its import says of packages that nobody asked for."""

import logging
import threading
from collections.abc import Callable
from typing import Any

logging.getLogger("apache_beam.io.mongodbio").setLevel(logging.ERROR)
logging.getLogger().addFilter(lambda record: not record.getMessage().startswith("apitools not found"))


def leave_errors_to_us() -> None:
    """Keeps Beam from writing what it raises too, and the Java stack of it, on the terminal."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(lambda record: record.module not in ("portable_runner", "sdk_worker"))
    threading.excepthook = _tell


def _tell(failed: Any, tell: Callable[[Any], Any] = threading.excepthook) -> None:
    """As Python does, but for Beam's threads that read from a worker until it is gone."""
    if failed.thread is None or failed.thread.name != "read_grpc_client_inputs":
        tell(failed)
