"""Imported before Beam: lets it come quickly and quietly.

Where pandas is installed Beam imports it too, for dataframes, which nothing here uses: a third of its import's time,
and 30 MB of every process. While Beam is imported it is as if pandas weren't installed.
"""

import importlib
import logging
import sys

# What Beam says of Google Cloud packages that nobody asked for.
logging.getLogger().addFilter(lambda record: not record.getMessage().startswith("apitools not found"))

if "pandas" in sys.modules:
    importlib.import_module("apache_beam")
else:
    sys.modules["pandas"] = None  # type: ignore[assignment]  # how Python notes that there is no such module
    try:
        importlib.import_module("apache_beam")
    finally:
        del sys.modules["pandas"]
