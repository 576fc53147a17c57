"""Imported before Beam: keeps out of users' sight what Beam's import says of Google Cloud packages that nobody asked for."""

import logging

logging.getLogger().addFilter(lambda record: not record.getMessage().startswith("apitools not found"))
