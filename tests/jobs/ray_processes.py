"""A Ray cluster of two nodes on this machine, as an administrator starts one: by command, with dashboard and token."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray.util import get_node_ip_address

PATIENCE = 240.0
"""Seconds in which whatever is waited for must come; a hang shows as a failure."""
RAY = (sys.executable, "-m", "ray.scripts.scripts")


class RayProcesses:
    """Two nodes with a CPU each.

    Args:
        root: a directory for its files; a short one, as sockets are in it.
        variables: for its processes, and so for jobs.
    """

    def __init__(self, root: Path, **variables: str) -> None:
        self.root, self.home = root, root / "home"
        self.home.mkdir()
        self.token = self.home / "token"
        self.token.write_text(secrets.token_hex(32))
        self.address = f"{get_node_ip_address()}:{_free_port()}"
        self.dashboard = f"http://127.0.0.1:{_free_port()}"
        left_out = ("RAY", "TUNE_", "PYTHONPATH")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)} | {
            "HOME": str(self.home),  # which marks its processes
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # whose python a job is given
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",  # else it kills its workers for what others take of the memory
            # On a busy machine both take their time.
            "RAY_raylet_start_wait_time_s": str(int(PATIENCE)),
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(int(PATIENCE)),
            "RAY_worker_niceness": "0",
            **variables,
        }

    def start(self) -> None:
        """Start the head, then the other node."""
        host, port = self.dashboard.removeprefix("http://").split(":")
        self._ray_start(
            *("--head", f"--port={self.address.split(':')[1]}", f"--temp-dir={self.root}/ray"),
            *("--include-dashboard=true", f"--dashboard-host={host}", f"--dashboard-port={port}"),
            f"--ray-client-server-port={_free_port()}",
        )
        self._ray_start(f"--address={self.address}")

    def end(self) -> None:
        """End its processes, and no others: ``ray stop`` would take every Ray of the machine."""
        for path in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                if f"HOME={self.home}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    os.kill(int(path.name), signal.SIGKILL)

    def job(self, *arguments: str, directory: Path) -> subprocess.Popen[str]:
        """Give a command of ``ray job``, as one who is allowed to, from a directory."""
        return subprocess.Popen(
            [*RAY, "job", *arguments],
            env=self.environment | {"RAY_API_SERVER_ADDRESS": self.dashboard},
            cwd=directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def _ray_start(self, *arguments: str) -> None:
        # A raylet waits 15 seconds for its agents to report the ports that nobody names, and dies after that.
        agents = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent")
        ports = [f"--{name}-port={_free_port()}" for name in agents]
        command = [*RAY, "start", "--num-cpus=1", f"--object-store-memory={80 * 2**20}", *ports, *arguments]
        done = subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def ray_processes(**variables: str) -> Iterator[RayProcesses]:
    """Start a cluster in a directory of its own; it does not outlive the block."""
    cluster = RayProcesses(Path(tempfile.mkdtemp(prefix="rc")), **variables)  # pytest's own are too long for sockets
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(cluster.root, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
