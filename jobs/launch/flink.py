"""A Flink cluster on this machine, for trying it: `python -m jobs.launch.flink start --dir runs/flink`.

One JobManager and some TaskManagers, each a Java process, from the jars that `pip install 'clip-curate[flink]'` brings.
What it is lies in its folder: conf/, log/, and pids/ by which `stop` finds it. `start` again starts what has died, by
the settings of what still runs. The folder is known for a cluster's by conf/port.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from jobs.cli import Parser, folder, port_number, positive
from jobs.launch import guard
from metadata.errors import CurateError, printable
from pipeline.failures import os_sentence

_START_S, _STOP_S = 60.0, 10.0

_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"

#: Packages of Java's own that Flink reaches into, as its start scripts open them.
_OPENED = (
    "java.lang", "java.net", "java.io", "java.nio", "java.lang.reflect", "java.text", "java.time", "java.util",
    "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.nio.ch",
)  # fmt: skip

_CONFIG = """\
jobmanager: {{rpc: {{address: localhost, port: {rpc}}}, bind-host: localhost, memory: {{process: {{size: 1024m}}}}}}
rest: {{address: localhost, bind-address: localhost, port: {rest}}}
taskmanager: {{bind-host: localhost, host: localhost, numberOfTaskSlots: {slots}}}
io: {{tmp: {{dirs: {tmp}}}}}
blob: {{storage: {{directory: {tmp}}}}}
# A TaskManager that was killed is missed after seconds, and its work is not kept waiting for another one.
heartbeat: {{interval: 1000, timeout: 5000}}
slot: {{request: {{timeout: 15000}}}}
"""

#: A process that is started by its class, not by Flink's script, must be told every part of its memory.
_MEMORY = {
    "cpu.cores": "1", "memory.task.heap.size": "320mb", "memory.task.off-heap.size": "0",
    "memory.framework.heap.size": "64mb", "memory.framework.off-heap.size": "64mb", "memory.network.min": "256mb",
    "memory.network.max": "256mb", "memory.managed.size": "128mb", "memory.jvm-metaspace.size": "256mb",
    "memory.jvm-overhead.min": "64mb", "memory.jvm-overhead.max": "64mb",
}  # fmt: skip

_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1} %m%n
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parses `argv` and starts or stops; returns the exit code."""
    parser = Parser(prog="python -m jobs.launch.flink", description=__doc__.partition("\n")[0])
    parser.add_argument("deed", choices=("start", "stop"))
    parser.add_argument(
        "--dir", metavar="FOLDER", type=folder, default="runs/flink", help="the cluster's (default: %(default)s)"
    )
    parser.add_argument("--taskmanagers", metavar="N", type=positive, default=2, help="default: %(default)s")
    parser.add_argument("--slots", metavar="N", type=positive, default=1, help="of each (default: %(default)s)")
    parser.add_argument(
        "--port", metavar="PORT", type=port_number, default=8081, help="its REST (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    home = pathlib.Path(args.dir).absolute()
    try:
        if args.deed == "stop":
            stop(home)
        else:
            port = start(home, args.taskmanagers, args.slots, args.port)
            print(f"--runner flink --flink_master localhost:{port}")
    except CurateError as error:
        print(f"curate: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"curate: {os_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def start(folder: pathlib.Path, taskmanagers: int = 2, slots: int = 1, port: int = 8081) -> int:
    """Starts what of the cluster isn't running, and waits until all of it is; gives the port of its REST interface.

    Raises:
        CurateError: the folder holds something else, Flink or Java isn't installed, the port is taken, or a process
            ended while it started. Before the last, nothing is written.
    """
    if folder.exists() and any(folder.iterdir()) and not _is_cluster(folder):
        raise CurateError(f"--dir {folder}: holds something but no cluster. Give a folder that is new or empty.")
    running = {path.name for path in (folder / "pids").glob("*") if _pid(folder, path.name) is not None}
    if running:
        port = _port(folder)
    java = _java(folder)
    if not running:  # TaskManagers go on asking for a JobManager that died, where the settings had it
        _write_config(folder, slots, port)
    for name in ("log", "pids", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    wanted = {"jobmanager": [_JOB_MANAGER, "--configDir", str(folder / "conf"), "--executionMode", "cluster"]}
    memory = [word for name, value in _MEMORY.items() for word in ("-D", f"taskmanager.{name}={value}")]
    for number in range(1, taskmanagers + 1):
        wanted[f"taskmanager-{number}"] = [_TASK_MANAGER, "--configDir", str(folder / "conf"), *memory]
    for name, command in wanted.items():
        if name not in running:
            _launch(folder, name, [*java, *command])
    _wait_for(folder, port, list(wanted))
    return port


def stop(folder: pathlib.Path) -> None:
    """Ends all that the folder says is running, waits for it, and removes what only a running cluster needs.

    Raises:
        CurateError: there is no cluster in the folder.
    """
    if not _is_cluster(folder) or not (folder / "pids").is_dir():
        raise CurateError(f"--dir {folder}: there is no cluster, but one was to be stopped. Name that of `start`.")
    names = [path.name for path in (folder / "pids").iterdir()]
    for deed in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + _STOP_S
        for name in names:
            if (pid := _pid(folder, name)) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, deed)
        while any(_pid(folder, name) for name in names) and time.monotonic() < end:
            time.sleep(0.05)
    for name in ("pids", "tmp"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _is_cluster(folder: pathlib.Path) -> bool:
    return (folder / "conf/port").is_file()


def _port(folder: pathlib.Path) -> int:
    text = (folder / "conf/port").read_text(errors="replace")
    try:
        return port_number(text)
    except argparse.ArgumentTypeError as error:
        raise CurateError(f"{folder}/conf/port: is {printable(text)!r}, but the running cluster's port is needed. "
                          f"`stop` it, and start it again.") from error  # fmt: skip


def _write_config(folder: pathlib.Path, slots: int, port: int) -> None:
    with socket.socket() as rest, socket.socket() as rpc:
        rest.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            rest.bind(("localhost", port))
        except OSError as error:
            raise CurateError(f"--port {port}: {error.strerror}, but the cluster needs it. Give another.") from error
        rpc.bind(("localhost", 0))
        text = _CONFIG.format(rpc=rpc.getsockname()[1], rest=port, slots=slots,
                              tmp=json.dumps(str(folder / "tmp"), ensure_ascii=False))  # fmt: skip
    (folder / "conf").mkdir(parents=True, exist_ok=True)
    (folder / "conf/port").write_text(str(port))  # first: without it the folder isn't known
    (folder / "conf/config.yaml").write_text(text)
    (folder / "conf/log4j.properties").write_text(_LOGGING)


def _java(folder: pathlib.Path) -> list[str]:
    """The command that a class of Flink's is put behind.

    Raises:
        CurateError: Flink or Java isn't installed.
    """
    jars = ":".join(sorted(str(path) for path in (_flink() / "lib").glob("*.jar")))
    opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
    if (java := shutil.which("java", path=_path())) is None:
        raise CurateError("java: it was not found, but Flink runs on it. Install Java 17.")
    return [java, "-Xmx384m", *opened, "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
            f"-Djava.io.tmpdir={folder / 'tmp'}", f"-Dlog4j.configurationFile=file:{folder / 'conf/log4j.properties'}",
            "-cp", jars]  # fmt: skip


def _path() -> str:
    """The workers that TaskManagers start are this environment's."""
    return os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])


def _launch(folder: pathlib.Path, name: str, command: list[str]) -> None:
    with open(folder / "log" / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "PATH": _path(), "FLINK_CONF_DIR": str(folder / "conf")},
        )  # fmt: skip
    (folder / "pids" / name).write_text(str(process.pid))


def _flink() -> pathlib.Path:
    """The folder of the jars that PyPI's apache-flink-libraries brings."""
    spec = importlib.util.find_spec("pyflink")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (pathlib.Path(place) / "lib").is_dir():
            return pathlib.Path(place)
    raise CurateError("Flink: it is not installed, but the cluster is made of it. pip install 'clip-curate[flink]'.")


def _pid(folder: pathlib.Path, name: str) -> int | None:
    """The process of that name, if it is there and still this cluster's: numbers are given again."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((folder / "pids" / name).read_text())
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if str(folder / "conf").encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def _wait_for(folder: pathlib.Path, port: int, names: list[str]) -> None:
    end, missed = time.monotonic() + _START_S, set[str]()
    while True:
        with contextlib.suppress(OSError):
            if guard.ask(f"http://localhost:{port}", "/overview")["taskmanagers"] >= len(names) - 1:
                return
        # A process that is becoming another program has no command line for a moment: so it must be missed twice.
        gone = {name for name in names if _pid(folder, name) is None}
        dead, missed = sorted(gone & missed), gone
        if dead or time.monotonic() > end:
            who = dead[0] if dead else "the cluster"
            how = "ended while it started" if dead else f"was not there after {_START_S:.0f} s"
            raise CurateError(f"{who}: {how}. {folder}/log/ says why; `stop` ends the rest.")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
