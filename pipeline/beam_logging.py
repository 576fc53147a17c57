"""Imported before Beam: keeps from users what its import says of Google Cloud packages that nobody asked for."""

import logging

logging.getLogger().addFilter(lambda record: not record.getMessage().startswith("apitools not found"))
