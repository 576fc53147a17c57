"""Where a job runs: the local workers, or any of Beam's runners with its own options."""

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import Any

from jobs.cli import Parser
from metadata.errors import CurateError

#: Short names to Beam's; any other name is handed to Beam as it is.
RUNNERS = {"flink": "FlinkRunner", "spark": "SparkRunner", "dataflow": "DataflowRunner", "prism": "PrismRunner"}


def warm_up(images: bool) -> None:
    """Imports Beam and starts the local workers' nursery; before this process has threads, see pipeline.workers."""
    from pipeline import workers

    workers.start_nursery(["pipeline.shards", "pipeline.resizing"] if images else [])


def run_with(runner: str, workers: int, options: Sequence[str]) -> Callable[[Callable[[Any], None]], None]:
    """A function that has a Beam pipeline built, runs it and waits.

    Args:
        runner: `local` or a Beam runner.
        workers: processes of the local runner.
        options: Beam's own, as on a command line.

    The function raises CurateError where the pipeline failed for a reason that the user can mend.
    """

    def run(build: Callable[[Any], None]) -> None:
        from pipeline import beam_logging, failures  # noqa: F401, I001
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        from pipeline.workers import local_runner

        if runner == "local":
            # The runner warns that more than one worker has no effect in its in-memory mode; ours are processes.
            logging.getLogger("apache_beam.runners.portability.fn_api_runner.fn_runner").setLevel(logging.ERROR)
            chosen = local_runner(workers)
            # Type checks of the pipeline are for who writes it, and take a third of the time that building it does.
            beam_options = PipelineOptions([], direct_num_workers=workers, pipeline_type_check=False)
        else:
            chosen, beam_options = None, PipelineOptions([f"--runner={RUNNERS.get(runner, runner)}", *options])
        try:
            with beam.Pipeline(runner=chosen, options=beam_options) as pipeline:
                build(pipeline)
        except Exception as error:  # every runner has its own types for a failed job
            message = failures.sentence(error)
            if message is None:
                raise
            raise CurateError(message) from error

    return run


def check_beam_options(rest: Sequence[str], runner: str, ours: Parser) -> None:
    """Ends with exit code 2 where an option is neither ours nor Beam's, or is Beam's but the runner is local."""
    from apache_beam.options import pipeline_options

    beams = argparse.ArgumentParser(allow_abbrev=False, add_help=False, conflict_handler="resolve")
    for cls in _subclasses(pipeline_options.PipelineOptions):
        cls._add_argparse_args(beams)  # type: ignore[attr-defined]
    known = [option for action in beams._actions for option in action.option_strings]
    _, unknown = beams.parse_known_args(list(rest))
    ours.refuse(unknown, known)
    if runner == "local":
        ours.error(
            f"{rest[0]} is an option of Beam's, but the local runner takes none. Leave it out, or name a --runner."
        )


def _subclasses(cls: type[Any]) -> list[type]:
    found: list[type] = [sub for sub in cls.__subclasses__() if "_add_argparse_args" in vars(sub)]
    return found + [each for sub in found for each in _subclasses(sub)]
