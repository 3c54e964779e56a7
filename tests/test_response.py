"""Heads of answers: understood as `http.client` understands those that are right, whole or not at all."""

import http.client
import socket
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

import getm
from getm.sources import response
from getm.sources.connection import Connection
from getm.sources.response import HEAD_MOST, Response
from getm.uri import Origin
from tests.content import ramp
from tests.servers.sockets import RawServer

SIZE = 100
RIGHT = ramp(0, SIZE)
PART = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-{SIZE - 1}/{SIZE}\r\n"
TOKEN = st.text("abcdefXYZ0-_!", min_size=1, max_size=9)
VALUE = st.text([chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0x100))], max_size=9)
FIELD = st.tuples(TOKEN, VALUE) | st.sampled_from(
    [
        ("Content-Length", "5"),
        ("content-length", "0"),
        ("Content-Length", "-5"),
        ("Transfer-Encoding", "chunked"),
        ("Transfer-Encoding", "gzip"),
        ("Connection", "close"),
        ("connection", "Keep-Alive"),
        ("Keep-Alive", "timeout=5"),
        ("ETag", '"a: b"'),
    ]
)


def answered(data, kind=Response):
    """Return the answer of a server that says this and closes the connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.close()
        answer = kind(ours, method="GET")
        with closing(answer):
            answer.begin()
    return answer


def written(version, status, fields, end="\r\n"):
    lines = [f"HTTP/{version} {status} Said", *(f"{name}: {value}" for name, value in fields), "", ""]
    return end.join(lines).encode("latin-1")


@given(
    st.sampled_from(["1.0", "1.1", "1.7", "0.9"]),
    st.sampled_from([200, 204, 206, 302, 304, 416, 503, 999]),
    st.lists(FIELD, unique_by=lambda field: field[0].lower()),
    st.sampled_from(["\r\n", "\n"]),
    st.sampled_from([1, 7, 64, 4096]),
)
def test_right_ones_are_understood_as_http_client_does(version, status, fields, end, buffer):
    data = written(version, status, fields, end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(response, "BUFFER", buffer)
        ours = answered(data)
    theirs = answered(data, http.client.HTTPResponse)
    for name in ("version", "status", "reason", "will_close", "chunked", "length"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert theirs.headers.items() == ours.fields
    assert {name.lower(): value for name, value in theirs.headers.items()} == ours.values


@pytest.mark.parametrize("buffer", [3, 4096])
@pytest.mark.parametrize(
    ("lines", "values"),
    [
        (["A: b", "a: c"], {"a": "b, c"}),
        (["A: b", "a: b"], {"a": "b"}),
        (["A: b", " c", "\td", "E: f"], {"a": "b c d", "e": "f"}),
        ([" A: b", "C: d"], {"a": "b", "c": "d"}),
        (["A:", " b"], {"a": "b"}),
        (["no header at all", "A: b"], {"a": "b"}),
        (["A : b", "C:d", "E:\t f \t"], {"a": "b", "c": "d", "e": "f"}),
        (["A: b\rC: d"], {"a": "b C: d"}),
        (["Location: /\u00c3\u00a0", "A: \u00a0b\u0085"], {"location": "/\u00c3\u00a0", "a": "\u00a0b\u0085"}),
        ([f"X{number}: y" for number in range(300)], {f"x{number}": "y" for number in range(300)}),
    ],
    ids=str,
)
def test_odd_ones_lose_nothing_that_is_clear(monkeypatch, buffer, lines, values):
    monkeypatch.setattr(response, "BUFFER", buffer)
    assert values == answered("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1")).values


@pytest.mark.parametrize(
    "data",
    [
        *(b"\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/2 200\r\n\r\n"),
        *(b"ICY 200 OK\r\n\r\n", b"\r\nHTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 000 X\r\n\r\n", b"HTTP/1.1 2\xb20 X\r\n\r\n"),
    ],
)
def test_of_something_else_are_none(data):
    with pytest.raises(http.client.HTTPException) as caught:
        answered(data)
    assert not isinstance(caught.value, http.client.RemoteDisconnected)


@pytest.mark.parametrize("buffer", [5, 4096])
def test_that_are_cut_off_are_none(monkeypatch, buffer):
    monkeypatch.setattr(response, "BUFFER", buffer)
    data = written("1.1", 200, [("Content-Length", "5"), ("ETag", '"abc"')])
    for stop in range(len(data)):
        with pytest.raises(http.client.RemoteDisconnected):
            answered(data[:stop])


@pytest.mark.parametrize("size", [HEAD_MOST - 1, HEAD_MOST + 1])
def test_are_bounded(size):
    data = written("1.1", 200, [("X", "y" * 1000)] * (size // 1005 + 1))[: size - 4] + b"\r\n\r\n"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        for each in (ours, theirs):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * HEAD_MOST)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * HEAD_MOST)
        theirs.sendall(data)
        answer = Response(ours, method="GET")
        if size < HEAD_MOST:
            answer.begin()
            assert 200 == answer.status
        else:
            with pytest.raises(http.client.HTTPException):
                answer.begin()


@pytest.mark.parametrize("concurrency", [None, 4])
@pytest.mark.parametrize(
    ("lines", "is_right"), [(["5"], False), ([f"{SIZE}"] * 2, True), ([f"{SIZE}", "5"], False), (["5", f"{SIZE}"], False)]
)
def test_that_tell_two_lengths_are_errors(concurrency, lines, is_right):
    head = PART + "".join(f"Content-Length: {line}\r\n" for line in lines) + "\r\n"
    with RawServer(lambda _: [head.encode() + RIGHT]) as server:
        if is_right:
            assert RIGHT == getm.read(server.url + "/a", concurrency=concurrency, retries=0)
        else:
            with pytest.raises(getm.SourceError):
                getm.read(server.url + "/a", concurrency=concurrency, retries=0)


def test_a_promise_in_lines_of_its_own_is_as_good_as_a_list():
    head = PART + "x-goog-hash: crc32c=AAAAAA==\r\nx-goog-hash: md5=AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    with (
        RawServer(lambda _: [head.encode() + RIGHT]) as server,
        getm.open(server.url + "/a", checksum="auto") as file,
        pytest.raises(getm.IntegrityError, match="crc32c"),
    ):
        file.read()


@pytest.mark.parametrize("host", ["host", "::1"])
@pytest.mark.parametrize(
    ("target", "headers"),
    [
        *(("/a b", {}), ("/a\r\nX: y", {}), ("/\x7f", {}), ("/\u00e9", {}), ("/", {"A": "b\r\nX: y"})),
        *(("/", {"A\n": "b"}), ("/", {"A": "b\r"}), ("/", {"A": b"b\r\nX: y"}), ("/", {"A": "\u65e5"})),
    ],
)
def test_requests_that_hold_what_ends_a_line_are_not_sent(host, target, headers):
    ours, theirs = socket.socketpair()
    connection = Connection(Origin("http", host, 80), 1.0, None)
    connection._socket = ours
    with theirs, closing(connection), pytest.raises((http.client.InvalidURL, UnicodeError)):
        connection.exchange(target, headers, 1.0, 1.0)


@pytest.mark.parametrize(
    ("origin", "headers", "host"),
    [
        (Origin("http", "host", 80), {}, b"Host: host\r\n"),
        (Origin("https", "host", 80), {}, b"Host: host:80\r\n"),
        (Origin("https", "::1", 443), {}, b"Host: [::1]\r\n"),
        (Origin("http", "::1", 8080), {}, b"Host: [::1]:8080\r\n"),
        (Origin("http", "host", 80), {"hOST": "other"}, b"hOST: other\r\n"),
    ],
)
def test_requests_name_their_host_once(origin, headers, host):
    ours, theirs = socket.socketpair()
    connection = Connection(origin, 1.0, None)
    connection._socket = ours
    with theirs, closing(connection):
        theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.exchange("/a?b", {"Range": "bytes=0-9", **headers}, 1.0, 1.0).close()
        head = theirs.recv(4096)
    assert head.startswith(b"GET /a?b HTTP/1.1\r\n")
    assert host in head
    assert 1 == head.lower().count(b"\r\nhost:")
    assert head.endswith(b"\r\n\r\n")
