"""Whatever a server answers, wherever, by whichever door: the right bytes, or an error that says so and is not remembered.

The tables of this file are the rows of DESIGN, section 6, where in an object they may happen, and the ways to read it. Each
row happens at each of its places; doors and concurrencies take turns.
"""

import contextlib
import io
import itertools
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pytest

import getm
import getm.engine.core
import getm.retry
from getm import cli
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault

KIB = 2**10
BLOCK = 64 * KIB
PIECE = KIB
PART = 256 * KIB  # the server's longest answer: so that every door sends several requests
SIZE = BLOCK + 4 * PART + PART // 2 + 5  # its last part begins beyond 1 MiB, to where a whole object is not read through
STALL = 0.3  # seconds
SECRET = "hunter2"  # it is to be found nowhere
CONCURRENCIES = (None, 1, 4)

# Which request a fault happens to: that whose answer holds this byte.
PLACES = {"first": 0, "middle": BLOCK + 2 * PART + 1000, "last": SIZE - 1}
LATER = ("middle", "last")


@dataclass(frozen=True)
class Row:
    """What a server may answer, and what is to come of it.

    Attributes:
        name: of the row.
        faults: of one request after the other; each tells the fault from the length that the answer's body would have.
            If that is to be an error, the last goes on until the server is healed.
        error: what the caller is told; None if he gets the bytes.
        text: a part of it.
        at: the places for which that is so.
        keeps: whether what comes of the answer is right, and so not to be asked for again.
        is_central: whether it is tried in three ways at each place, not in one.
        path: what is read; "/old" redirects to "/a.bin".
        is_renewable: whether there is another URL to be had.
        options: of the door.
    """

    name: str
    faults: tuple[Callable[[int], Fault], ...]
    error: type[getm.GetmError] | None = None
    text: str = ""
    at: tuple[str, ...] = tuple(PLACES)
    keeps: bool = False
    is_central: bool = False
    path: str = "/a.bin"
    is_renewable: bool = False
    options: Mapping[str, object] = field(default_factory=dict)


def one(fault):
    return each([fault])


def each(faults):
    return tuple(lambda _, fault=fault: fault for fault in faults)


def broken(kind, where):
    """Return a body that ends after so many bytes of its length."""
    return (lambda length: Fault(**{kind: where(length)}),)


BYTES: dict[str, Callable[[int], int]] = {
    "its first byte": lambda _: 0,
    "a byte in its middle": lambda length: length // 2,
    "its last byte": lambda length: length - 1,
}
IMPATIENT = {"timeout": (5.0, STALL)}
MOVED = Fault(status=302, headers={"Location": "/b.bin?moved"})
EXPIRED = Fault(status=400, body=b"<Error><Code>ExpiredToken</Code></Error>")
DENIED = Fault(  # by rclone serve s3, of a signature that has expired
    status=400,
    body=b"<Error><Code>AccessDenied</Code><Message>The difference between the request time and the server's time exceeds "
    b"the maximum allowed.</Message></Error>",
)
NAMELESS: Mapping[str, str | None] = {"ETag": None, "Last-Modified": None}
LONG = {"seconds": "86400", "a date": "Fri, 31 Dec 2100 23:59:59 GMT"}

HEALED = (
    Row("a part that is shorter than asked for", one(Fault(shorten=10_000)), keeps=True),
    Row("a part of one byte", one(Fault(shorten=1)), keeps=True),
    Row("200 with the range that was asked for", one(Fault(status=200)), keeps=True),
    Row("a part in chunks", one(Fault(framing="chunks")), keeps=True),
    Row("a part up to the end of the connection", one(Fault(framing="connection")), keeps=True),
    Row("a part without the total", one(Fault(total="*")), at=LATER, keeps=True),
    Row("the range is ignored", one(Fault(whole=True)), at=("first", "middle")),
    Row("the range is ignored and no length is told", one(Fault(whole=True, framing="chunks")), at=("first",)),
    Row("an encoding that was not asked for", one(Fault(headers={"Content-Encoding": "gzip"})), keeps=True),
    Row("neither ETag nor Last-Modified", one(Fault(headers=NAMELESS)), keeps=True),
    *(
        Row(f"a body that is {kind} before {byte}", broken(kind, where), keeps=True, is_central=kind == "cut")
        for kind in ("cut", "reset")
        for byte, where in BYTES.items()
    ),
    *(
        Row(f"a body that stalls before {byte}", broken("stall", where), keeps=True, options=IMPATIENT)
        for byte, where in BYTES.items()
    ),
    Row("a body in chunks that is cut", (lambda length: Fault(framing="chunks", cut=length // 2),), keeps=True),
    Row("a body that drips", one(Fault(pace=1000)), options=IMPATIENT),
    Row("bodies that are all cut", each([Fault(cut=0), Fault(reset=0), Fault(drop=True)])),
    Row("no answer on a connection that is closed", one(Fault(drop=True))),
    Row("no answer", one(Fault(delay=60.0)), options=IMPATIENT),
    Row("trouble that passes", each(Fault(status=status) for status in (408, 429, 500, 502, 503, 504))),
    *(
        Row(f"{status} that asks for a pause, by {how}", one(Fault(status=status, headers={"Retry-After": text})))
        for status, (how, text) in zip((429, 503), LONG.items(), strict=True)
    ),
    Row("401 where there is a fresh URL", one(Fault(status=401)), is_renewable=True),
    Row("403 where there is a fresh URL", one(Fault(status=403)), is_renewable=True),
    Row("400 that says expired where there is a fresh URL", one(EXPIRED), is_renewable=True),
    Row("400 that says denied where there is a fresh URL", one(DENIED), is_renewable=True),
    Row("a redirect", one(MOVED), at=("first",)),
    *(
        Row(f"{status} behind a redirect", one(Fault(status=status)), path="/old", at=LATER)
        for status in (401, 403, 404, 410)
    ),
)

REFUSED = (
    Row("a part that lies behind", one(Fault(shift=512)), getm.SourceError, "was sent", at=("first", "middle")),
    Row("a part that lies before", one(Fault(shift=-512)), getm.SourceError, "was sent", at=LATER),
    Row("200 with a part that lies behind", one(Fault(status=200, shift=512)), getm.SourceError, "was sent", at=("middle",)),
    Row("206 without a range", one(Fault(headers={"Content-Range": None})), getm.SourceError, "Content-Range"),
    Row(
        "206 with a senseless range", one(Fault(headers={"Content-Range": "bytes 9-1/5"})), getm.SourceError, "Content-Range"
    ),
    Row("two lengths", one(Fault(headers={"Content-Length": "3"}, hang_up=True)), getm.SourceError, "Content-Length 3"),
    Row("another total", one(Fault(total=SIZE + 1)), getm.ObjectChanged, "size was"),
    Row("another ETag", one(Fault(headers={"ETag": '"other"'})), getm.ObjectChanged, "ETag was"),
    Row(
        "another date",
        one(Fault(headers={"ETag": None, "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"})),
        getm.ObjectChanged,
        "Last-Modified was",
    ),
    Row(
        "416 of an object that is empty now",
        one(Fault(status=416, headers={"Content-Range": "bytes */0"})),
        getm.ObjectChanged,
        "is 0",
        at=LATER,
    ),
    Row("416 of an object that is long enough", one(Fault(status=416)), getm.BadStatus, "416"),
    Row("the range is ignored", one(Fault(whole=True)), getm.RangeNotSupported, "ignored the range", at=("last",)),
    Row(
        "the range is ignored and spooling refused",
        one(Fault(whole=True)),
        getm.RangeNotSupported,
        "ignored the range",
        at=("first", "last"),
        options={"spool": 0},
    ),
    Row(
        "the range is ignored and no length is told",
        one(Fault(whole=True, framing="chunks")),
        getm.RangeNotSupported,
        "ignored the range",
        at=LATER,
    ),
    Row("a part without the total", one(Fault(total="*")), getm.RangeNotSupported, "size", at=("first",)),
    *(Row(f"{status}", one(Fault(status=status)), getm.AccessDenied, f"{status}") for status in (401, 403)),
    Row("400 that says expired", one(EXPIRED), getm.AccessDenied, "400"),
    Row("400 that says denied", one(DENIED), getm.AccessDenied, "400"),
    Row(
        "403 of the fresh URL, too",
        one(Fault(status=403)),
        getm.AccessDenied,
        "403",
        is_renewable=True,
        options={"retries": 1},
    ),
    *(Row(f"{status}", one(Fault(status=status)), getm.NotFound, f"{status}") for status in (404, 410)),
    *(Row(f"{status}", one(Fault(status=status)), getm.BadStatus, f"{status}") for status in (204, 400, 501)),
    Row("a redirect", one(MOVED), getm.BadStatus, "302", at=LATER),
    Row("a redirect without a place", one(Fault(status=302)), getm.BadStatus, "302"),
    Row("403 behind a redirect", one(Fault(status=403)), getm.AccessDenied, "403", path="/old", at=("first",)),
)

ENDLESS = tuple(
    replace(row, options={"retries": 1, **row.options})
    for row in (
        Row("bodies that are cut", one(Fault(cut=0)), getm.ShortRead, "early"),
        Row("bodies that are reset", one(Fault(reset=0)), getm.ShortRead, "lost"),
        Row("bodies that stall", one(Fault(stall=0)), getm.TransferTimeout, "in time", options=IMPATIENT),
        Row("no answers on connections that are closed", one(Fault(drop=True)), getm.SourceError, "no connection"),
        Row("no answers", one(Fault(delay=60.0)), getm.TransferTimeout, "in time", options=IMPATIENT),
        *(
            Row(f"{status}", one(Fault(status=status)), getm.BadStatus, f"{status}")
            for status in (408, 429, 500, 502, 503, 504)
        ),
    )
)

EXIT_CODES = {getm.NotFound: 3, getm.AccessDenied: 4, getm.ObjectChanged: 8}  # of all others, 5


class ExitedError(Exception):
    """The command has failed."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


class Door:
    """A way to all bytes of an object; after a failure it is tried again, and goes on where it stands if it can."""

    def __init__(self, url, folder, options):
        self.url, self.folder, self.options = url, folder, options
        self.content = bytearray()
        self.source = None

    def close(self):
        if self.source is not None:
            self.source.close()


class Opened(Door):
    def read(self):
        self.source = self.source or getm.open(self.url, **self.options)
        while part := self.source.read(150_000):
            self.content += part
        return bytes(self.content)

    def check(self):
        assert self.source is None or len(self.content) == self.source.tell()


class Streamed(Door):
    def read(self):
        self.source = self.source or getm.urlopen(self.url, **self.options)
        buffer = memoryview(bytearray(100_000))
        while count := self.source.readinto(buffer):
            self.content += buffer[:count]
        return bytes(self.content)

    def check(self):
        assert self.source is None or len(self.content) == self.source.tell()


class Iterated(Door):
    def read(self):
        self.content.clear()
        for part in getm.iter_content(self.url, BLOCK // 2, **self.options):
            self.content += part
        return bytes(self.content)

    def check(self):
        pass


class Copied(Door):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.target = self.folder / "copy"
        self.target.write_bytes(b"old")

    def read(self):
        getm.copy(self.url, self.target, **self.options)
        assert [self.target] == list(self.folder.iterdir())
        return self.target.read_bytes()

    def check(self):
        left = {self.target.with_name(f"copy{ending}") for ending in ("", ".part", ".part.json")}
        assert set(self.folder.iterdir()) in ({self.target}, left)
        assert b"old" == self.target.read_bytes()


class Commanded(Copied):
    """The command, but for the process: that would take most of the time."""

    def read(self):
        options = dict(self.options)
        arguments = [self.url, str(self.target), "--connections", str(options.pop("concurrency"))]
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as told:
            asked = getm.options.settings
            patch.setattr(getm.options, "settings", lambda given: replace(asked(given), **options))
            try:
                code = cli.run(arguments)
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
        if code:
            raise ExitedError(code, told.getvalue())
        expected = ("only its size tells a version", "these are the bytes as stored")
        assert [] == [line for line in told.getvalue().splitlines() if not line.endswith(expected)]
        assert [self.target] == list(self.folder.iterdir())
        return self.target.read_bytes()


DOORS = {"open": Opened, "urlopen": Streamed, "iter_content": Iterated, "copy": Copied, "command": Commanded}


class Case(NamedTuple):
    row: Row
    place: str
    door: str
    concurrency: int | None


# Every door with every concurrency that it has, so that neighbours differ in both.
PAIRS = [pair for pair in itertools.product(DOORS, CONCURRENCIES) if pair != ("command", None)]
PAIRS = [PAIRS[5 * number % len(PAIRS)] for number in range(len(PAIRS))]


def cases(rows):
    """Yield each row at each of its places, by pairs of door and concurrency that take turns at each place."""
    turns = {place: itertools.islice(itertools.cycle(PAIRS), number, None) for number, place in enumerate(PLACES)}
    for row in rows:
        for place in row.at:
            pairs = (pair for pair in turns[place] if pair[0] != "command" or not row.is_renewable)
            for door, concurrency in itertools.islice(pairs, 3 if row.is_central else 1):
                yield Case(row, place, door, concurrency)


ALL = {name: list(cases(rows)) for name, rows in (("healed", HEALED), ("refused", REFUSED), ("endless", ENDLESS))}


def test_everything_occurs():
    found = [case for listed in ALL.values() for case in listed]
    assert {(row.name, place) for row in (*HEALED, *REFUSED, *ENDLESS) for place in row.at} == {
        (case.row.name, case.place) for case in found
    }
    assert set(itertools.product(PAIRS, PLACES)) == {((case.door, case.concurrency), case.place) for case in found}


def every(name):
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=f"{case.row.name}, {case.place} request, {case.door}, concurrency {case.concurrency}")
            for case in ALL[name]
        ],
    )


class Script:
    """Has the server answer as a case wants it, and notes which requests its faults happened to."""

    def __init__(self, server, case):
        self.hits = []
        self._server = server
        self._row, self._offset = case.row, PLACES[case.place]
        self._faults = case.row.faults
        server.put("/a.bin", SIZE)
        server.put("/b.bin", SIZE)
        self.heal()
        server.fail(self._answer, times=None)
        server.fail(Fault(shorten=PART), times=None)

    def heal(self):
        self._server.heal()
        old = Fault(status=302, headers={"Location": f"/a.bin?key={SECRET}"})
        self._server.fail(old, when=lambda request: request.path == "/old", times=None)

    def _answer(self, request):
        stop = min(request.stop, SIZE, request.start + PART)
        if not request.start <= self._offset < stop:
            return None
        if len(self.hits) >= len(self._faults) and self._row.error is None:
            return None
        fault = self._faults[min(len(self.hits), len(self._faults) - 1)](stop - request.start)
        self.hits.append(request)
        return fault if fault.shorten else replace(fault, shorten=PART)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Pause for next to nothing before another attempt, whatever the server asks for; it is this process that pauses."""
    monkeypatch.setattr(getm.retry, "BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(getm.retry, "RETRY_AFTER_MOST", 0.01)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch):
    """Let copies of small objects send several requests, too."""
    monkeypatch.setattr(getm.engine.core, "SHARE_LEAST", PART)


@pytest.fixture
def new_door():
    """Make doors that are closed at the end, however the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda kind, *arguments: stack.enter_context(contextlib.closing(kind(*arguments)))


@pytest.fixture
def walk(server, tmp_path, new_door):
    """Script a case; return the script and the door."""

    def walk(case):
        url = server.url.replace("//", f"//user:{SECRET}@") + f"{case.row.path}?key={SECRET}#{SECRET}"
        options = {"block_size": BLOCK, "concurrency": case.concurrency, **case.row.options}
        if case.row.is_renewable:
            options["refresh"] = lambda: url
        return Script(server, case), new_door(DOORS[case.door], url, tmp_path, options)

    return walk


def all_of(error):
    """Return all that an error may show."""
    return "\n".join([str(error), repr(error), repr(error.__dict__), repr(error.args), *traceback.format_exception(error)])


def assert_says(error, case, server, hits):
    """Check what an error says: which kind, where, why; and no secret."""
    url = server.url + (case.row.path if case.place == "first" else "/a.bin")
    if isinstance(error, ExitedError):
        assert EXIT_CODES.get(case.row.error, 5) == error.code
        assert str(error).startswith(f"getm: {url}")
        assert 1 == str(error).count("\n")
    else:
        assert case.row.error is type(error)
        assert url == error.url
        if case.row.error is not getm.ObjectChanged or case.place != "first":
            assert any(max(error.start, hit.start) < min(error.stop, hit.stop) for hit in hits)
    assert url in str(error)
    assert case.row.text in str(error)
    assert SECRET not in all_of(error)


def assert_asks_for_the_rest_only(log, hit):
    """Check that after a fault nothing is asked for that has come before it; of a piece the rest does not come alone."""
    sent = log[hit.index].sent
    came = hit.start + sent if hit.start + sent == SIZE else (hit.start + sent) // PIECE * PIECE
    again = [request for request in log[hit.index + 1 :] if max(request.start, hit.start) < min(request.stop, came)]
    assert [] == again


@every("healed")
def test_what_passes_costs_no_byte(server, walk, case):
    script, door = walk(case)
    content = door.read()
    assert SIZE == len(content)
    assert_ramp(content, 0)
    assert len(case.row.faults) == len(script.hits)
    if case.row.keeps:
        assert_asks_for_the_rest_only(server.log, script.hits[0])


@every("refused")
def test_what_does_not_pass_is_an_error_at_once_and_is_not_remembered(server, walk, new_door, case):
    script, door = walk(case)
    with pytest.raises((case.row.error, ExitedError)) as caught:
        door.read()
    door.check()
    assert_says(caught.value, case, server, script.hits)
    # What failed when it was fetched ahead is asked for once more when somebody waits for it; a fresh URL is tried, too.
    ((_, most),) = Counter(hit.start for hit in script.hits).most_common(1)
    assert most <= 1 + (case.concurrency is not None) + 2 * case.row.is_renewable
    script.heal()
    if case.row.error is getm.ObjectChanged and case.place == "first":  # it is, now, for whoever holds to that version
        door.close()
        door = new_door(type(door), door.url, door.folder, door.options)
    assert ramp(0, SIZE) == door.read()


@every("endless")
def test_what_does_not_end_is_an_error_after_all_attempts_and_is_not_remembered(server, walk, case):
    script, door = walk(case)
    with pytest.raises((case.row.error, ExitedError)) as caught:
        door.read()
    door.check()
    assert_says(caught.value, case, server, script.hits)
    assert "(2 attempts)" in str(caught.value)
    assert len(script.hits) >= 2
    script.heal()
    assert ramp(0, SIZE) == door.read()


@pytest.mark.parametrize(("door", "concurrency"), PAIRS)
def test_416_of_an_object_without_bytes_is_an_empty_object(server, new_door, tmp_path, door, concurrency):
    url = server.put("/empty", 0)
    assert b"" == new_door(DOORS[door], url, tmp_path, {"concurrency": concurrency}).read()
    assert [416] == [request.status for request in server.wait_for(lambda log: log[-1].finished)]


@pytest.mark.parametrize(
    ("headers", "text"),
    [({"Content-Encoding": "gzip"}, "Content-Encoding is gzip"), (NAMELESS, "neither ETag nor Last-Modified")],
    ids=["an encoding", "no version"],
)
@pytest.mark.parametrize(("door", "concurrency"), PAIRS[:3])
def test_what_is_odd_about_an_object_is_said_in_one_warning(
    server, new_door, tmp_path, caplog, door, concurrency, headers, text
):
    url = server.put("/a.bin", SIZE, headers)
    options = {"concurrency": concurrency, "block_size": BLOCK}
    assert ramp(0, SIZE) == new_door(DOORS[door], f"{url}?key={SECRET}", tmp_path, options).read()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert text in warning
    assert url in warning
    assert SECRET not in warning


def test_bytes_of_a_first_answer_that_ends_within_a_piece_are_not_asked_for_again(server):
    url = server.put("/a.bin", SIZE)
    server.fail(Fault(shorten=10_000))
    parts = getm.iter_content(url, BLOCK // 2, concurrency=4, block_size=BLOCK)
    assert ramp(0, SIZE) == b"".join(map(bytes, parts))
    log = server.wait_for(lambda log: all(request.finished for request in log))
    assert_asks_for_the_rest_only(log, log[0])


@pytest.mark.parametrize("concurrency", CONCURRENCIES)
def test_lines_go_on_after_a_failure(server, concurrency):
    """Iterators that fail are at their end ever after if they are generators; that is not the end of the object."""
    lines = [b"%d\n" % number for number in range(100_000)]
    url = server.put("/lines", b"".join(lines))
    server.fail(Fault(status=418), when=lambda request: request.start >= BLOCK, times=None)
    with getm.open(url, block_size=BLOCK, concurrency=concurrency) as file:
        left = iter(file)
        found = []
        for _ in range(2):
            with pytest.raises(getm.BadStatus):
                found.extend(left)
        server.heal()
        found.extend(left)
    assert lines == found
