"""What takes more than a file, and what cannot take one."""

import csv
import http.server
import io
import mmap
import threading
import weakref

import pytest

import getm
from tests.consumers.reading import assert_same
from tests.content import ramp

pytestmark = pytest.mark.servers

SIZE = 5_000_000


@pytest.fixture
def file(nginx, sample):
    sample("content.bin")
    with getm.open(nginx.url("content.bin")) as file:
        yield file


class TestDescriptors:
    """Whoever wants a descriptor is told that there is none, and the file is as it was."""

    @pytest.fixture(autouse=True)
    def check_unharmed(self, file):
        yield
        assert ramp(0, 10) == file.read(10)

    def test_numpy_fromfile(self, file):
        import numpy as np

        with pytest.raises(io.UnsupportedOperation, match="fileno"):
            np.fromfile(file, "u1", 10)

    def test_numpy_memmap(self, file):
        import numpy as np

        with pytest.raises(io.UnsupportedOperation, match="fileno"):
            np.memmap(file, mode="r")
        file.seek(0)  # it looks for the size first

    def test_mmap(self, file):
        with pytest.raises(io.UnsupportedOperation, match="fileno"):
            mmap.mmap(file.fileno(), 0)

    def test_pysam(self, file):
        import pysam

        with pytest.raises(io.UnsupportedOperation, match="fileno"):
            pysam.AlignmentFile(file)

    def test_pandas_maps_no_memory(self, file):
        import pandas as pd

        with pytest.raises(ValueError, match="memory_map"):
            pd.read_csv(file, memory_map=True)


def test_a_weak_reference_does_not_keep_it(nginx, sample):
    """As caches of open files hold it."""
    with getm.open(nginx.url(sample("content.bin").name)) as file:
        reference = weakref.ref(file)
        assert file is reference()
    del file
    assert reference() is None


class TestText:
    """Whoever reads text takes a file opened for it."""

    def test_pandas(self, nginx, sample):
        import pandas as pd

        with getm.open(nginx.url(sample("table.csv").name), "r", encoding="utf-8") as lines:
            assert_same(pd.read_csv(sample("table.csv")), pd.read_csv(lines))

    def test_csv(self, nginx, sample):
        with (
            open(sample("table.csv"), encoding="utf-8", newline="") as expected,
            getm.open(nginx.url("table.csv"), "r", encoding="utf-8", newline="") as lines,
        ):
            assert_same(list(csv.reader(expected)), list(csv.reader(lines)))


class Sink(http.server.BaseHTTPRequestHandler):
    """Keep what is sent."""

    def do_POST(self):
        self.server.sent = self.headers, self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments):
        """Log nothing."""


@pytest.fixture
def sink():
    with http.server.HTTPServer(("127.0.0.1", 0), Sink) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestUpload:
    @pytest.fixture
    def url(self, sink):
        return f"http://127.0.0.1:{sink.server_port}/"

    @pytest.mark.parametrize("start", [0, 4_000_000])
    def test_requests_sends_from_the_position_on(self, file, sink, url, start):
        import requests

        file.seek(start)
        requests.post(url, data=file, timeout=30)
        headers, body = sink.sent
        assert str(SIZE - start) == headers["Content-Length"]
        assert ramp(start, SIZE) == body
        assert file.stats.fetched <= SIZE - start + 64 * 1024

    def test_requests_sends_a_form(self, file, sink, url):
        import requests

        requests.post(url, files={"upload": file}, timeout=30)
        _, body = sink.sent
        assert b'filename="content.bin"' in body
        assert ramp(0, SIZE) in body
