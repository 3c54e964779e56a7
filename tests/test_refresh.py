"""A URL that is refused or expires in mid-read is replaced: by the one that redirected to it, or by a fresh one."""

import threading
import time
from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest
import requests

import getm
from getm import uri
from getm.engine import default
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault

BLOCK = MIB = 2**20
SIZE = 6 * BLOCK + 5

EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4], ids="concurrency-{}".format)


class Signer:
    """Gives URLs of one object, each with a number, and has the server refuse all but the last so many."""

    def __init__(self, server, url, refusal=None):
        self.url = url
        self.given = 0
        self.least = 0  # older ones are refused
        self._refusal = refusal or Fault(status=403)
        server.fail(self.answer, times=None)

    def __call__(self):
        """Return a URL."""
        self.given += 1
        return f"{self.url}?sig={self.given}"

    def expire(self):
        self.least = self.given + 1

    def answer(self, request):
        number = parse_qs(request.query).get("sig")
        return self._refusal if number is not None and int(number[0]) < self.least else None


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


@pytest.fixture
def sign(server, url):
    return Signer(server, url)


class TestRefusal:
    @EVERY
    @pytest.mark.parametrize("is_callable", [True, False])
    def test_in_the_middle_is_answered_by_one_fresh_url_for_all(self, server, sign, concurrency, is_callable):
        opened = getm.open(sign if is_callable else sign(), refresh=sign, concurrency=concurrency, retries=0)
        with opened as file:
            assert ramp(0, 3 * BLOCK) == file.read(3 * BLOCK)
            sign.expire()
            default(concurrency).clear()
            assert ramp(0, SIZE) == file.read_at(0, SIZE)
            assert 2 == sign.given
        log = server.wait_for(lambda log: all(request.finished for request in log))
        assert "sig=2" == log[-1].query
        asked_after = [request for request in log if request.status == 403]
        assert 1 <= len(asked_after) <= (concurrency or 1) + 1

    @EVERY
    def test_at_the_beginning_is_too(self, sign, concurrency):
        old = sign()
        sign.expire()
        with getm.open(old, refresh=sign, concurrency=concurrency) as file:
            assert ramp(0, SIZE) == file.read()
        assert 2 == sign.given
        assert ramp(5, 100) == getm.read(old, 5, 100, refresh=sign)
        assert SIZE == getm.info(old, refresh=sign).size

    @EVERY
    def test_in_a_stream(self, sign, concurrency):
        position = 0
        for part in getm.iter_content(sign, 100_000, concurrency=concurrency):
            assert_ramp(part, position)
            position += len(part)
            if position == 300_000:
                sign.expire()
        assert SIZE == position

    @EVERY
    def test_in_a_copy(self, server, sign, tmp_path, concurrency):
        def expire(request):
            if request.start and not sign.least:
                sign.expire()
                return Fault(cut=100_000)
            return None

        server.heal()
        server.fail(expire, times=None)
        server.fail(sign.answer, times=None)
        getm.copy(sign, tmp_path / "a.bin", concurrency=concurrency)
        assert ramp(0, SIZE) == (tmp_path / "a.bin").read_bytes()
        assert 2 == sign.given

    @EVERY
    def test_leaves_what_is_there_readable(self, server, sign, concurrency):
        with getm.open(sign(), concurrency=concurrency) as file:
            assert ramp(0, BLOCK) == file.read(BLOCK)
            sign.expire()
            assert ramp(0, BLOCK) == file.read_at(0, BLOCK)
        assert 1 == sign.given

    @EVERY
    @pytest.mark.parametrize("status", [401, 403])
    def test_without_a_fresh_url_is_an_error_and_not_remembered(self, server, url, concurrency, status):
        server.fail(Fault(status=status), when=lambda request: request.start, times=None)
        with getm.open(url, concurrency=concurrency) as file:
            for _ in range(2):
                with pytest.raises(getm.AccessDenied, match=str(status)):
                    file.read_at(2 * BLOCK, 10)
            server.heal()
            assert ramp(0, SIZE) == file.read()

    @EVERY
    def test_of_the_fresh_url_too_is_an_error(self, server, sign, concurrency):
        with getm.open(sign, concurrency=concurrency) as file:
            sign.least = 1000
            with pytest.raises(getm.AccessDenied, match="403"):
                file.read_at(2 * BLOCK, 10)
            assert sign.given <= 3
            sign.least = 0
            assert ramp(0, SIZE) == file.read()

    @EVERY
    def test_of_every_range_by_a_server_that_takes_the_first_byte_ends(self, server, sign, concurrency):
        with getm.open(sign, concurrency=concurrency, retries=3) as file:
            server.fail(
                Fault(status=403), when=lambda request: request.start and request.stop - request.start > 1, times=None
            )
            with pytest.raises(getm.AccessDenied):
                file.read_at(2 * BLOCK, 10)

    @pytest.mark.parametrize(
        ("body", "is_expired"), [(b"<Code>ExpiredToken</Code>", True), (b"token has expired", True), (b"no", False)]
    )
    def test_400_is_one_if_its_body_says_so(self, server, sign, body, is_expired):
        with getm.open(sign) as file:
            server.heal()
            server.fail(
                Fault(status=400, body=body), when=lambda request: request.start and "sig=1" in request.query, times=None
            )
            if is_expired:
                assert ramp(2 * BLOCK, SIZE) == file.read_at(2 * BLOCK, SIZE)
            else:
                with pytest.raises(getm.BadStatus, match="400"):
                    file.read_at(2 * BLOCK, SIZE)

    @EVERY
    def test_while_threads_wait_is_answered_once(self, server, sign, concurrency):
        with getm.open(sign, concurrency=concurrency) as file:
            sign.expire()
            results = []

            def read(number):
                results.append(ramp(number * BLOCK, number * BLOCK + 1000) == file.read_at(number * BLOCK, 1000))

            threads = [threading.Thread(target=read, args=(number,)) for number in range(1, 6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert [True] * 5 == results
            assert 2 == sign.given


class TestFreshUrl:
    @EVERY
    def test_of_another_version_is_refused(self, server, sign, concurrency):
        with getm.open(sign, concurrency=concurrency) as file:
            sign.expire()
            server.put("/a.bin", SIZE)
            with pytest.raises(getm.ObjectChanged):
                file.read_at(2 * BLOCK, 10)

    @EVERY
    def test_that_cannot_be_had_is_the_callers_error(self, server, sign, concurrency):
        def refresh():
            raise LookupError("no signer")

        with getm.open(sign(), refresh=refresh, concurrency=concurrency) as file:
            sign.expire()
            for _ in range(2):
                with pytest.raises(LookupError, match="no signer"):
                    file.read_at(2 * BLOCK, 10)
            sign.least = 0
            assert ramp(0, SIZE) == file.read()

    @pytest.mark.parametrize("fresh", ["ftp://host/SECRET", 5, "http://h/ \n"])
    def test_that_is_none_is_an_error(self, sign, fresh):
        with getm.open(sign(), refresh=lambda: fresh) as file:
            sign.expire()
            with pytest.raises(getm.UsageError):
                file.read_at(2 * BLOCK, 10)

    def test_must_be_returned_by_something_callable(self, url):
        with pytest.raises(getm.UsageError, match="refresh"):
            getm.open(url, refresh="http://host/a")

    @EVERY
    def test_is_asked_for_ahead_of_an_expiry_that_the_url_tells(self, server, url, concurrency):
        given = []

        def sign():
            life = 3600 if given else 2
            given.append(time.time())
            return f"{url}?Signature=abc&AWSAccessKeyId=me&Expires={int(time.time()) + life}&n={len(given)}"

        with getm.open(sign, concurrency=concurrency) as file:
            assert ramp(0, 100) == file.read(100)
            while time.time() < file._feed.source.due:
                time.sleep(0.05)
            assert ramp(BLOCK, SIZE) == file.read_at(BLOCK, SIZE)
            assert ramp(0, SIZE) == file.read_at(0, SIZE)
        assert 2 == len(given)
        log = server.wait_for(lambda log: all(request.finished for request in log))
        assert {200, 206} >= {request.status for request in log}
        assert "n=2" in log[-1].query

    def test_of_a_clock_that_is_wrong_is_not_asked_for_again_and_again(self, url):
        given = []

        def sign():
            given.append(url)
            return f"{url}?Signature=abc&AWSAccessKeyId=me&Expires=1000000000"

        with getm.open(sign) as file:
            assert ramp(0, SIZE) == file.read()
        assert 1 == len(given)

    def test_is_what_the_error_of_an_expired_one_asks_for(self, server, url):
        server.fail(Fault(status=403), times=None)
        with pytest.raises(getm.AccessDenied, match="the URL expired at 2001-09-09 01:46:40 UTC"):
            getm.open(f"{url}?Signature=abc&AWSAccessKeyId=me&Expires=1000000000")


class TestRedirect:
    @EVERY
    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    def test_is_followed_anew_when_its_target_refuses(self, server, url, concurrency, status):
        sign = Signer(server, url, Fault(status=status))
        server.fail(
            lambda _: Fault(status=302, headers={"Location": sign()}),
            when=lambda request: request.path == "/old",
            times=None,
        )
        with getm.open(server.url + "/old", concurrency=concurrency) as file:
            assert ramp(0, 2 * BLOCK) == file.read(2 * BLOCK)
            sign.expire()
            default(concurrency).clear()
            assert ramp(0, SIZE) == file.read_at(0, SIZE)
        assert 2 == sign.given

    def test_goes_to_the_fresh_url_when_the_first_refuses_too(self, server, url):
        sign = Signer(server, server.url + "/old")
        server.heal()
        server.fail(sign.answer, when=lambda r: r.path == "/old", times=None)
        server.fail(Fault(status=302, headers={"Location": "/a.bin?x=1"}), when=lambda r: r.path == "/old", times=None)
        with getm.open(sign) as file:
            sign.expire()
            server.fail(Fault(status=403), when=lambda r: r.path == "/a.bin", times=1)
            assert ramp(2 * BLOCK, SIZE) == file.read_at(2 * BLOCK, SIZE)
        assert 2 == sign.given


class TestExpiry:
    NOW = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()

    @pytest.mark.parametrize(
        ("query", "seconds"),
        [
            ("X-Amz-Signature=a&X-Amz-Date=20261121T120000Z&X-Amz-Expires=900", 900),
            ("x-amz-signature=a&x-amz-date=20261121T120000Z&x-amz-expires=1", 1),
            ("X-Goog-Signature=a&X-Goog-Date=20261121T120000Z&X-Goog-Expires=3600", 3600),
            ("Signature=a&AWSAccessKeyId=b&Expires=1795262410", 10),
            ("sig=a&sv=1&se=2026-11-21T12%3A00%3A30Z", 30),
            ("sig=a&sv=1&se=2026-11-21T13:00:00%2B01:00", 0),
            ("sig=a&se=2026-11-22", 12 * 3600),
        ],
    )
    def test_is_what_the_signature_tells(self, query, seconds):
        assert seconds == uri.expiry(f"https://host/a?x=1&{query}#fragment") - self.NOW

    @pytest.mark.parametrize(
        "query",
        [
            "",
            "Expires=5",
            "Signature=a&Expires=soon",
            "X-Amz-Signature=a",
            "X-Amz-Signature=a&X-Amz-Date=1&X-Amz-Expires=5",
            "X-Amz-Signature=a&X-Amz-Date=20261121T120000Z&X-Amz-Expires=" + "9" * 400,
            "sig=a&se=never",
        ],
    )
    def test_is_unknown_where_it_does_not(self, query):
        assert uri.expiry(f"https://host/a?{query}") is None


class TestAnswersThatTheCallerSees:
    """Hooks, adapters and digest authentication see answers, which only the calling process has."""

    def read(self, url, **options):
        with pytest.warns(UserWarning, match="in this process") as warned:
            file = getm.open(url, concurrency=4, **options)
        assert 1 == len(warned)
        assert __file__ == warned[0].filename
        with file:
            assert ramp(0, SIZE) == file.read()

    def test_of_digest_authentication(self, server, url):
        def answer(request):
            if (request.headers["Authorization"] or "").startswith("Digest "):
                return None
            challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
            return Fault(status=401, headers={"WWW-Authenticate": challenge})

        server.fail(answer, times=None)
        self.read(url, auth=requests.auth.HTTPDigestAuth("user", "word"))
        assert 1 == sum(request.status == 401 for request in server.log)

    def test_of_hooks(self, url):
        seen = []
        with requests.Session() as session:
            session.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
            self.read(url, session=session)
        assert {206} == set(seen)

    def test_what_a_hook_raises_is_the_caller_s(self, url):
        def refuse(*_arguments, **_options):
            raise ValueError("not this one")

        with requests.Session() as session:
            session.hooks["response"].append(refuse)
            with pytest.warns(UserWarning, match="wants to see answers"), pytest.raises(ValueError, match="not this one"):
                getm.open(url, session=session).read()

    def test_of_adapters(self, server, url):
        class Adapter(requests.adapters.HTTPAdapter):
            def send(self, request, **options):
                request.headers["X-Adapter"] = "1"
                return super().send(request, **options)

        with requests.Session() as session:
            session.mount("http://", Adapter())
            self.read(url, session=session)
        assert {"1"} == {request.headers["X-Adapter"] for request in server.log}

    def test_of_a_plain_session_are_nobodys(self, url):
        with requests.Session() as session, getm.open(url, session=session, concurrency=4) as file:
            assert ramp(0, SIZE) == file.read()
