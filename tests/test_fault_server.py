"""The fault server answers right when it is told nothing, and wrong exactly as it is told."""

import http.client
import socket
import threading
import time

import pytest
import requests

from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault

SIZE = 300_000


@pytest.fixture
def session():
    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"
        yield session


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


def ranged(text):
    return {"Range": f"bytes={text}"}


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [("0-0", 0, 1), ("7-99999", 7, 100_000), ("299999-", 299_999, SIZE), ("-5", 299_995, SIZE), ("5-999999", 5, SIZE)],
)
def test_range_is_served_and_named(session, url, text, start, stop):
    answer = session.get(url, headers=ranged(text))
    assert 206 == answer.status_code
    assert f"bytes {start}-{stop - 1}/{SIZE}" == answer.headers["Content-Range"]
    assert str(stop - start) == answer.headers["Content-Length"]
    assert ramp(start, stop) == answer.content


def test_whole_object_comes_without_a_range(session, url):
    answer = session.get(url)
    assert 200 == answer.status_code
    assert "Content-Range" not in answer.headers
    assert_ramp(answer.content, 0)
    assert SIZE == len(answer.content)


def test_head_has_the_headers_and_no_body(session, url):
    answer = session.head(url)
    assert (200, b"") == (answer.status_code, answer.content)
    assert str(SIZE) == answer.headers["Content-Length"]


@pytest.mark.parametrize(("size", "text"), [(0, "0-99"), (10, "10-"), (10, "-0")])
def test_range_beyond_the_object_is_refused(session, server, size, text):
    answer = session.get(server.put("/small", size), headers=ranged(text))
    assert (416, f"bytes */{size}") == (answer.status_code, answer.headers["Content-Range"])


def test_unknown_path_is_not_found(session, server):
    assert 404 == session.get(server.url + "/none").status_code


def test_virtual_object_may_be_larger_than_any_disk(session, server):
    answer = session.get(server.put("/large", 2**50), headers=ranged("-100"))
    assert_ramp(answer.content, 2**50 - 100)


def test_every_request_is_recorded(session, server, url):
    session.get(url + "?key=1", headers=ranged("10-19"))
    session.get(url)
    log = server.wait_for(lambda log: len(log) == 2 and log[1].finished)
    assert [(0, 0, "GET", "/a.bin", "key=1"), (1, 0, "GET", "/a.bin", "")] == [
        (request.index, request.connection, request.method, request.path, request.query) for request in log
    ]
    assert [(10, 20, 206, 10), (None, None, 200, SIZE)] == [
        (request.start, request.stop, request.status, request.sent) for request in log
    ]
    assert "bytes=10-19" == log[0].headers["range"]
    assert log[0].arrived <= log[0].finished <= log[1].arrived
    assert 1 == server.connections


def test_answer_is_finished_when_the_client_has_it(session, server, url):
    for index in range(100):
        session.get(url, headers=ranged("0-0"))
        received = time.monotonic()
        assert server.wait_for(lambda log, index=index: log[index].finished)[index].finished <= received


def test_object_put_again_is_another_version(session, server, url):
    first = session.get(url)
    server.put("/a.bin", SIZE)
    second = session.get(url)
    assert_ramp(second.content, 0, seed=1)
    assert first.content != second.content
    assert first.headers["ETag"] != second.headers["ETag"]
    assert first.headers["Last-Modified"] != second.headers["Last-Modified"]


def test_object_has_the_headers_it_was_put_with(session, server):
    url = server.put("/bare", b"abc", headers={"ETag": None, "Last-Modified": None, "x-goog-hash": "crc32c=AAAA"})
    answer = session.get(url)
    assert b"abc" == answer.content
    assert "crc32c=AAAA" == answer.headers["x-goog-hash"]
    assert "ETag" not in answer.headers
    assert "Last-Modified" not in answer.headers


def test_rules_apply_in_order_and_as_often_as_they_say(session, server, url):
    server.fail(Fault(status=503, headers={"Retry-After": "1"}, body=b"busy"), times=2)
    server.fail(Fault(status=500), when=lambda request: request.method == "HEAD", times=None)
    answers = [session.get(url), session.head(url), session.head(url), session.get(url)]
    assert [503, 503, 500, 200] == [answer.status_code for answer in answers]
    assert (b"busy", "1") == (answers[0].content, answers[0].headers["Retry-After"])
    server.heal()
    assert 200 == session.head(url).status_code


def test_rule_may_decide_by_the_request_and_replace_the_object(session, server, url):
    def replace_once(request):
        if request.covers(200_000):
            server.put("/a.bin", SIZE)
            return Fault()
        return None

    server.fail(replace_once)
    assert_ramp(session.get(url, headers=ranged("0-99")).content, 0)
    assert_ramp(session.get(url, headers=ranged("200000-200099")).content, 200_000, seed=1)
    assert_ramp(session.get(url, headers=ranged("200000-200099")).content, 200_000, seed=1)


@pytest.mark.parametrize(
    ("fault", "status", "content_range", "start", "length"),
    [
        (Fault(whole=True), 200, None, 0, SIZE),
        (Fault(status=200), 200, "bytes 100-199/300000", 100, 100),
        (Fault(shorten=7), 206, "bytes 100-106/300000", 100, 7),
        (Fault(shift=50), 206, "bytes 150-249/300000", 150, 100),
        (Fault(shift=-50), 206, "bytes 50-149/300000", 50, 100),
        (Fault(total=5), 206, "bytes 100-199/5", 100, 100),
        (Fault(total="*"), 206, "bytes 100-199/*", 100, 100),
        (Fault(headers={"Content-Range": "nonsense"}), 206, "nonsense", 100, 100),
        (Fault(headers={"ETag": '"other"', "Content-Encoding": "gzip"}), 206, "bytes 100-199/300000", 100, 100),
    ],
)
def test_answer_is_wrong_as_told(session, server, url, fault, status, content_range, start, length):
    server.fail(fault)
    with session.get(url, headers=ranged("100-199"), stream=True) as answer:
        assert status == answer.status_code
        assert content_range == answer.headers.get("Content-Range")
        assert fault.headers.get("Content-Encoding") == answer.headers.get("Content-Encoding")
        assert fault.headers.get("ETag", '"version-0"') == answer.headers["ETag"]
        assert ramp(start, start + length) == answer.raw.read(decode_content=False)


@pytest.mark.parametrize("framing", ["chunks", "connection"])
def test_body_may_come_without_its_length(session, server, url, framing):
    server.fail(Fault(whole=True, framing=framing))
    answer = session.get(url)
    assert "Content-Length" not in answer.headers
    assert_ramp(answer.content, 0)
    assert SIZE == len(answer.content)


def test_redirect_is_a_status_with_a_header(session, server, url):
    server.fail(Fault(status=302, headers={"Location": url}), when=lambda request: request.path == "/old")
    assert_ramp(session.get(server.url + "/old").content, 0)
    assert [302, 200] == [request.status for request in server.log]


@pytest.mark.parametrize("after", [0, 1, 70_000, SIZE - 1])
@pytest.mark.parametrize(
    ("kind", "error"), [("cut", http.client.IncompleteRead), ("reset", ConnectionResetError)], ids=["cut", "reset"]
)
def test_connection_ends_after_exactly_so_many_bytes(server, url, after, kind, error):
    server.fail(Fault(**{kind: after}))
    connection = http.client.HTTPConnection(url.split("/")[2])
    connection.request("GET", "/a.bin")
    with connection.getresponse() as answer:
        assert ramp(0, after) == answer.read(after)
        with pytest.raises(error):
            answer.read()
    connection.close()
    assert [after] == [request.sent for request in server.log]


def test_connection_is_dropped_before_an_answer(session, server, url):
    server.fail(Fault(drop=True))
    with pytest.raises(requests.ConnectionError):
        session.get(url)
    assert [None] == [request.status for request in server.wait_for(lambda log: log[0].finished)]


def test_connection_hangs_up_after_a_whole_answer(session, server, url):
    server.fail(Fault(hang_up=True))
    answer = session.get(url, stream=True)
    connection = answer.raw.connection.sock
    assert "Connection" not in answer.headers
    assert SIZE == len(answer.content)
    assert connection.recv(1, socket.MSG_PEEK) == b""  # waits for that: the session would send another request before
    session.get(url)
    assert [0, 1] == [request.connection for request in server.log]


def test_stall_lasts_until_released(session, server, url):
    release = threading.Event()
    server.fail(Fault(stall=70_000, release=release))
    with session.get(url, stream=True) as answer:
        assert_ramp(answer.raw.read(70_000), 0)
        assert server.log[0].finished is None
        release.set()
        assert_ramp(answer.raw.read(), 70_000)


def test_delay_lasts_until_its_event(server, url):
    answer_now = threading.Event()
    server.fail(Fault(delay=answer_now))
    connection = http.client.HTTPConnection(url.split("/")[2])
    connection.request("GET", "/a.bin")
    assert [None] == [request.status for request in server.wait_for(lambda log: len(log) == 1)]
    answer_now.set()
    assert SIZE == len(connection.getresponse().read())
    connection.close()


def test_delay_and_pace_take_their_time(session, server, url):
    server.fail(Fault(delay=0.05, pace=1e6))
    session.get(url, headers=ranged("0-99999"))
    request = server.wait_for(lambda log: log[0].finished)[0]
    assert request.finished - request.arrived >= 0.15


@pytest.mark.parametrize("fault", [Fault(stall=70_000), Fault(delay=60), Fault(pace=1000)], ids=["stall", "delay", "pace"])
def test_client_that_leaves_is_noticed(session, server, url, fault):
    server.fail(fault)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(b"GET /a.bin HTTP/1.1\r\n\r\n")
        server.wait_for(lambda log: len(log) == 1)
    request = server.wait_for(lambda log: log[0].finished)[0]
    assert request.gone
    assert request.sent < SIZE


def test_client_that_leaves_a_body_is_noticed(session, server):
    url = server.put("/large", 2**40)
    with session.get(url, stream=True) as answer:
        answer.raw.read(1)
    session.close()
    assert server.wait_for(lambda log: log[0].finished)[0].gone


@pytest.mark.parametrize("fault", [Fault(), Fault(stall=0), Fault(delay=60), Fault(pace=1000)], ids=str)
def test_closing_ends_what_is_under_way(server, url, fault):
    server.put("/large", 2**40)
    server.fail(fault)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        server.wait_for(lambda log: len(log) == 1)
        begun = time.monotonic()
        server.close()
        assert time.monotonic() - begun < 1
    assert not server.log[0].gone


def test_connections_are_served_at_the_same_time(server, url):
    server.fail(Fault(stall=0))
    with requests.Session() as stalled, requests.Session() as healthy:
        answer = stalled.get(url, stream=True)
        assert SIZE == len(healthy.get(url).content)
        answer.close()
    assert 2 == server.connections


def test_wait_that_is_in_vain_shows_the_log(session, server, url):
    session.get(url)
    with pytest.raises(AssertionError, match=r"path='/a\.bin'"):
        server.wait_for(lambda log: len(log) == 2, timeout=0)
