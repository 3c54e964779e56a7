"""Every answer a server may give is believed only as far as it is right, and every request says what it must."""

import contextlib
import gc
import pickle
import socket
import threading
import time
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

import getm
import getm.retry
from getm.engine import default
from getm.engine.feed import Demand, Inline
from getm.retry import Failure, Trouble
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault, FaultServer

BLOCK = MIB = 2**20
SIZE = 4 * BLOCK + 5
CONCURRENCIES = [None, 1, 4]

EVERY = pytest.mark.parametrize("concurrency", CONCURRENCIES, ids="concurrency-{}".format)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Pause for next to nothing before another attempt; it is this process that pauses."""
    monkeypatch.setattr(getm.retry, "BACKOFF_FIRST", 0.001)


def first(request):
    return request.start == 0


def later(request):
    return request.start != 0


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


@pytest.fixture
def other():
    """Serve on another port: another origin."""
    with FaultServer() as server:
        yield server


def texts(error):
    """Return all that an error may show."""
    shown = [str(error), repr(error), repr(error.__dict__), repr(error.args)]
    return "\n".join([*shown, *traceback.format_exception(error)])


def read(url, **options):
    with getm.open(url, **options) as file:
        return file.read()


def read_until_closed(file):
    with contextlib.suppress(ValueError):
        file.read_at(2 * BLOCK, 10)


class TestWrongAnswers:
    """What contradicts the request or itself is an error, and never bytes."""

    FAULTS = (
        pytest.param(Fault(shift=4096), "asked for bytes .*, was sent", id="elsewhere"),
        pytest.param(Fault(shift=-4096), "asked for bytes .*, was sent", id="before"),
        pytest.param(Fault(status=200, shift=4096), "asked for bytes .*, was sent", id="elsewhere with 200"),
        pytest.param(Fault(headers={"Content-Range": None}), "without a usable Content-Range", id="206 without a range"),
        pytest.param(Fault(headers={"Content-Range": "bytes 5-1/10"}), "Content-Range", id="senseless range"),
        pytest.param(Fault(headers={"Content-Range": "bytes */10"}), "Content-Range", id="no range"),
        pytest.param(Fault(headers={"Content-Range": "items 0-9/10"}), "Content-Range", id="other units"),
    )

    @EVERY
    @pytest.mark.parametrize(("fault", "text"), FAULTS)
    @pytest.mark.parametrize("length", [1000, 2 * BLOCK])  # by the caller, by workers
    def test_in_the_middle(self, server, url, concurrency, fault, text, length):
        server.fail(fault, when=later, times=None)
        with getm.open(url, concurrency=concurrency) as file:
            assert ramp(0, 1000) == file.read(1000)
            for _ in range(2):
                with pytest.raises(getm.SourceError, match=text) as caught:
                    file.read_at(2 * BLOCK, length)
                assert 1 == caught.value.attempts
            server.heal()
            assert ramp(2 * BLOCK, 2 * BLOCK + length) == file.read_at(2 * BLOCK, length)

    @pytest.mark.parametrize(("fault", "text"), [fault for fault in FAULTS if fault.id != "before"])
    def test_at_the_beginning(self, server, url, fault, text):
        server.fail(fault, times=1)
        with pytest.raises(getm.SourceError, match=text):
            getm.open(url)
        assert ramp(0, SIZE) == read(url)

    @EVERY
    def test_length_that_is_not_that_of_the_range(self, server, url, concurrency):
        server.fail(Fault(headers={"Content-Length": "10"}, hang_up=True), when=later, times=None)
        with (
            getm.open(url, concurrency=concurrency) as file,
            pytest.raises(getm.SourceError, match="Content-Range promises 65536 bytes, Content-Length 10"),
        ):
            file.read_at(2 * BLOCK, 1000)


class TestOtherVersions:
    """Bytes of two versions never meet."""

    @EVERY
    @pytest.mark.parametrize(
        ("fault", "text"),
        [
            (Fault(total=SIZE + 1), f"size was {SIZE}, is {SIZE + 1}"),
            (Fault(headers={"ETag": '"other"'}), 'ETag was "version-0", is "other"'),
            (Fault(headers={"ETag": None, "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}), "Last-Modified was"),
        ],
        ids=["size", "ETag", "Last-Modified"],
    )
    def test_are_told_by_each_witness(self, server, url, concurrency, fault, text):
        server.fail(fault, when=later, times=None)
        with getm.open(url, concurrency=concurrency) as file:
            assert ramp(0, 1000) == file.read(1000)
            with pytest.raises(getm.ObjectChanged, match=text) as caught:
                file.read_at(2 * BLOCK, 1000)
            assert (url, 2 * BLOCK) == (caught.value.url, caught.value.start)

    @EVERY
    @pytest.mark.parametrize("size", [SIZE, SIZE - 1, SIZE + 1, 10, 0])
    def test_are_never_mixed(self, server, url, concurrency, size):
        def replace(request):
            server.put("/a.bin", size)
            return Fault()

        server.fail(replace, when=lambda request: request.covers(3 * BLOCK), times=1)
        with getm.open(url, concurrency=concurrency, retries=1) as file:
            with pytest.raises(getm.SourceError) as caught:
                file.read()
            if size > 3 * BLOCK:
                assert isinstance(caught.value, getm.ObjectChanged)
            assert 0 == file.tell()
            assert ramp(0, BLOCK) == file.read(BLOCK)
        assert ramp(0, size, seed=1) == read(url, concurrency=concurrency)

    @EVERY
    def test_are_not_mixed_by_a_stream_or_a_copy(self, server, url, tmp_path, concurrency):
        def replace(request):
            server.put("/a.bin", SIZE)
            return Fault()

        server.fail(replace, when=lambda request: request.covers(3 * BLOCK), times=1)
        position = 0
        with pytest.raises(getm.ObjectChanged):  # noqa: PT012  # what came before it is looked at, too
            for part in getm.iter_content(url, 10_000, concurrency=concurrency):
                assert_ramp(part, position)
                position += len(part)
        server.fail(replace, when=lambda request: request.covers(3 * BLOCK), times=1)
        with pytest.raises(getm.ObjectChanged):
            getm.copy(url, tmp_path / "a.bin", concurrency=concurrency)
        assert [] == list(tmp_path.iterdir())

    def test_are_not_mixed_by_readers_that_share_blocks(self, server, url):
        with getm.open(url) as one:
            assert ramp(0, SIZE) == one.read()
            server.put("/a.bin", SIZE)
            with getm.open(url) as other:
                assert ramp(0, SIZE, seed=1) == other.read()
                assert ramp(0, SIZE) == one.read_at(0, SIZE)

    @EVERY
    def test_cannot_be_told_where_nothing_names_them_but_blocks_are_not_shared(self, server, concurrency):
        nameless = {"ETag": None, "Last-Modified": None}
        url = server.put("/a.bin", SIZE, nameless)
        assert ramp(0, SIZE) == read(url, concurrency=concurrency)
        server.put("/a.bin", SIZE, nameless)
        assert ramp(0, SIZE, seed=1) == read(url, concurrency=concurrency)

    def test_with_a_weak_etag_are_told_by_the_date_too(self, server):
        url = server.put("/a.bin", SIZE, {"ETag": 'W/"same"'})
        with getm.open(url) as file:
            server.put("/a.bin", SIZE, {"ETag": 'W/"same"'})
            with pytest.raises(getm.ObjectChanged, match="Last-Modified"):
                file.read_at(3 * BLOCK, 10)


class TestOddAnswers:
    """What is unusual but right is used."""

    @EVERY
    def test_200_with_a_matching_range(self, server, url, concurrency):
        server.fail(Fault(status=200), times=None)
        assert ramp(0, SIZE) == read(url, concurrency=concurrency)

    @EVERY
    @pytest.mark.parametrize("shorten", [100_000, 65_536, 999_999])
    def test_shorter_than_asked_for(self, server, url, concurrency, shorten):
        server.fail(Fault(shorten=shorten), times=None)
        with getm.open(url, concurrency=concurrency) as file:
            assert SIZE == file.size
            assert ramp(0, SIZE) == file.read()

    @EVERY
    def test_size_unknown_after_the_first(self, server, url, concurrency):
        server.fail(Fault(total="*"), when=later, times=None)
        assert ramp(0, SIZE) == read(url, concurrency=concurrency)

    def test_size_unknown_from_the_beginning(self, server, url):
        server.fail(Fault(total="*"), times=None)
        with pytest.raises(getm.RangeNotSupported, match="size"):
            getm.open(url)

    @EVERY
    @pytest.mark.parametrize("framing", ["chunks", "connection"])
    def test_body_without_a_length(self, server, url, concurrency, framing):
        server.fail(Fault(framing=framing), times=None)
        assert ramp(0, SIZE) == read(url, concurrency=concurrency)

    @EVERY
    @pytest.mark.parametrize("size", [1, 1000, BLOCK])
    def test_range_ignored_for_a_small_object(self, server, concurrency, size):
        server.fail(Fault(whole=True), times=None)
        assert ramp(0, size) == read(server.put("/a.bin", size), concurrency=concurrency)

    @EVERY
    def test_range_ignored_for_a_large_object(self, server, url, concurrency):
        server.fail(Fault(whole=True), times=None)
        with pytest.raises(getm.RangeNotSupported, match="ignored the range"):
            getm.open(url, concurrency=concurrency, spool=0)
        with pytest.raises(getm.RangeNotSupported):
            getm.read(url, 10, 20, spool=0)
        server.heal()
        server.fail(Fault(whole=True), when=later, times=None)
        with getm.open(url, concurrency=concurrency) as file:
            assert ramp(0, BLOCK) == file.read(BLOCK)
            with pytest.raises(getm.RangeNotSupported):
                file.read(1)

    @EVERY
    def test_empty_object(self, server, concurrency):
        url = server.put("/empty", 0)
        assert b"" == read(url, concurrency=concurrency)
        assert 416 == server.wait_for(lambda log: log[-1].finished)[-1].status
        server.fail(Fault(whole=True), times=1)
        assert b"" == read(url, concurrency=concurrency)
        assert 200 == server.wait_for(lambda log: log[-1].finished)[-1].status
        assert b"" == getm.read(url)
        assert 0 == getm.info(url).size

    def test_empty_object_without_a_version_is_not_warned_of(self, server, caplog):
        assert b"" == getm.read(server.put("/empty", 0, {"ETag": None, "Last-Modified": None}))
        assert [] == caplog.records

    def test_range_beyond_the_end(self, server, url):
        assert b"" == getm.read(url, SIZE, SIZE + 10)
        assert ramp(SIZE - 5, SIZE) == getm.read(url, SIZE - 5, SIZE + 10)

    def test_other_answer_of_416_is_an_error(self, server, url):
        server.fail(Fault(status=416), when=later, times=None)
        with getm.open(url) as file, pytest.raises(getm.BadStatus, match="416"):
            file.read_at(3 * BLOCK, 10)


class TestBrokenBodies:
    @EVERY
    @pytest.mark.parametrize("kind", ["cut", "reset"])
    def test_are_gone_on_with_where_they_broke(self, server, url, concurrency, kind):
        for after in (0, 1, 100_000):
            server.fail(Fault(**{kind: after}), when=first)
            server.fail(Fault(**{kind: after}), when=later, times=2)
            default(concurrency).clear()
            assert ramp(0, SIZE) == read(url, concurrency=concurrency)
            server.fail(Fault(**{kind: after}), when=later, times=2)
            default(concurrency).clear()
            assert ramp(0, SIZE) == b"".join(map(bytes, getm.iter_content(url, 100_000, concurrency=concurrency)))

    @EVERY
    def test_again_and_again_are_no_failure_as_long_as_something_comes(self, server, url, concurrency):
        server.fail(Fault(cut=300_000), times=None)
        assert ramp(0, SIZE) == read(url, concurrency=concurrency, retries=1)

    @EVERY
    def test_of_which_nothing_comes_are_an_error_that_says_what_and_where(self, server, url, concurrency):
        server.fail(Fault(cut=0), when=later, times=None)
        with getm.open(url, concurrency=concurrency, retries=1) as file:
            with pytest.raises(getm.ShortRead, match=r"bytes 2097152-.*early \(2 attempts\)") as caught:
                file.read_at(2 * BLOCK, 65_536)
            assert (2 * BLOCK, 2 * BLOCK + 65_536, 2) == (caught.value.start, caught.value.stop, caught.value.attempts)
            server.heal()
            assert ramp(2 * BLOCK, 2 * BLOCK + 100) == file.read_at(2 * BLOCK, 100)

    @EVERY
    def test_leave_nobody_with_the_callers_memory(self, server, url, concurrency):
        class Buffer(bytearray):
            pass

        server.fail(Fault(cut=0), when=later, times=None)
        with getm.open(url, concurrency=concurrency, retries=0) as file:
            file.seek(2 * BLOCK)
            buffer = Buffer(100_000)
            reference = weakref.ref(buffer)
            gc.disable()
            try:
                with contextlib.suppress(getm.ShortRead):
                    file.readinto(buffer)
                del buffer
                assert reference() is None
            finally:
                gc.enable()

    def test_are_harmless_as_errors_in_a_cycle_of_garbage(self, server, url):
        server.fail(Fault(cut=0), when=later, times=None)
        with getm.open(url, retries=0) as file:
            for _ in range(10):
                try:
                    file.read_at(2 * BLOCK, 100_000)
                except getm.ShortRead as error:
                    error.itself = error
                gc.collect()
            server.heal()
            assert ramp(0, SIZE) == file.read()

    @EVERY
    def test_in_chunks_are_gone_on_with(self, server, url, concurrency):
        server.fail(Fault(framing="chunks", cut=100_000), when=later, times=2)
        assert ramp(0, SIZE) == read(url, concurrency=concurrency)

    @EVERY
    def test_are_not_gone_on_with_by_another_version(self, server, url, concurrency):
        def replace(request):
            server.put("/a.bin", SIZE)

        server.fail(Fault(cut=100_000), when=later, times=1)
        server.fail(replace, when=later, times=1)
        with getm.open(url, concurrency=concurrency) as file, pytest.raises(getm.ObjectChanged):
            file.read()

    @EVERY
    def test_connections_dropped_without_an_answer_are_made_again(self, server, url, concurrency):
        server.fail(Fault(drop=True))
        server.fail(Fault(drop=True), when=later, times=2)
        assert ramp(0, SIZE) == read(url, concurrency=concurrency)

    @EVERY
    def test_copies_are_gone_on_with_too(self, server, url, tmp_path, concurrency):
        server.fail(Fault(cut=100_000), when=first)
        server.fail(Fault(reset=100_000), when=later, times=2)
        server.fail(Fault(status=503), when=later, times=1)
        getm.copy(url, tmp_path / "a.bin", concurrency=concurrency)
        assert ramp(0, SIZE) == (tmp_path / "a.bin").read_bytes()


class TestStatus:
    ERRORS = (
        (404, getm.NotFound),
        (410, getm.NotFound),
        (401, getm.AccessDenied),
        (403, getm.AccessDenied),
        (400, getm.BadStatus),
        (500, getm.BadStatus),
        (503, getm.BadStatus),
        (204, getm.BadStatus),
        (418, getm.BadStatus),
    )

    @pytest.mark.parametrize(("status", "kind"), ERRORS)
    def test_is_an_error_that_says_so(self, server, url, status, kind):
        server.fail(Fault(status=status, body=b""), times=None)
        with pytest.raises(kind, match=f"{url}.*: the server answered {status}") as caught:
            getm.open(url, retries=0)
        assert (status, url, 0, BLOCK, 1) == (
            caught.value.status,
            caught.value.url,
            caught.value.start,
            caught.value.stop,
            caught.value.attempts,
        )
        assert isinstance(caught.value, OSError)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(caught.value), str(caught.value), status) == (type(again), str(again), again.status)
        for call in (getm.urlopen, getm.info, getm.iter_content, lambda url, retries: getm.read(url, 1, 2, retries=0)):
            with pytest.raises(kind, match=str(status)):
                call(url, retries=0)

    @EVERY
    def test_is_not_remembered(self, server, url, concurrency):
        with getm.open(url, retries=0, concurrency=concurrency) as file:
            for status, kind in self.ERRORS:
                default(concurrency).clear()
                server.fail(Fault(status=status, body=b""), when=later, times=None)
                for position in (BLOCK + 5, 2 * BLOCK):
                    file.seek(position)
                    with pytest.raises(kind, match=str(status)):
                        file.read(2 * BLOCK)
                    assert position == file.tell()
                server.heal()
                assert ramp(2 * BLOCK, SIZE) == file.read()
            assert ramp(0, SIZE) == file.read_at(0, SIZE)

    @pytest.mark.usefixtures("workers_at_once")
    def test_of_a_request_sent_before_somebody_waited_is_not_theirs(self, server, url):
        answering = threading.Event()
        with getm.open(url, retries=0, concurrency=4) as file, ThreadPoolExecutor(1) as threads:
            server.fail(Fault(delay=answering, status=401), when=later, times=1)
            for _ in range(3):  # then it reads ahead
                file.read(256 * 1024)
            server.wait_for(lambda log: any(request.start for request in log))
            position = next(request.start for request in server.log if request.start)
            reading = threads.submit(file.read_at, position, BLOCK)
            while not file._feed.demands and not reading.done():
                time.sleep(0.001)
            answering.set()
            assert ramp(position, position + BLOCK) == reading.result()

    @pytest.mark.parametrize(
        "failure",
        [Failure(Trouble.CUT, "cut"), Failure(Trouble.STATUS, "refused", 403)],
        ids=["passing trouble", "refusal"],
    )
    def test_of_an_impatient_reader_is_not_that_of_another_of_the_same_object(self, url, failure):
        with (
            getm.open(url, retries=0, concurrency=4) as one,
            getm.open(url, retries=7, concurrency=4, refresh=lambda: url) as other,
        ):
            demands = [Demand(BLOCK, BLOCK + 10, None) for _ in range(2)]
            for file, demand in zip((one, other), demands, strict=True):
                file._feed.demands.append(demand)
            default(4)._hub.turn(one._feed, lambda core: core.troubles.failed(one._feed, Inline(BLOCK, 2 * BLOCK), failure))
            assert [True, False] == [demand.error is not None for demand in demands]

    @EVERY
    def test_of_passing_trouble_is_tried_again(self, server, url, concurrency):
        for status in (408, 429, 500, 502, 503, 504):
            default(concurrency).clear()
            server.fail(Fault(status=status), when=first)
            server.fail(Fault(status=status), when=later, times=1)
            assert ramp(0, SIZE) == read(url, concurrency=concurrency)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
    def test_of_other_trouble_is_not(self, server, url, status):
        server.fail(Fault(status=status))
        with pytest.raises(getm.GetmError):
            getm.open(url)
        assert 1 == len(server.log)

    def test_trouble_is_given_up_after_so_many_attempts(self, server, url):
        server.fail(Fault(status=503), times=None)
        with pytest.raises(getm.BadStatus, match=r"503.*\(3 attempts\)") as caught:
            getm.open(url, retries=2)
        assert 3 == caught.value.attempts == len(server.log)

    def test_each_attempt_at_the_first_answer_is_logged(self, server, url, caplog):
        caplog.set_level("DEBUG", "getm")
        server.fail(Fault(status=503))
        getm.open(url).close()
        server.fail(Fault(status=404))
        with pytest.raises(getm.NotFound):
            getm.info(url)
        server.fail(Fault(cut=100))
        assert ramp(5, 1000) == getm.read(url, 5, 1000)
        assert [
            f"{url}, bytes 0-{BLOCK - 1}, attempt 1: the server answered 503 Service Unavailable",
            f"{url}, bytes 0-0, attempt 1: the server answered 404 Not Found",
            f"{url}, bytes 105-999, attempt 1: the server ended an answer 895 bytes early",
        ] == [record.getMessage() for record in caplog.records]

    @EVERY
    @pytest.mark.parametrize("length", [10, 2 * BLOCK])
    def test_trouble_in_the_middle_is_given_up_after_so_many_attempts(self, server, url, concurrency, length):
        server.fail(Fault(status=503), when=later, times=None)
        with getm.open(url, retries=2, concurrency=concurrency) as file:
            with pytest.raises(getm.BadStatus, match=r"503.*\(3 attempts\)"):
                file.read_at(2 * BLOCK, length)
            assert 3 <= len(server.log[1:]) <= 3 * (concurrency or 1)

    def test_a_server_that_asks_for_a_pause_gets_it(self, server, url):
        server.fail(Fault(status=503, headers={"Retry-After": "1"}))
        getm.open(url).close()
        assert server.log[1].arrived - server.log[0].arrived >= 1.0

    @pytest.mark.parametrize(
        "call", [getm.open, getm.info, getm.urlopen, lambda url, **options: getm.read(url, 1, 2, **options)]
    )
    def test_trouble_at_the_beginning_is_given_up_after_the_deadline(self, server, url, call):
        server.fail(Fault(status=503), times=None)
        with pytest.raises(getm.BadStatus):
            call(url, retries=1000, deadline=0.5)
        server.heal()
        server.fail(Fault(delay=60.0), times=None)
        with pytest.raises(getm.TransferTimeout, match="no answer in time"):
            call(url, retries=1000, deadline=0.5, timeout=(5, 0.3))

    def test_a_host_that_is_unknown_is_an_error_at_once(self):
        with pytest.raises(getm.SourceError, match="not known") as caught:
            getm.open("http://host.invalid/a")
        assert 1 == caught.value.attempts

    def test_an_answer_that_is_no_http_is_an_error_at_once(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def answer():
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(getm.SourceError, match="not HTTP"):
                getm.open(f"http://127.0.0.1:{listener.getsockname()[1]}/a")
            thread.join()

    @EVERY
    def test_429_with_a_pause_holds_for_the_whole_server(self, server, url, concurrency):
        other = server.put("/b.bin", SIZE)
        with getm.open(url, concurrency=concurrency) as one, getm.open(other, concurrency=concurrency) as two:
            server.fail(Fault(status=429, headers={"Retry-After": "1"}))
            assert ramp(2 * BLOCK, 2 * BLOCK + 10) == one.read_at(2 * BLOCK, 10)
            server.fail(Fault(status=429, headers={"Retry-After": "1"}))
            thread = threading.Thread(target=one.read_at, args=(3 * BLOCK, 10))
            thread.start()
            refusal = server.wait_for(lambda log: log[-1].status == 429 and log[-1].finished)[-1]
            while not default(concurrency)._hub.core.troubles._holds.get(one._feed.host, 0.0) > time.monotonic():
                time.sleep(0.001)  # until it is heard of
            assert ramp(2 * BLOCK, 2 * BLOCK + 10) == two.read_at(2 * BLOCK, 10)
            thread.join()
        assert all(request.arrived >= refusal.arrived + 1.0 for request in server.log[refusal.index + 1 :])

    def test_503_with_a_pause_holds_for_its_object_only(self, server, url):
        other = server.put("/b.bin", SIZE)
        with getm.open(url) as one, getm.open(other) as two:
            server.fail(Fault(status=503, headers={"Retry-After": "30"}), when=lambda r: r.path == "/a.bin", times=None)
            thread = threading.Thread(target=read_until_closed, args=(one,))
            thread.start()
            server.wait_for(lambda log: log[-1].status == 503)
            assert ramp(0, SIZE) == two.read()
            one.close()
            thread.join()

    def test_no_connection_is_an_error(self, server, url):
        server.close()
        with pytest.raises(getm.SourceError, match=r"no connection: Connection refused \(2 attempts\)"):
            getm.open(url, retries=1)

    def test_trouble_of_one_reader_does_not_slow_another(self, server, url):
        server.fail(Fault(status=503), when=lambda request: request.path == "/a.bin" and later(request), times=None)
        healthy = server.put("/healthy", SIZE)
        with getm.open(url) as one, getm.open(healthy) as two:
            contents = []
            thread = threading.Thread(target=lambda: contents.append(one.read()), daemon=True)
            thread.start()
            server.wait_for(lambda log: any(request.status == 503 for request in log))
            assert ramp(0, SIZE) == two.read()
            assert [] == contents
            server.heal()
            thread.join(30)
            assert [ramp(0, SIZE)] == contents


class TestRequests:
    """What every request says, also those of the workers."""

    def requests(self, server, url, concurrency, **options):
        assert ramp(0, SIZE) == read(url, concurrency=concurrency, **options)
        log = server.log
        assert len(log) >= 2
        return log

    @EVERY
    def test_plain_ones(self, server, url, concurrency):
        for request in self.requests(server, url, concurrency):
            assert "GET" == request.method
            assert "identity" == request.headers["Accept-Encoding"]
            assert f"bytes={request.start}-{request.stop - 1}" == request.headers["Range"]
            for absent in ("If-Match", "If-Range", "Cookie", "Authorization"):
                assert request.headers[absent] is None

    @EVERY
    def test_headers_and_query(self, server, url, concurrency):
        headers = {"Authorization": "Bearer abc", "X-Trace": "7", "Range": "bytes=0-0", "User-Agent": "mine"}
        for request in self.requests(server, url + "?key=1&b=%2F", concurrency, headers=headers):
            assert ("Bearer abc", "7", "mine") == tuple(
                request.headers[name] for name in ("Authorization", "X-Trace", "User-Agent")
            )
            assert "key=1&b=%2F" == request.query
            assert request.stop - request.start > 1

    @EVERY
    def test_compression_cannot_be_asked_for(self, server, url, concurrency):
        session = requests.Session()
        session.headers["Accept-Encoding"] = "br"
        for options in ({"headers": {"accept-encoding": "gzip"}}, {"session": session}, {"session": requests.Session()}):
            self.requests(server, url, concurrency, **options)
        assert {"identity"} == {request.headers["Accept-Encoding"] for request in server.log}
        assert {1} == {len(request.headers.get_all("Accept-Encoding")) for request in server.log}

    @EVERY
    def test_user_and_password(self, server, url, concurrency):
        for request in self.requests(server, url, concurrency, auth=("user", "word")):
            assert "Basic dXNlcjp3b3Jk" == request.headers["Authorization"]

    @EVERY
    def test_user_and_password_in_the_url(self, server, url, concurrency):
        for request in self.requests(server, url.replace("//", "//user:word@"), concurrency):
            assert "Basic dXNlcjp3b3Jk" == request.headers["Authorization"]

    @EVERY
    def test_auth_object_of_the_callers_own(self, server, url, concurrency):
        class Signed(requests.auth.AuthBase):
            def __call__(self, request):
                request.headers["X-Signature"] = request.headers["Range"][::-1]
                return request

        for request in self.requests(server, url, concurrency, auth=Signed()):
            assert request.headers["Range"][::-1] == request.headers["X-Signature"]

    @EVERY
    def test_session(self, server, url, concurrency):
        with requests.Session() as session:
            session.headers["X-Session"] = "5"
            session.auth = ("user", "word")
            session.cookies.set("taste", "sweet")
            session.params = {"token": "abc"}
            log = self.requests(server, url, concurrency, session=session, headers={"X-Own": "1"})
        for request in log:
            assert ("5", "1", "taste=sweet") == tuple(request.headers[name] for name in ("X-Session", "X-Own", "Cookie"))
            assert "Basic dXNlcjp3b3Jk" == request.headers["Authorization"]
            assert "token=abc" == request.query

    @pytest.mark.parametrize(
        "options",
        [
            {"session": 5},
            {"auth": 5},
            {"auth": ("a",)},
            {"headers": 5},
            {"headers": ["a"]},
            {"headers": {"a": 1}},
            {"headers": {"a": "b\r\nc: d"}},
            {"headers": {"\u00e4": "\u65e5"}},
            {"proxies": "x"},
            {"proxies": {"http": 5}},
            {"cert": 3},
            {"cert": "/missing"},
            {"cert": ("/missing", "/missing")},
            {"verify": "/missing"},
            {"verify": 5},
            {"engine": 5},
            {"timeout": float("inf")},
            {"deadline": float("nan")},
            {"spool": -1},
        ],
        ids=str,
    )
    def test_what_cannot_be_sent_is_refused_before(self, server, url, options):
        for call in (getm.open, getm.urlopen):
            with pytest.raises(getm.UsageError):
                call(url, **options)
        with pytest.raises(getm.UsageError):
            getm.open("http://a b/")
        with pytest.raises(TypeError):
            getm.read(url, 1.5, 2)
        with pytest.raises(getm.UsageError, match="buffering"):
            getm.open(url, buffering="4K")
        assert [] == server.log


class TestRedirects:
    @pytest.mark.parametrize(("status", "concurrency"), [(301, None), (302, 1), (303, 4), (307, None), (308, 4)])
    def test_are_followed_once(self, server, url, concurrency, status):
        server.fail(
            Fault(status=status, headers={"Location": "/a.bin?signed=1"}), when=lambda r: r.path == "/old", times=None
        )
        with getm.open(server.url + "/old", concurrency=concurrency) as file:
            assert ramp(0, SIZE) == file.read()
            assert (url, "a.bin") == (file.url, file.name)
        assert ["/old"] + ["/a.bin"] * (len(server.log) - 1) == [request.path for request in server.log]
        assert all(request.query == "signed=1" for request in server.log[1:])
        assert url == getm.info(server.url + "/old").url

    @EVERY
    def test_to_another_origin_are_told_no_secrets(self, server, other, concurrency):
        target = other.put("/a.bin", SIZE)
        server.fail(Fault(status=302, headers={"Location": target}), times=None)
        session = requests.Session()
        session.headers["X-Api-Token"] = "SECRET"
        session.cookies.set("id", "SECRET")
        secrets = {"Authorization": "SECRET", "Cookie": "a=SECRET", "X-Api-Key": "SECRET", "X-Amz-Security-Token": "SECRET"}
        for options in ({"headers": {**secrets, "X-Plain": "1"}}, {"auth": ("u", "SECRET")}, {"session": session}):
            default(concurrency).clear()
            assert ramp(0, SIZE) == read(server.url + "/old", concurrency=concurrency, **options)
        assert "SECRET" in str(server.log[0].headers)
        assert all("SECRET" not in str(request.headers) for request in other.log)
        assert all(request.headers["Authorization"] is None for request in other.log)
        assert "1" == other.log[0].headers["X-Plain"]

    def test_within_an_origin_are_told_them(self, server, url):
        server.fail(Fault(status=302, headers={"Location": url}), when=lambda r: r.path == "/old", times=None)
        assert ramp(0, SIZE) == read(server.url + "/old", headers={"Authorization": "Bearer abc"})
        assert all("Bearer abc" == request.headers["Authorization"] for request in server.log)

    @pytest.mark.parametrize("location", ["/old", "old?n=1"])
    def test_in_a_circle_are_an_error(self, server, location):
        server.fail(Fault(status=302, headers={"Location": location}), times=None)
        with pytest.raises(getm.SourceError, match="more than 10 redirects"):
            getm.open(server.url + "/old")
        assert 11 == len(server.log)

    @pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/x", "http://[", "data:,x", "gopher://x/SECRET"])
    def test_to_what_is_no_http_are_refused(self, server, location):
        server.fail(Fault(status=302, headers={"Location": location}), times=None)
        with pytest.raises(getm.SourceError, match="redirected to something unusable"):
            getm.open(server.url + "/old")
        assert 1 == len(server.log)

    def test_without_a_place_are_an_error(self, server, url):
        server.fail(Fault(status=302), times=None)
        with pytest.raises(getm.BadStatus, match="302"):
            getm.open(url)

    @EVERY
    def test_in_the_middle_are_an_error_and_bytes_of_elsewhere_never_come(self, server, url, concurrency):
        server.put("/other.bin", SIZE)
        server.put("/other.bin", SIZE)
        server.fail(Fault(status=302, headers={"Location": "/other.bin"}), when=later, times=None)
        with getm.open(url, concurrency=concurrency) as file, pytest.raises(getm.SourceError, match="302"):
            file.read()


class TestSecrets:
    """No text of an error or of a repr holds user info, query or fragment."""

    FAULTS = (
        Fault(status=404),
        Fault(status=403),
        Fault(status=500),
        Fault(cut=0),
        Fault(drop=True),
        Fault(shift=5000),
        Fault(whole=True),
        Fault(headers={"Content-Range": None}),
        Fault(headers={"ETag": '"other"'}),
        Fault(status=302, headers={"Location": "http://user:SECRET@[/?SECRET#SECRET"}),
        Fault(status=302, headers={"Location": "ftp://user:SECRET@host/?SECRET"}),
    )

    @pytest.mark.parametrize("fault", FAULTS, ids=range(len(FAULTS)))
    @pytest.mark.parametrize("concurrency", [None, 2])
    def test_of_the_url_are_in_no_error(self, server, url, fault, concurrency):
        secret = url.replace("//", "//user:SECRET@") + "?token=SECRET#SECRET"
        options = {"retries": 0, "concurrency": concurrency, "headers": {"Authorization": "SECRET"}}
        with getm.open(secret, **options) as file:
            assert "SECRET" not in repr(file) + file.url + file.name
            server.fail(fault, times=None)
            with pytest.raises(getm.GetmError) as caught:
                file.read_at(2 * BLOCK, 1000)
        assert "SECRET" not in texts(caught.value)
        if fault.headers.get("ETag") is None:
            with pytest.raises(getm.GetmError) as caught:
                read(secret, spool=0, **options)
            assert "SECRET" not in texts(caught.value)

    def test_are_in_no_error_of_a_connection(self, server, url):
        server.close()
        secret = url.replace("//", "//user:SECRET@") + "?SECRET"
        with pytest.raises(getm.SourceError) as caught:
            getm.open(secret, retries=0)
        assert "SECRET" not in texts(caught.value)

    @pytest.mark.parametrize("url", ["http://user:SECRET@/x", "ftp://h/?SECRET", "http://h/ x\n?SECRET", "http://h:SECRET/"])
    def test_are_in_no_error_of_usage(self, url):
        with pytest.raises(getm.UsageError) as caught:
            getm.open(url)
        assert "SECRET" not in texts(caught.value)

    def test_are_in_no_log(self, server, url, caplog):
        caplog.set_level("DEBUG", "getm")
        server.fail(Fault(status=503), when=later, times=2)
        assert ramp(0, SIZE) == read(url.replace("//", "//user:SECRET@") + "?SECRET")
        assert caplog.records
        assert "SECRET" not in caplog.text
