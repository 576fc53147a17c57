"""Imported before Beam: keeps from users what its import says of packages that nobody asked for."""

import logging

logging.getLogger("apache_beam.io.mongodbio").setLevel(logging.ERROR)
logging.getLogger().addFilter(lambda record: not record.getMessage().startswith("apitools not found"))


def leave_errors_to_us() -> None:
    """Keeps Beam from writing what it raises too, and the Java stack of it, on the terminal."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(lambda record: record.module not in ("portable_runner", "sdk_worker"))
