"""A Flink and the job server of Beam's that fits it, for tests: the published ones, or an older pair put together.

    python tests/flink_parts.py     has them brought, for tests that are run later

Beam downloads its job server by itself. Where that one can't be had, the runner that it is made of may be had all the
same: Maven brings it with all it needs, the jars become one, and PyPI has the Flink of that version.
"""

import collections
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>clip-curate</groupId><artifactId>job-server</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.apache.beam</groupId><artifactId>beam-runners-flink-1.19</artifactId><version>2.62.0</version>
  </dependency></dependencies>
</project>
"""

_MANIFEST = "Manifest-Version: 1.0\r\nMain-Class: org.apache.beam.runners.flink.FlinkJobServerDriver\r\n\r\n"


class MissingError(Exception):
    """What is not to be had, and why."""


def find() -> tuple[str | None, list[str]]:
    """The job server's jar, None for the one that Beam downloads, and folders to import another Flink from.

    Raises:
        MissingError: there is no Java, or no job server to be had.
    """
    if not shutil.which("java"):
        raise MissingError("Java is not installed")
    return (None, []) if _beams_own() else _older()


def _beams_own() -> bool:
    """Whether Beam's own job server is there, or comes."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.flink_runner import FlinkJarJobServer

    server = FlinkJarJobServer(PipelineOptions([]))
    try:
        server.local_jar(server.path_to_jar())
    except (OSError, RuntimeError):
        return False
    return True


def _older() -> tuple[str, list[str]]:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = home / "clip-curate/tests-flink-1.19"
    folder.mkdir(parents=True, exist_ok=True)
    site, jar = folder / "site", folder / "job-server.jar"
    if not jar.exists():
        (folder / "pom.xml").write_text(_POM)
        _bring("mvn", "--batch-mode", "--quiet", "--file", folder / "pom.xml", "dependency:copy-dependencies",
               f"-DoutputDirectory={folder / 'jars'}", "-DincludeScope=runtime")  # fmt: skip
        _bring(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", site,
               "apache-flink-libraries>=1.19.3,<1.20")  # fmt: skip
        _merge(sorted((folder / "jars").glob("*.jar")), jar)
        shutil.rmtree(folder / "jars")
    return str(jar), [str(site)]


def _bring(*command: str | pathlib.Path) -> None:
    try:
        subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=300, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stdout", None) or error
        raise MissingError(f"Beam's job server for Flink is not to be had: {str(said)[-300:]}") from error


def _merge(jars: list[pathlib.Path], path: pathlib.Path) -> None:
    """One jar with all that is in them; of equal names the first, and lists of services together."""
    seen: set[str] = set()
    services = collections.defaultdict(list)
    temporary = path.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as merged:
        merged.writestr("META-INF/MANIFEST.MF", _MANIFEST)
        for jar in jars:
            with zipfile.ZipFile(jar) as file:
                for name in file.namelist():
                    if name.startswith("META-INF/services/") and not name.endswith("/"):
                        services[name].append(file.read(name))
                    elif name not in seen and not name.endswith(("MANIFEST.MF", ".SF", ".DSA", ".RSA")):
                        seen.add(name)
                        merged.writestr(name, file.read(name))
        for name, parts in services.items():
            merged.writestr(name, b"\n".join(parts))
    temporary.rename(path)


if __name__ == "__main__":
    try:
        find()
    except MissingError as error:
        sys.exit(str(error))
