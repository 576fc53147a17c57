"""The job servers of Beam's for Flink and Spark, and a Flink that fits, for tests: the published, or older ones.

    python tests/job_servers.py     has Flink's brought, for tests that are run later

Beam downloads a job server by itself. Where that one can't be had, the runner that it is made of may be had all the
same: Maven brings it with all it needs, and a jar that names those is a job server. PyPI has the Flink of that version.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

_BEAM = "2.62.0"

#: Maven artifacts of the older ones; Spark's runner leaves Spark out.
_ARTIFACTS = {
    "flink": [f"org.apache.beam:beam-runners-flink-1.19:{_BEAM}"],
    "spark": [f"org.apache.beam:beam-runners-spark-3:{_BEAM}", "org.apache.spark:spark-streaming_2.12:3.5.0"],
}
_MAIN = {
    "flink": "org.apache.beam.runners.flink.FlinkJobServerDriver",
    "spark": "org.apache.beam.runners.spark.SparkJobServerDriver",
}

_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>clip-curate</groupId><artifactId>job-server</artifactId><version>1</version>
  <dependencies>{}</dependencies>
</project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"

_MANIFEST = "Manifest-Version: 1.0\r\nMain-Class: {}\r\n{}\r\n\r\n"


class MissingError(Exception):
    """What is not to be had, and why."""


def flink() -> tuple[str | None, list[str]]:
    """The job server's jar, None for the one that Beam downloads, and folders to import another Flink from.

    Raises:
        MissingError: there is no Java, or no job server to be had.
    """
    jar = _jar("flink")
    if jar is None:
        return None, []
    site = jar.parent / "site"
    if not site.exists():
        _bring(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site,
               "apache-flink-libraries>=1.19.3,<1.20")  # fmt: skip
    return str(jar), [str(site)]


def spark() -> str | None:
    """The job server's jar, None for the one that Beam downloads.

    Raises:
        MissingError: there is no Java, or no job server to be had.
    """
    jar = _jar("spark")
    return jar and str(jar)


def _jar(runner: str) -> pathlib.Path | None:
    if not shutil.which("java"):
        raise MissingError("Java is not installed")
    return None if _beams_own(runner) else _older(runner)


def _beams_own(runner: str) -> bool:
    """Whether Beam's own job server is there, or comes."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability import flink_runner, spark_runner

    servers = {"flink": flink_runner.FlinkJarJobServer, "spark": spark_runner.SparkJarJobServer}
    server = servers[runner](PipelineOptions([]))
    try:
        server.local_jar(server.path_to_jar())
    except (OSError, RuntimeError):
        return False
    return True


def _older(runner: str) -> pathlib.Path:
    """A jar that names the runner's and all that they need, which lie beside it; made once."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = home / f"clip-curate/tests-{runner}-{_BEAM}"
    jar = folder / "job-server.jar"
    if not jar.exists():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = "".join(_DEPENDENCY.format(*artifact.split(":")) for artifact in _ARTIFACTS[runner])
        (folder / "pom.xml").write_text(_POM.format(wanted))
        _bring("mvn", "--batch-mode", "--quiet", "--file", folder / "pom.xml", "dependency:copy-dependencies",
               f"-DoutputDirectory={folder / 'jars'}", "-DincludeScope=runtime")  # fmt: skip
        path = "Class-Path: " + " ".join(f"jars/{each.name}" for each in sorted((folder / "jars").glob("*.jar")))
        folded = "\r\n ".join(path[start : start + 70] for start in range(0, len(path), 70))  # 72 bytes a line at most
        part = jar.with_suffix(".part")
        with zipfile.ZipFile(part, "w") as file:
            file.writestr("META-INF/MANIFEST.MF", _MANIFEST.format(_MAIN[runner], folded))
        part.rename(jar)
    return jar


def _bring(*command: str | pathlib.Path) -> None:
    try:
        subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=300, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stdout", None) or error
        raise MissingError(f"Beam's job server is not to be had: {str(said)[-300:]}") from error


if __name__ == "__main__":
    try:
        flink()
    except MissingError as error:
        sys.exit(str(error))
