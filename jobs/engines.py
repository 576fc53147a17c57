"""Where a job runs: the local workers, or any of Beam's runners with its own options."""

import argparse
import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jobs.cli import Parser
from metadata.errors import CurateError, printable, reason, unknown
from metadata.files import absolute

#: Short names to Beam's; any other name is one of Beam's own.
RUNNERS = {"flink": "FlinkRunner", "spark": "SparkRunner", "dataflow": "DataflowRunner", "prism": "PrismRunner"}

#: How often a job is handed to a cluster that loses it.
_TRIES = 4


def runner_name(text: str) -> str:
    """The type of --runner: `local` or one of RUNNERS in lower case, one of Beam's as Beam writes it, or a class."""
    if (name := text.lower()) in ("local", *RUNNERS):
        return name
    from pipeline import beam_logging  # noqa: F401, I001
    from apache_beam.options.pipeline_options import StandardOptions

    beams = {known.lower(): known for known in StandardOptions.KNOWN_RUNNER_NAMES}
    if (found := beams.get(name, beams.get(f"{name}runner"))) is None and "." not in text:
        raise argparse.ArgumentTypeError(str(unknown("runner", text, ["local", *RUNNERS, *beams.values()])))
    return found or text


def warm_up(images: bool) -> None:
    """Imports Beam and starts the local workers' nursery; before this process has threads, see pipeline.workers."""
    from pipeline import workers

    # pyarrow looks for numpy.ma's arrays in all that it is given: each worker would import it, and the filters.
    workers.start_nursery(
        ["numpy.ma", "filters.recipes", *(["pipeline.shards", "pipeline.resizing"] if images else [])]
    )


def place(path: str, runner: str) -> str:
    """A path as the runner's workers have it: those of a cluster are in another folder than this process."""
    return path if runner == "local" else absolute(path)


def run_with(
    runner: str, workers: int, options: Sequence[str], out: str = "", pool: str = ""
) -> Callable[[Callable[[Any], None]], None]:
    """A function that has a Beam pipeline built, runs it and waits.

    Args:
        runner: as `runner_name` gives it.
        workers: processes of the local runner, or of a Flink or Spark without a cluster.
        options: Beam's own, as on a command line.
        out: the run's folder, by which a cluster's jobs are named.
        pool: the pool's name or address.

    The function raises CurateError where the pipeline failed for a reason that the user can mend. A job that a cluster
    lost is handed to it again, a few times: what it has finished is there. One that it never had isn't.

    Raises:
        CurateError: the runner can't be had, or lacks an option.
    """
    from pipeline import beam_logging

    # The local runner also warns that more than one worker has no effect in its in-memory mode; ours are processes.
    beam_logging.leave_errors_to_us()
    start = _local(workers) if runner == "local" else _beams(runner, workers, options, out, pool)

    def run(build: Callable[[Any], None]) -> None:
        import apache_beam as beam

        for tries_left in reversed(range(_TRIES)):
            chosen, beam_options = start()
            with _temporary_folder():  # here: the job server that `start` may have begun outlives the job
                pipeline = beam.Pipeline(runner=chosen, options=beam_options)
                try:
                    with pipeline:
                        build(pipeline)
                    return
                except Exception as error:  # every runner has its own types for a failed job
                    again = _lost(runner, pipeline, error, tries_left)
            print(f"curate: {again} it is started again.", file=sys.stderr)

    return run


def _lost(runner: str, pipeline: Any, error: Exception, tries_left: int) -> str:
    """What to say of a job that its cluster has lost, where it is worth another try; raises of all other errors."""
    from pipeline import failures

    if (message := failures.sentence(error)) is not None:
        raise CurateError(message) from error
    if runner == "local" or isinstance(error, CurateError):
        raise error
    from apache_beam.runners.portability.portable_runner import PortableRunner

    taken = tries_left < _TRIES - 1 or hasattr(pipeline, "result")  # which is set when it runs
    if isinstance(pipeline.runner, PortableRunner) and not taken:
        raise CurateError(f"--runner {runner}: no job came of it ({failures.outage(error) or reason(error)}), but it "
                          f"must take one. Mend this and run the same command again.") from error  # fmt: skip
    if (message := failures.outage(error)) is None:
        raise error
    message = f"--runner {runner}: the job was lost ({message}). What is finished is kept:"
    if not tries_left:
        raise CurateError(f"{message} run the same command again to go on.") from error
    return message


@contextlib.contextmanager
def _temporary_folder() -> Iterator[None]:
    """Has temporary files made in a folder that goes when the block ends, or this process.

    Beam leaves some of what it hands a job, and a folder wherever it is interrupted.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="curate-job-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _local(workers: int) -> Callable[[], tuple[Any, Any]]:
    """A function that gives the local runner and its options."""

    def start() -> tuple[Any, Any]:
        from pipeline.beam_memos import Options
        from pipeline.local_runner import LocalRunner

        # Type checks of the pipeline are for who writes it, and take a third of the time that building it does.
        return LocalRunner(), Options([], direct_num_workers=workers, pipeline_type_check=False)

    return start


def _beams(
    runner: str, workers: int, options: Sequence[str], out: str, pool: str
) -> Callable[[], tuple[None, Any]]:
    """A function that gives the options of a runner of Beam's, which is named in them."""
    from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
    from apache_beam.runners.runner import create_runner

    name = RUNNERS.get(runner, runner)
    given: Callable[[], Sequence[str]] = lambda: options  # noqa: E731
    if runner in ("flink", "spark"):
        from jobs.launch.portable import Engine

        given = Engine(runner, workers, options, f"curate-{hashlib.sha256(out.encode()).hexdigest()[:12]}").options
    elif name == "DataflowRunner":
        _check_dataflow(PipelineOptions(options), out, pool)
    elif runner == "PortableRunner" and not PipelineOptions(options).view_as(PortableOptions).job_endpoint:
        raise CurateError("--runner PortableRunner: no --job_endpoint was given, but a job server takes the job. Give "
                          "its HOST:PORT, or name a runner that has one, such as flink.")  # fmt: skip
    try:
        create_runner(name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise CurateError(f"--runner {printable(runner)}: can't be had ({reason(error)}), but the job runs there. "
                          f"Install it, or name another.") from error  # fmt: skip
    return lambda: (None, PipelineOptions([f"--runner={name}", *given()]))


def _check_dataflow(options: Any, out: str, pool: str) -> None:
    """What Beam or Dataflow would refuse after the pool was read, or when its machines run; asks no account."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, TestOptions, WorkerOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.runner import create_runner

    from pipeline import storage
    from pipeline.pools import ON_THE_HUB

    cloud = options.view_as(GoogleCloudOptions)
    given = {name: getattr(cloud, name) for name in ("project", "region", "temp_location")}
    given["sdk_container_image"] = options.view_as(WorkerOptions).sdk_container_image
    if missing := [f"--{name}" for name, value in given.items() if not value]:
        raise CurateError(
            f"--runner dataflow: no {', '.join(missing)} was given, but Dataflow needs a project, a region, a gs:// "
            f"folder for what passes through and an image that has clip-curate. Give --project, --region, "
            f"--temp_location and --sdk_container_image."
        )
    options.view_as(TestOptions).dry_run = True  # or Beam's validator asks the store about the folder
    validator = PipelineOptionsValidator(options, create_runner("DataflowRunner"))
    places = [name for name in ("temp_location", "staging_location") if getattr(cloud, name)]
    # Where a folder doesn't fit, the validator would go on with another, which it may make.
    wrong = [line for name in places for line in validator.validate_gcs_path(cloud, name)] or validator.validate()
    if wrong:
        lines = printable("; ".join(line.rstrip(".") for line in wrong), 1000)
        raise CurateError(
            f"--runner dataflow: its options do not fit ({lines}), but Dataflow takes no job with such. Mend them."
        )
    for option, place, known in (("--out", out, ()), ("--pool", pool, ON_THE_HUB)):
        if place not in known and (storage.is_local(place) or place.startswith(("file:", "local:"))):
            raise CurateError(
                f"{option} {printable(place)}: is on this machine, but Dataflow's machines need it. Give an address "
                f"that they reach, such as gs://bucket/{option[2:]}."
            )
    try:  # which Beam does only when the job is handed over
        import apache_beam.runners.dataflow.internal.apiclient  # noqa: F401
    except ImportError as error:
        raise CurateError(
            f"--runner dataflow: Beam's part for it is not installed ({reason(error)}), but the job is handed over by "
            f"that. pip install 'apache-beam[gcp]'."
        ) from error


def check_beam_options(rest: Sequence[str], runner: str, ours: Parser) -> None:
    """Ends with exit code 2 where an option is neither ours nor Beam's, or is Beam's but the runner is local."""
    from pipeline import beam_logging  # noqa: F401, I001
    from apache_beam.options import pipeline_options

    beams = argparse.ArgumentParser(
        allow_abbrev=False, add_help=False, conflict_handler="resolve", exit_on_error=False
    )
    for cls in _subclasses(pipeline_options.PipelineOptions):
        cls._add_argparse_args(beams)  # type: ignore[attr-defined]
    known = [option for action in beams._actions for option in action.option_strings]
    try:
        _, left = beams.parse_known_args(list(rest))
    except argparse.ArgumentError as error:
        ours.error(str(error))
    ours.refuse(left, () if runner == "local" else known)
    if runner == "local":
        ours.error(
            f"{rest[0]} is an option of Beam's, but the local runner takes none. Leave it out, or name a --runner."
        )


def _subclasses(cls: type[Any]) -> list[type]:
    found: list[type] = [sub for sub in cls.__subclasses__() if "_add_argparse_args" in vars(sub)]
    return found + [each for sub in found for each in _subclasses(sub)]
