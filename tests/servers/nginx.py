"""A real nginx in front of a folder, one port for each kind of network it stands for."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

WORKERS = 2  # processes of nginx that answer
TIMEOUT = 10.0  # seconds for nginx to start, to stop, or to write a line of its log


class NginxMissingError(Exception):
    """There is no nginx here, or it has no Lua module."""


@dataclass(frozen=True)
class Profile:
    """How one port answers.

    Attributes:
        latency: seconds before each answer.
        rate: bytes per second for each connection; None for all there is.
        slow_rate: bytes per second for every eighth connection; None for as many as for all. Only with a rate.
    """

    latency: float = 0.0
    rate: int | None = None
    slow_rate: int | None = None


PROFILES = {"raw": Profile(), "wan": Profile(latency=0.030, rate=50 * 2**20)}


@dataclass(frozen=True)
class Request:
    """One line of the access log.

    Attributes:
        range: the ``Range`` header; empty without one.
        sent: bytes of the body.
        connection: serial number of the connection.
        connection_requests: how many requests that connection has carried, this one included.
        finished: seconds since the epoch, when the answer was complete.
        seconds: from the first byte of the request to the last of the answer; to a millisecond.
        is_complete: False if the client left early.
    """

    profile: str
    method: str
    path: str
    range: str
    status: int
    sent: int
    connection: int
    connection_requests: int
    finished: float
    seconds: float
    is_complete: bool


class Nginx:
    """Run nginx until closed; a context manager.

    Attributes:
        root: the folder that is served.

    Raises:
        NginxMissingError: it cannot be run here; says what to install.
    """

    def __init__(self, root: Path, profiles: Mapping[str, Profile] = PROFILES):
        binary, modules = _find()
        self.root = root
        self._folder = Path(tempfile.mkdtemp(prefix="nginx-"))
        self._ports = dict(zip(profiles, _free_ports(len(profiles)), strict=True))
        self._log = self._folder / "access.log"
        config = self._folder / "nginx.conf"
        servers = "".join(_server(name, profile, self._ports[name]) for name, profile in profiles.items())
        config.write_text(CONFIG.format(folder=self._folder, modules=modules, root=root, servers=servers, workers=WORKERS))
        with (self._folder / "error.log").open("wb") as errors:
            self._process = subprocess.Popen(
                [binary, "-p", self._folder, "-c", config, "-e", "stderr"], stdin=subprocess.DEVNULL, stderr=errors
            )
        try:
            self._await_start()
        except BaseException:
            self.close()
            raise

    def url(self, path: str, profile: str = "raw") -> str:
        """Return the URL of a file below the root."""
        return f"http://127.0.0.1:{self._ports[profile]}/{path.lstrip('/')}"

    def requests(self, path: str, at_least: int = 0) -> list[Request]:
        """Return the answers that are over, for one file, in the order they ended.

        Args:
            path: of the file; each test takes one of its own.
            at_least: wait for so many; nginx writes its line a moment after the client has the last byte.

        Raises:
            AssertionError: there are still fewer after TIMEOUT.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            lines = (json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line[-1] == "\n")
            found = [_request(line) for line in lines if line["path"] == "/" + path.lstrip("/")]
            if len(found) >= at_least:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"expected {at_least} requests or more for {path}, got {found}")
            time.sleep(0.01)

    def close(self) -> None:
        """Stop nginx, without waiting for its clients, and remove its folder."""
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def _await_start(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        for port in self._ports.values():
            while True:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"nginx does not start: {(self._folder / 'error.log').read_text()}")
                time.sleep(0.01)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        # The first of them answers before the last is up, and has its name, by which a test knows that it is not its own.
        while (
            sum(b"worker process" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children.read_text().split())
            < WORKERS
        ):
            if time.monotonic() > deadline:
                raise RuntimeError("nginx does not start its workers")
            time.sleep(0.01)


CONFIG = """
daemon off;
user root;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log stderr;
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;

events {{
    worker_connections 4096;
}}

http {{
    log_format json escape=json '{{"profile": "$server_name", "method": "$request_method", "path": "$uri", '
        '"range": "$http_range", "status": $status, "sent": $body_bytes_sent, "connection": $connection, '
        '"connection_requests": $connection_requests, "finished": $msec, "seconds": $request_time, '
        '"completion": "$request_completion"}}';
    access_log {folder}/access.log json;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    output_buffers 2 1m;
    keepalive_timeout 1h;
    keepalive_requests 1000000;
    root {root};
{servers}}}
"""


def _server(name: str, profile: Profile, port: int) -> str:
    lines = [f"listen 127.0.0.1:{port};", f"server_name {name};"]
    if profile.rate is not None:
        # nginx sleeps after each chunk, by whole milliseconds. Chunks of 256 KiB keep within 4% of the rate from the
        # first MiB on; 64 KiB ones overtake it by 13%, and with the default of 2 MiB the first MiB takes no time.
        lines += [f"set $rate {profile.rate};", "limit_rate $rate;", "sendfile_max_chunk 256k;"]
    code = []
    if profile.slow_rate is not None:
        code.append(f"if tonumber(ngx.var.connection) % 8 == 3 then ngx.var.rate = {profile.slow_rate} end")
    if profile.latency:
        code.append(f"ngx.sleep({profile.latency})")
    if code:
        lines.append(f"access_by_lua_block {{ {' '.join(code)} }}")
    return "".join(["    server {\n", *(f"        {line}\n" for line in lines), "    }\n"])


def _find() -> tuple[str, str]:
    """Return the binary and the folder of its modules."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        raise NginxMissingError("nginx is not installed (Debian: nginx, libnginx-mod-http-lua)")
    built = subprocess.run([binary, "-V"], capture_output=True, text=True, check=True).stderr
    folder = re.search(r"--modules-path=(\S+)", built)
    if folder is None or not Path(folder[1], "ngx_http_lua_module.so").exists():
        raise NginxMissingError("nginx has no Lua module (Debian: libnginx-mod-http-lua)")
    return binary, folder[1]


def _free_ports(count: int) -> list[int]:
    """Return so many ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def _request(line: dict) -> Request:
    return Request(is_complete=line.pop("completion") == "OK", **line)
