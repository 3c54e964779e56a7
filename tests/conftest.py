"""Servers to read from, and the check after every test that nothing is left behind."""

import gc
import math
import os
import shutil
import signal
import sys
import time
import uuid

import hypothesis
import pytest

from tests import leftovers
from tests.servers.fault import FaultServer
from tests.servers.nginx import Nginx, NginxMissingError
from tests.servers.sockets import Certificates

SETTLE = 2.0  # seconds that a test's processes, threads and files have to go away

# What getm keeps between reads, on purpose, and what gives it back.
KEPT = [("getm.engine", "close_default"), ("getm.sources.transport", "close_connections")]


def pytest_addoption(parser):
    parser.addoption(
        "--require-servers", action="store_true", help="fail, not skip, tests whose server (nginx, rclone) is missing"
    )


def pytest_configure():
    os.environ[leftovers.MARK] = str(uuid.uuid4())
    # What a shell starts in the background ignores the one, what `nohup` starts the other; so would what tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    hypothesis.settings.register_profile("shared", suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.load_profile("shared")  # machines are


@pytest.fixture
def server():
    """Serve what the test puts there, and fail as the test says."""
    with FaultServer() as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make an empty folder, and work in it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def nginx(request, tmp_path_factory):
    """Serve the folder `nginx.root`; each test writes files of its own name there."""
    try:
        nginx = Nginx(tmp_path_factory.mktemp("nginx"))
    except NginxMissingError as missing:
        if request.config.getoption("--require-servers"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with nginx:
        yield nginx


@pytest.fixture(scope="session")
def certificates(request, tmp_path_factory):
    """Make certificates for 127.0.0.1, and authorities to trust and not to trust."""
    if shutil.which("openssl") is None:
        missing = pytest.fail if request.config.getoption("--require-servers") else pytest.skip
        missing("openssl, which makes certificates, is not installed")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def new_engine():
    """Make engines that are closed at the end, however the test ends."""
    import getm  # not for tests that want none of it

    engines = []

    def make(*arguments, **options):
        engines.append(getm.Engine(*arguments, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def workers_at_once(monkeypatch):
    """Have readers leave everything to workers from the first, as if these needed no time to come up."""
    from getm.engine import caller, pool

    monkeypatch.setattr(caller, "AT_HAND", math.inf)
    monkeypatch.setattr(pool, "LAUNCH_SECONDS", 0.0)
    monkeypatch.setattr(pool, "SOON", 0.0)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Fail the test after which there is more than there was before it."""
    before = leftovers.everything()
    yield
    for module, close in KEPT:
        if module in sys.modules:
            getattr(sys.modules[module], close)()
    deadline = time.monotonic() + SETTLE
    while left := leftovers.everything() - before:
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {', '.join(sorted(left.elements()))}")
        gc.collect()  # the traceback of an exception may hold what the test opened
        time.sleep(0.01)
