"""Blocks are shared by readers that would be answered alike, and by no others: by the server's log, and by the bytes.

The server here is a treacherous one: whatever it serves has one ETag, one date and one size, and only the bytes tell who
asked, and for what. So a block that goes to the wrong reader shows.
"""

import contextlib
import itertools
import zlib
from urllib.parse import parse_qs

import pytest
import requests

import getm
from getm.engine import default
from tests.content import ramp
from tests.servers.fault import Fault, FaultServer
from tests.servers.sockets import TlsFront

BLOCK = 16 * 1024
PART = 5000  # longer reads may go straight to the caller, and leave nothing to share
SIZE = 3 * BLOCK + 7  # four blocks are half of what there is memory for without processes: all of them are kept
SAME = {"ETag": '"same"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}

EVERY = pytest.mark.parametrize("concurrency", [None, 4], ids="concurrency-{}".format)


def contents(number):
    return ramp(0, SIZE, seed=number)


def opened(door, url, options):
    """Open by one door; return the reader, and what reads all of it, from the beginning."""
    options = {"block_size": BLOCK, **options}
    if door == "open":
        file = getm.open(url, **options)
        return file, lambda: read_again(file)
    stream = getm.urlopen(url, **options)
    return stream, lambda: b"".join(iter(lambda: bytes(stream.read(PART)), b""))


def read_again(file):
    return b"".join(file.read_at(start, PART) for start in range(0, SIZE, PART))


def fresh(options):
    """Return options, each that is a function called: what cannot be made before the test begins."""
    return {name: value() if isinstance(value, type(fresh)) else value for name, value in options.items()}


def asked_again(log, *, size=SIZE):
    """Say whether the whole object was asked for by these requests."""
    position = 0
    for start, stop in sorted((request.start, request.stop) for request in log):
        position = stop if start <= position < stop else position
    return position >= size


PAIRS = (  # by which doors, and whether the first reader is still open
    ("open", "open", True),
    ("open", "open", False),
    ("open", "urlopen", False),
    ("urlopen", "open", True),
    ("urlopen", "urlopen", False),
)


class Pairs:
    """Two readers one after the other, by both doors each, while the first is open and after it was closed.

    Args:
        server: that both ask in the end.
        concurrency: of both.
    """

    def __init__(self, server, concurrency):
        self.server = server
        self.concurrency = concurrency
        self.count = 0

    def run(self, url, one, other):
        """Yield what is read by each pair, and the requests of the second.

        Args:
            url: returns that of an object of which no reader knows, for the first reader and for the second.
            one: options of the first.
            other: options of the second.
        """
        for first, second, is_open in PAIRS:
            self.count += 1
            default(self.concurrency).clear()
            urls = url(f"/{self.count}.bin")
            with contextlib.ExitStack() as stack:
                reader, read = opened(first, urls[0], {"concurrency": self.concurrency, **fresh(one)})
                stack.enter_context(reader)
                was_read = read()
                if not is_open:
                    reader.close()
                before = len(self.server.log)
                later, read_later = opened(second, urls[1], {"concurrency": self.concurrency, **fresh(other)})
                stack.enter_context(later)
                is_read = read_later()
                log = self.server.wait_for(lambda log: all(request.finished for request in log))[before:]
                if is_open and first == "open":
                    assert was_read == read_again(reader)
            yield was_read, is_read, log


def by_header(name):
    return lambda request: request.headers[name]


def by_query(request):
    return parse_qs(request.query)["id"][0]


def by_nothing(_request):
    return None


def serve_by(server, identity):
    """Have the bytes, and nothing else, depend on who asks; return what says which bytes a request is due."""

    def due(request):
        return contents(zlib.crc32(repr(identity(request)).encode()) % 1000)

    server.fail(lambda request: server.put(request.path, due(request), SAME) and None, times=None)
    return due


class Auth(requests.auth.AuthBase):
    """Sends a token, as a caller's own class may."""

    def __init__(self, token):
        self.token = token

    def __call__(self, request):
        request.headers["X-Token"] = self.token
        return request


def session_of(**headers):
    session = requests.Session()
    session.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return session


HEADER, AUTHORIZATION = by_header("X-Tenant"), by_header("Authorization")


@EVERY
@pytest.mark.parametrize(
    ("identity", "one", "other"),
    [
        pytest.param(HEADER, {"headers": {"X-Tenant": "a"}}, {"headers": {"X-Tenant": "b"}}, id="another header"),
        pytest.param(HEADER, {"headers": {"X-Tenant": "a"}}, {}, id="a header and none"),
        pytest.param(
            AUTHORIZATION, {"headers": {"Authorization": "Bearer a"}}, {"headers": {"Authorization": "Bearer b"}}, id="token"
        ),
        pytest.param(by_header("Cookie"), {"headers": {"Cookie": "a=1"}}, {"headers": {"Cookie": "a=2"}}, id="cookie"),
        pytest.param(AUTHORIZATION, {"auth": ("user", "a")}, {"auth": ("user", "b")}, id="another password"),
        pytest.param(AUTHORIZATION, {"auth": ("user", "a")}, {}, id="a user and none"),
        pytest.param(by_header("X-Token"), {"auth": Auth("a")}, {"auth": Auth("b")}, id="another auth object"),
        pytest.param(
            HEADER,
            {"session": lambda: session_of(X_Tenant="a")},
            {"session": lambda: session_of(X_Tenant="b")},
            id="another session",
        ),
        pytest.param(
            by_header("Proxy-Authorization"), {"proxies": "a:pw"}, {"proxies": "b:pw"}, id="another user of a proxy"
        ),
        pytest.param(by_header("Proxy-Authorization"), {"proxies": "a:pw"}, {}, id="a proxy and none"),
    ],
)
def test_another_credential_has_blocks_of_its_own(server, concurrency, identity, one, other):
    due = serve_by(server, identity)
    one, other = (
        {**options, "proxies": {"http": server.url.replace("//", f"//{options['proxies']}@")}}
        if "proxies" in options
        else options
        for options in (one, other)
    )  # the server is its own proxy
    for was_read, is_read, log in Pairs(server, concurrency).run(lambda path: [server.url + path] * 2, one, other):
        assert asked_again(log)
        assert was_read != is_read
        assert is_read == due(log[0])


@EVERY
def test_another_user_of_netrc_has_blocks_of_its_own(server, concurrency, tmp_path, monkeypatch):
    due = serve_by(server, AUTHORIZATION)
    users = itertools.cycle("ab")

    def session():
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {next(users)} password word\n")
        return requests.Session()

    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    options = {"session": session}
    for was_read, is_read, log in Pairs(server, concurrency).run(lambda path: [server.url + path] * 2, options, options):
        assert asked_again(log)
        assert was_read != is_read
        assert is_read == due(log[0])
    assert 2 == len({request.headers["Authorization"] for request in server.log})


@EVERY
@pytest.mark.parametrize(
    ("identity", "one", "other"),
    [
        pytest.param(by_query, "?id=1", "?id=2", id="another query"),
        pytest.param(by_query, "?id=1&X-Amz-Signature=a", "?id=2&X-Amz-Signature=a", id="another query that is signed"),
        pytest.param(by_query, "?id=1&sig=a&se=b&sv=c", "?id=2&sig=a&se=b&sv=c", id="another query of Azure"),
        pytest.param(AUTHORIZATION, "//a:word@", "//b:word@", id="another user in the URL"),
        pytest.param(lambda request: request.query, "?Expires=1", "?Expires=2", id="a lone Expires"),
        pytest.param(
            lambda request: parse_qs(request.query)["response-content-type"][0],
            "?response-content-type=a&X-Amz-Signature=a",
            "?response-content-type=b&X-Amz-Signature=a",
            id="another answer asked for by a signed query",
        ),
    ],
)
def test_another_url_has_blocks_of_its_own(server, concurrency, identity, one, other):
    def urls(path):
        url = server.url + path
        return [url + each if each.startswith("?") else url.replace("//", each) for each in (one, other)]

    due = serve_by(server, identity)
    for was_read, is_read, log in Pairs(server, concurrency).run(urls, {}, {}):
        assert asked_again(log)
        assert was_read != is_read
        assert is_read == due(log[0])


@EVERY
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"ETag": 'W/"same"'}, id="a weak ETag"),
        pytest.param({"ETag": None}, id="a date only"),
        pytest.param({"ETag": None, "Last-Modified": None}, id="nothing"),
        pytest.param(
            {"ETag": ""},
            id="an empty ETag",
        ),
    ],
)
def test_a_version_without_a_strong_name_is_never_shared(server, concurrency, headers):
    def urls(path):
        server.put(path, contents(0), {**SAME, **headers})
        return [server.url + path] * 2

    for was_read, is_read, log in Pairs(server, concurrency).run(urls, {}, {}):
        assert asked_again(log)
        assert was_read == is_read == contents(0)


@EVERY
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"ETag": '"other"'}, id="another ETag"),
        pytest.param({"ETag": 'W/"same"'}, id="the ETag made weak"),
        pytest.param({"ETag": None}, id="no ETag any more"),
    ],
)
def test_another_version_has_blocks_of_its_own(server, concurrency, change):
    def urls(path):
        server.put(path, contents(0), SAME)
        return [server.url + path] * 2

    pairs = Pairs(server, concurrency)
    is_first = itertools.cycle((True, False))

    def replaced():
        if not next(is_first):  # as the second reader is about to be opened
            server.put(f"/{pairs.count}.bin", contents(1), {**SAME, **change})
        return {}

    def next_options():
        return replaced()

    for was_read, is_read, log in pairs.run(urls, {"headers": next_options}, {"headers": next_options}):
        assert asked_again(log)
        assert (contents(0), contents(1)) == (was_read, is_read)


@EVERY
def test_another_size_has_blocks_of_its_own(server, concurrency):
    url = server.put("/a.bin", contents(0), SAME)
    with getm.open(url, concurrency=concurrency, block_size=BLOCK) as one:
        assert contents(0) == read_again(one)
        server.put("/a.bin", contents(1) + b"more", SAME)
        with getm.open(url, concurrency=concurrency, block_size=BLOCK) as other:
            assert contents(1) + b"more" == other.read()
        assert contents(0) == read_again(one)


@EVERY
def test_another_block_size_has_blocks_of_its_own(server, concurrency):
    serve_by(server, by_nothing)
    one, other = {"block_size": BLOCK}, {"block_size": 2 * BLOCK}
    for was_read, is_read, log in Pairs(server, concurrency).run(lambda path: [server.url + path] * 2, one, other):
        assert asked_again(log)
        assert was_read == is_read


@EVERY
@pytest.mark.parametrize(
    ("options", "one", "other"),
    [
        pytest.param({}, "", "", id="the same URL"),
        pytest.param({"headers": {"X-Tenant": "a", "X-Other": "b"}}, "", "", id="the same headers"),
        pytest.param({"auth": ("user", "a")}, "", "", id="the same user"),
        pytest.param(
            {},
            "?X-Amz-Algorithm=A&X-Amz-Credential=a&X-Amz-Date=1&X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature=1",
            "?X-Amz-Algorithm=A&X-Amz-Credential=b&X-Amz-Date=2&X-Amz-Expires=8&X-Amz-SignedHeaders=host&X-Amz-Signature=2",
            id="another signature of AWS",
        ),
        pytest.param(
            {},
            "?versionId=1&X-Goog-Signature=a&X-Goog-Date=1",
            "?versionId=1&X-Goog-Signature=b&X-Goog-Date=2",
            id="of Google",
        ),
        pytest.param(
            {}, "?Expires=1&Signature=a&AWSAccessKeyId=b", "?Expires=2&Signature=b&AWSAccessKeyId=b", id="of S3, V2"
        ),
        pytest.param({}, "?sv=1&se=2&sr=b&sp=r&sig=ab", "?sv=1&se=3&sr=b&sp=r&sig=cd", id="of Azure"),
    ],
)
def test_whoever_asks_alike_finds_the_blocks(server, concurrency, options, one, other):
    serve_by(server, by_nothing)
    urls = lambda path: [server.url + path + one, server.url + path + other]  # noqa: E731  # a table's row
    for was_read, is_read, log in Pairs(server, concurrency).run(urls, options, options):
        assert [0] == [request.start for request in log]
        assert was_read == is_read


@EVERY
def test_whoever_is_redirected_to_one_place_finds_the_blocks(server, concurrency):
    for number in range(1, 9):
        server.put(f"/{number}.bin", contents(0), SAME)

    def redirect(request):
        return Fault(status=302, headers={"Location": f"{request.path[2:]}?X-Amz-Signature={request.index}"})

    server.fail(redirect, when=lambda request: request.path[1] in "xy", times=None)
    urls = lambda path: [f"{server.url}/x{path}", f"{server.url}/y{path}"]  # noqa: E731
    for was_read, is_read, log in Pairs(server, concurrency).run(urls, {}, {}):
        assert [0, 0] == [request.start for request in log]
        assert was_read == is_read == contents(0)


@EVERY
def test_whoever_is_redirected_to_two_places_by_one_does_not(server, concurrency):
    numbers = itertools.count()

    def redirect(request):
        number = next(numbers)
        target = f"/target{number}"
        server.put(target, contents(number), SAME)
        return Fault(status=302, headers={"Location": target})

    server.fail(redirect, when=lambda request: request.path.endswith(".bin"), times=None)
    for was_read, is_read, log in Pairs(server, concurrency).run(lambda path: [server.url + path] * 2, {}, {}):
        assert asked_again(log)
        assert was_read != is_read
        assert is_read == contents(int(log[-1].path.removeprefix("/target")))


@EVERY
@pytest.mark.parametrize("status", [401, 403, 404])
def test_whoever_is_refused_finds_nothing(server, concurrency, status):
    url = server.put("/a.bin", contents(0), SAME)
    options = {"concurrency": concurrency, "block_size": BLOCK, "headers": {"Authorization": "Bearer a"}}
    with getm.open(url, **options) as file:
        assert contents(0) == read_again(file)
        server.fail(Fault(status=status), times=None)
        for door in (getm.open, getm.urlopen, getm.read, getm.info):
            with pytest.raises(getm.GetmError, match=str(status)):
                door(url, **options)
        assert contents(0) == read_again(file)


@EVERY
def test_readers_side_by_side_get_their_own(server, concurrency):
    due = serve_by(server, HEADER)
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(
                getm.open(server.url + "/a", concurrency=concurrency, block_size=BLOCK, headers={"X-Tenant": tenant})
            )
            for tenant in "abcd"
        ]
        own = [due(request) for request in server.log]
        for start in range(0, SIZE, PART):
            for content, file in zip(own, files, strict=True):
                assert content[start : start + PART] == file.read(PART)


@EVERY
def test_another_client_certificate_has_blocks_of_its_own(server, certificates, concurrency):
    with FaultServer() as bobs:
        for number in range(1, 9):
            server.put(f"/{number}.bin", contents(0), SAME)
            bobs.put(f"/{number}.bin", contents(1), SAME)
        targets = {"alice": server.url, "bob": bobs.url}
        one, other = ({"verify": certificates.authority, "cert": each} for each in (certificates.alice, certificates.bob))
        with TlsFront(targets, certificates.server, certificates.authority) as front:
            for was_read, is_read, _ in Pairs(bobs, concurrency).run(lambda path: [front.url + path] * 2, one, other):
                assert (contents(0), contents(1)) == (was_read, is_read)


@EVERY
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_whoever_checks_the_server_gets_nothing_from_one_who_does_not(server, certificates, concurrency, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificates.authority)
    serve_by(server, by_nothing)
    with TlsFront(server.url, certificates.server) as front:
        pairs = Pairs(server, concurrency)
        for one, other in (({"verify": False}, {}), ({}, {"verify": False})):
            for was_read, is_read, log in pairs.run(lambda path: [front.url + path] * 2, one, other):
                assert asked_again(log)
                assert was_read == is_read
