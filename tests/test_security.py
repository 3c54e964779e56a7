"""Credentials go to whom they are for; a hostile server gets no more than its turn; and no text tells a secret."""

import contextlib
import gzip
import importlib.util
import itertools
import logging
import os
import random
import re
import resource
import shutil
import ssl
import subprocess
import sys
import textwrap
import time
import traceback
from pathlib import Path

import pytest
import requests

import getm
import getm.retry
from getm.config import Settings
from getm.engine import default, planner
from getm.engine.messages import Fetch
from getm.sources import open_source
from getm.sources.transport import close_connections
from tests.content import assert_ramp, ramp
from tests.servers.fault import Fault, FaultServer
from tests.servers.sockets import RawServer, TlsFront, TunnelProxy, asked, partial

BLOCK = MIB = 2**20
SIZE = 2 * BLOCK + 5
SECRET = "hunter2"
BASIC = "Basic dXNlcjpodW50ZXIy"  # user:hunter2

EVERY = pytest.mark.parametrize("concurrency", [None, 1, 4], ids="concurrency-{}".format)
UNCHECKED = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """Start from an environment that says nothing of proxies, certificates and users; and pause for next to nothing."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no.netrc"))
    monkeypatch.setattr(getm.retry, "BACKOFF_FIRST", 0.001)


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


@pytest.fixture
def other():
    """Serve the same object on another port."""
    with FaultServer() as server:
        server.put("/a.bin", SIZE)
        yield server


@pytest.fixture
def secure(server, url, certificates):
    """Serve the same object by TLS, too."""
    with TlsFront(server.url, certificates.server) as front:
        yield front.url + "/a.bin"


@pytest.fixture
def bundle(certificates, tmp_path):
    """Copy the file of authorities."""
    return Path(shutil.copy(certificates.authority, tmp_path / "bundle.pem"))


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    """Have a user of this machine in a file that NETRC names."""
    (tmp_path / "netrc").write_text(
        f"machine 127.0.0.1 login user password {SECRET}\nmachine localhost login x password y\n"
    )
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def assert_reads(url, **options):
    with getm.open(url, **options) as file:
        assert ramp(0, SIZE) == file.read()


def redirect(location):
    return Fault(status=302, headers={"Location": location})


def texts(error):
    """Return all that an error may show."""
    return "\n".join([str(error), repr(error), repr(error.__dict__), repr(error.args), *traceback.format_exception(error)])


def failure(call, *arguments, **options):
    """Return the kind of error that a call ends in, and all that it may show; None if it succeeds.

    Not the error itself: with its traceback it would keep what an error that should not be has left open.
    """
    try:
        call(*arguments, **options)
    except Exception as error:  # noqa: BLE001  # what it is, is to be seen
        return type(error), texts(error)
    return None


class TestRedirectedCredentials:
    """What is for one origin is not told to another."""

    CREDENTIALS = (
        {"headers": {"Authorization": SECRET, "Cookie": f"a={SECRET}", "X-Api-Key": SECRET, "Private-Token": SECRET}},
        {"headers": {"Proxy-Authorization": SECRET, "X-Goog-Signature": SECRET, "x-auth": SECRET, "CLIENT-SECRET": SECRET}},
        {"auth": ("user", SECRET)},
    )

    def read(self, url, concurrency, **options):
        for credentials in self.CREDENTIALS:
            default(concurrency).clear()
            assert_reads(url, concurrency=concurrency, **credentials, **options)
        default(concurrency).clear()
        with requests.Session() as session:
            session.auth = ("user", SECRET)
            session.headers["X-Api-Key"] = SECRET
            session.cookies.set("a", SECRET)
            assert_reads(url, concurrency=concurrency, session=session, **options)
        default(concurrency).clear()
        assert_reads(url.replace("://", f"://user:{SECRET}@"), concurrency=concurrency, **options)

    def check(self, log, first):
        """Check that secrets came to the first place and to nowhere else."""
        for request in log:
            shown = f"{request.headers} {request.query}"
            assert (request.path == first) == (SECRET in shown or BASIC in shown)
        assert {first, "/a.bin"} == {request.path for request in log}

    @EVERY
    def test_stay_behind_with_another_host(self, server, url, concurrency):
        server.fail(redirect(url.replace("127.0.0.1", "localhost")), when=lambda r: r.path == "/old", times=None)
        self.read(server.url + "/old", concurrency)
        self.check(server.log, "/old")

    @EVERY
    def test_stay_behind_with_another_scheme(self, server, url, secure, certificates, concurrency):
        server.fail(redirect(url), when=lambda r: r.path == "/old", times=None)
        self.read(secure.replace("a.bin", "old"), concurrency, verify=certificates.authority)
        self.check(server.log, "/old")

    @EVERY
    def test_stay_behind_with_a_safer_scheme_on_another_port(self, server, secure, certificates, concurrency):
        server.fail(redirect(secure), when=lambda r: r.path == "/old", times=None)
        self.read(server.url + "/old", concurrency, verify=certificates.authority)
        self.check(server.log, "/old")

    def test_stay_behind_on_the_way_back(self, server, url, other):
        server.fail(redirect(other.url + "/back"), when=lambda r: r.path == "/old", times=None)
        other.fail(redirect(url), when=lambda r: r.path == "/back", times=None)
        self.read(server.url + "/old", None)
        self.check(server.log, "/old")
        assert SECRET not in str([str(request.headers) for request in other.log])

    @EVERY
    def test_of_netrc_stay_behind(self, server, other, netrc, concurrency):
        server.fail(redirect(other.url + "/a.bin"), times=None)
        with requests.Session() as session:
            assert_reads(server.url + "/old", concurrency=concurrency, session=session)
        assert [BASIC] == [request.headers["Authorization"] for request in server.log]
        assert {None} == {request.headers["Authorization"] for request in other.log}

    @EVERY
    def test_stay_behind_with_a_host_that_parsers_understand_differently(self, server, url, other, concurrency):
        here, there = (each.url.removeprefix("http://") for each in (server, other))
        server.fail(redirect(f"http://{there}\\@{here}/a.bin"), when=lambda r: r.path == "/old", times=None)
        other.put(f"/%5C@{here}/a.bin", SIZE)
        for credentials in self.CREDENTIALS:
            default(concurrency).clear()
            with contextlib.suppress(getm.GetmError):
                assert_reads(server.url + "/old", concurrency=concurrency, retries=0, **credentials)
        assert SECRET not in str([str(request.headers) for request in other.log])
        assert BASIC not in str([str(request.headers) for request in other.log])

    @pytest.mark.parametrize("name", ["X-Password", "X-Session-Id", "X-JWT", "X-Passphrase"])
    def test_of_any_name_stay_behind(self, server, other, name):
        server.fail(redirect(other.url + "/a.bin"), times=None)
        assert_reads(server.url + "/old", concurrency=None, headers={name: SECRET})
        assert {None} == {request.headers[name] for request in other.log}

    @EVERY
    @pytest.mark.parametrize(
        "is_absolute",
        [
            False,
            True,
        ],
    )
    def test_in_the_url_stay_with_its_origin(self, server, url, concurrency, is_absolute):
        server.fail(redirect(url if is_absolute else "/a.bin"), when=lambda r: r.path == "/old", times=None)
        assert_reads(server.url.replace("://", f"://user:{SECRET}@") + "/old", concurrency=concurrency)
        assert {BASIC} == {request.headers["Authorization"] for request in server.log}


class TestNetrc:
    """It is read for a session that trusts the environment, as `requests` does, and otherwise never."""

    @EVERY
    def test_is_used_by_whom_it_is_for(self, server, url, netrc, concurrency):
        for session, said in (
            (None, None),
            ({}, BASIC),
            ({"trust_env": False}, None),
            ({"auth": ("a", "b")}, "Basic YTpi"),
        ):
            default(concurrency).clear()
            before = len(server.log)
            with requests.Session() as made:
                vars(made).update(session or {})
                assert_reads(url, concurrency=concurrency, session=None if session is None else made)
            assert {said} == {request.headers["Authorization"] for request in server.log[before:]}

    def test_gives_way_to_auth(self, server, url, netrc):
        with requests.Session() as session:
            assert_reads(url, concurrency=None, session=session, auth=("a", "b"))
        assert {"Basic YTpi"} == {request.headers["Authorization"] for request in server.log}


class TestProxies:
    """The server serves as a proxy, too: it takes whole URLs, and answers for any host."""

    ELSEWHERE = "http://elsewhere.invalid/a.bin"

    @pytest.fixture
    def proxy(self, server, url):
        return server.url.replace("://", f"://user:{SECRET}@")

    def assert_by_proxy(self, log, authorization=BASIC):
        assert len(log) >= 2
        assert {"elsewhere.invalid"} == {request.headers["Host"] for request in log}
        assert {authorization} == {request.headers["Proxy-Authorization"] for request in log}

    @EVERY
    def test_of_the_environment_are_used(self, server, proxy, monkeypatch, concurrency):
        for variable in ("http_proxy", "all_proxy", "ALL_PROXY"):
            default(concurrency).clear()
            with monkeypatch.context() as patch:
                patch.setenv(variable, proxy)
                assert_reads(self.ELSEWHERE, concurrency=concurrency)
        self.assert_by_proxy(server.log)

    @EVERY
    def test_of_the_environment_are_read_once_by_the_caller(self, server, proxy, monkeypatch, concurrency):
        monkeypatch.setenv("http_proxy", proxy)
        with getm.open(self.ELSEWHERE, concurrency=concurrency) as file:
            monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
            monkeypatch.setenv("no_proxy", "*")
            assert ramp(0, SIZE) == file.read()
        self.assert_by_proxy(server.log)

    @EVERY
    def test_that_are_given_are_used(self, server, proxy, monkeypatch, concurrency):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert_reads(self.ELSEWHERE, concurrency=concurrency, proxies={"http": proxy})
        default(concurrency).clear()
        assert_reads(self.ELSEWHERE, concurrency=concurrency, proxies={"http://elsewhere.invalid": proxy})
        self.assert_by_proxy(server.log)

    @EVERY
    def test_of_a_session_are_used(self, server, proxy, concurrency):
        with requests.Session() as session:
            session.proxies["http"] = proxy
            assert_reads(self.ELSEWHERE, concurrency=concurrency, session=session)
        self.assert_by_proxy(server.log)

    @EVERY
    def test_are_not_used_where_the_environment_says_so(self, server, url, monkeypatch, concurrency):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1,other.invalid")
        assert_reads(url, concurrency=concurrency)
        monkeypatch.setenv("no_proxy", "other.invalid")
        with pytest.raises(getm.SourceError, match="no connection"):
            getm.open(url, concurrency=concurrency, retries=0)
        for options in ({"proxies": {}}, {"session": requests.Session()}):
            if "session" in options:
                options["session"].trust_env = False
            default(concurrency).clear()
            assert_reads(url, concurrency=concurrency, **options)
        assert {None} == {request.headers["Proxy-Authorization"] for request in server.log}

    def test_are_chosen_anew_for_another_origin(self, server, proxy, other, monkeypatch):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        server.fail(redirect(other.url + "/a.bin"), times=None)
        assert_reads(self.ELSEWHERE, concurrency=None)
        assert ["elsewhere.invalid"] == [request.headers["Host"] for request in server.log]
        assert {None} == {request.headers["Proxy-Authorization"] for request in other.log}

    def test_credentials_of_one_are_not_told_to_another(self, server, proxy, other):
        assert_reads(self.ELSEWHERE, concurrency=None, proxies={"http": proxy})
        assert_reads(self.ELSEWHERE, concurrency=None, proxies={"http": other.url})
        self.assert_by_proxy(server.log)
        self.assert_by_proxy(other.log, None)

    @EVERY
    def test_tunnel_what_is_secret(self, server, secure, certificates, monkeypatch, concurrency):
        tls = secure.removesuffix("/a.bin")
        with TunnelProxy(tls, BASIC) as proxy:
            monkeypatch.setenv("https_proxy", proxy.url.replace("://", f"://user:{SECRET}@"))
            options = {"concurrency": concurrency, "verify": certificates.authority}
            assert_reads(secure, headers={"X-Api-Key": "marzipan"}, **options)
            assert proxy.heads
            assert all(head.startswith(f"CONNECT {tls.removeprefix('https://')} ") for head in proxy.heads)
            assert "marzipan" not in "".join(proxy.heads)
            assert b"marzipan" not in proxy.traffic
            assert len(proxy.traffic) > SIZE
        assert {("marzipan", None)} == {
            (each.headers["X-Api-Key"], each.headers["Proxy-Authorization"]) for each in server.log
        }

    def test_that_refuse_are_errors_without_their_passwords(self, server, secure, certificates, proxy):
        server.fail(Fault(status=407), times=None)
        with pytest.raises(getm.BadStatus, match="407 Proxy Authentication Required") as caught:
            getm.open(self.ELSEWHERE, proxies={"http": proxy}, retries=0)
        assert SECRET not in texts(caught.value)
        with TunnelProxy(secure.removesuffix("/a.bin"), "other") as tunnel:
            proxies = {"https": tunnel.url.replace("://", f"://user:{SECRET}@")}
            kind, text = failure(getm.open, secure, verify=certificates.authority, proxies=proxies, retries=0)
        assert issubclass(kind, getm.SourceError)
        assert SECRET not in text
        assert [] == [request for request in server.log if request.headers["Host"] != "elsewhere.invalid"]

    @pytest.mark.parametrize("first", [b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\nX: "], ids=["status", "headers"])
    def test_that_let_their_answer_drip_are_given_up(self, first):
        def script(_asks):
            yield first
            while True:
                time.sleep(0.04)  # that is how the proxy is
                yield b"x"

        with RawServer(script) as proxy, pytest.raises(getm.TransferTimeout):
            getm.open("https://elsewhere.invalid/a", proxies={"https": proxy.url}, timeout=(0.15, 0.15), retries=1)

    def test_that_refuse_a_tunnel_are_told_from_servers_that_are_down(self, server, secure, certificates):
        with TunnelProxy(secure.removesuffix("/a.bin"), "other") as tunnel, pytest.raises(getm.SourceError) as caught:
            getm.open(secure, verify=certificates.authority, proxies={"https": tunnel.url})
        assert "407" in str(caught.value)
        assert 1 == len(tunnel.heads)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
    def test_that_are_not_there_are_told_from_servers_that_are_not(self, scheme, host):
        proxies = {scheme: f"http://{host}:1"}
        with pytest.raises(getm.SourceError, match="no connection to the proxy"):
            getm.open(f"{scheme}://elsewhere.invalid/a", proxies=proxies, retries=0)

    def test_that_need_another_package_say_so(self):
        if importlib.util.find_spec("socks"):
            pytest.skip("PySocks is installed")
        with pytest.raises(getm.SourceError, match="PySocks"):
            getm.open(self.ELSEWHERE, proxies={"http": "socks5://127.0.0.1:1"}, retries=0)

    @pytest.mark.parametrize(
        "proxy", ["http://user:hunter2@127.0.0.1:1", "http://[hunter2", "hunter2://h", "socks5://u:hunter2@h"]
    )
    def test_that_are_none_are_errors_without_their_passwords(self, proxy):
        with pytest.raises((getm.SourceError, getm.UsageError)) as caught:
            getm.open(self.ELSEWHERE, proxies={"http": proxy}, retries=0)
        assert SECRET not in texts(caught.value)


class TestCertificates:
    """Servers show who they are, and clients where they are asked to."""

    @pytest.mark.parametrize(
        ("which", "text"),
        [
            ("server", "certificate verify failed: unable to get local issuer certificate"),
            ("self_signed", "certificate verify failed: self-signed certificate"),
        ],
    )
    def test_of_nobody_known_is_refused_by_a_text_that_says_why(self, server, url, certificates, which, text):
        with TlsFront(server.url, getattr(certificates, which)) as front:
            with pytest.raises(getm.SourceError, match=text) as caught:
                getm.open(front.url + f"/a.bin?{SECRET}")
            assert 1 == caught.value.attempts
        assert [] == server.log
        assert SECRET not in texts(caught.value)

    def test_of_nobody_known_is_refused_by_a_text_that_says_what_to_do(self, secure):
        with pytest.raises(getm.SourceError, match="verify="):
            getm.open(secure)

    def test_of_another_host_is_refused_although_signed(self, server, certificates):
        with (
            TlsFront(server.url, certificates.stranger) as front,
            pytest.raises(getm.SourceError, match=r"not valid for '127\.0\.0\.1'") as caught,
        ):
            getm.open(front.url + "/a.bin", verify=certificates.authority)
        assert "verify=" not in str(caught.value)  # to trust somebody else is no help
        assert [] == server.log

    @EVERY
    def test_of_an_authority_that_is_named_is_trusted(self, secure, certificates, monkeypatch, concurrency):
        with requests.Session() as session:
            session.verify = certificates.authority
            for options, variable in (
                ({"verify": certificates.authority}, None),
                ({"session": session}, None),
                ({}, "REQUESTS_CA_BUNDLE"),
                ({}, "CURL_CA_BUNDLE"),
                ({}, "SSL_CERT_FILE"),
                ({"verify": True}, "REQUESTS_CA_BUNDLE"),
            ):
                default(concurrency).clear()
                with monkeypatch.context() as patch:
                    if variable is not None:
                        patch.setenv(variable, certificates.authority)
                    file = getm.open(secure, concurrency=concurrency, **options)
                with file:  # what the environment said is kept
                    assert ramp(0, SIZE) == file.read()

    def test_of_authorities_are_read_once_for_all_connections(self, secure, bundle, monkeypatch):
        read = []
        load = ssl.SSLContext.load_verify_locations
        monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *args: read.append(args[1]) or load(*args))
        for _ in range(3):
            close_connections()
            assert_reads(secure, concurrency=None, verify=str(bundle))
        assert [str(bundle)] == read

    def test_of_authorities_that_are_trusted_no_more_are_of_no_use(self, secure, certificates, bundle):
        assert_reads(secure, concurrency=None, verify=str(bundle))
        bundle.write_bytes(Path(certificates.self_signed).read_bytes())
        close_connections()
        with pytest.raises(getm.SourceError, match="certificate verify failed"):
            getm.open(secure, concurrency=None, verify=str(bundle))

    @pytest.mark.usefixtures("workers_at_once")
    def test_of_authorities_are_read_by_no_worker(self, server, certificates, bundle, monkeypatch):
        monkeypatch.setattr(planner, "CROWD", 4)
        server.put("/a.bin", SIZE)
        server.put("/b.bin", 32 * BLOCK)
        with TlsFront(server.url, certificates.server) as front, contextlib.closing(getm.Engine()) as engine:
            with getm.open(front.url + "/a.bin", concurrency=2, verify=str(bundle), engine=engine) as file:
                assert ramp(0, SIZE) == file.read()  # by the launcher's first worker, which is up then
            written = bundle.stat().st_mtime_ns
            bundle.write_text("nonsense")
            os.utime(bundle, ns=(written, written))
            with getm.open(front.url + "/b.bin", concurrency=4, verify=str(bundle), engine=engine) as file:
                assert_ramp(file.read(), 0)
                assert 2 < len(engine._hub.core.pool.workers)

    @EVERY
    @UNCHECKED
    def test_is_not_looked_at_where_that_is_said(self, server, url, certificates, concurrency):
        with TlsFront(server.url, certificates.self_signed) as front, requests.Session() as session:
            session.verify = False
            for options in ({"verify": False}, {"session": session}):
                assert_reads(front.url + "/a.bin", concurrency=concurrency, **options)
            with pytest.raises(getm.SourceError, match="certificate verify failed"):  # by no connection that is left
                getm.open(front.url + "/a.bin", concurrency=concurrency)

    def test_that_are_missing_are_told(self, secure, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing.pem")
        with pytest.raises((getm.SourceError, getm.UsageError), match=r"REQUESTS_CA_BUNDLE|/missing.pem"):
            getm.open(secure)

    @EVERY
    def test_of_clients_are_shown_and_never_anothers(self, server, other, certificates, concurrency):
        server.put("/a.bin", SIZE)
        server.put("/a.bin", SIZE)  # another version is alice's
        other.put("/a.bin", SIZE, {"X": "1"})
        targets = {"alice": server.url, "bob": other.url}
        with TlsFront(targets, certificates.server, certificates.authority) as front:
            trusting = {"concurrency": concurrency, "verify": Path(certificates.authority)}
            for name in ("alice", "bob", "alice"):
                pair = getattr(certificates, name)
                for cert in (pair, Path(pair), (pair.replace(".pem", ".crt"), Path(pair.replace(".pem", ".key")))):
                    default(concurrency).clear()
                    with getm.open(front.url + "/a.bin", cert=cert, **trusting) as file:
                        assert ramp(0, SIZE, seed=1) == file.read()
            before = len(server.log) + len(other.log)
            with requests.Session() as session:
                session.cert = certificates.alice
                with getm.open(front.url + "/a.bin", session=session, **trusting) as file:
                    assert ramp(0, SIZE, seed=1) == file.read()
            assert len(server.log) + len(other.log) > before
            with pytest.raises(getm.SourceError, match="TLS failed"):
                getm.open(front.url + "/a.bin", retries=0, **trusting)
        assert {1} == {request.headers["Host"].count(str(front.port)) for request in server.log + other.log}

    @EVERY
    def test_make_no_difference_to_broken_bodies_and_to_seeking_away(self, server, url, secure, certificates, concurrency):
        server.fail(Fault(cut=100_000), times=2)
        server.fail(Fault(reset=100_000), times=1)
        server.fail(Fault(stall=70_000), when=lambda request: request.start >= BLOCK, times=1)
        with getm.open(secure, concurrency=concurrency, verify=certificates.authority, timeout=(5, 0.5)) as file:
            assert ramp(0, 2 * BLOCK) == file.read(2 * BLOCK)
            assert ramp(5, 10) == file.read_at(5, 5)
            assert ramp(0, SIZE) == file.read_at(0, SIZE)


def ending(*pieces):
    """Return the script of a server that says this, whatever it was asked."""
    return lambda _head: iter(pieces)


def head(*lines):
    return "".join(line + "\r\n" for line in (*lines, "")).encode("latin-1")


def endless(piece, *before, most=64 * MIB):
    """Return the script of a server that never ends, as far as anybody cares to find out."""
    return lambda _head: itertools.chain(before, itertools.repeat(piece, most // len(piece)))


RIGHT = ramp(0, SIZE)
FIRST_LINE = b"HTTP/1.1 206 Partial Content\r\n"

HEADS = {
    "endless header lines": endless(b"X-Filler: " + b"x" * 1000 + b"\r\n", FIRST_LINE),
    "an endless header line": endless(b"x" * 1000, FIRST_LINE + b"X: "),
    "endless folded lines": endless(b" " + b"x" * 1000 + b"\r\n", FIRST_LINE + b"X: y\r\n"),
    "endless header lines of one byte": endless(b"a\r\n", FIRST_LINE, most=MIB),
    "an endless first line": endless(b"x" * 1000, b"HTTP/1.1 206 "),
    "an endless version": endless(b"9" * 1000, b"HTTP/1."),
    "nothing but noise": endless(b"\0\xff\n" * 100),
    "a Content-Range of 10**30": lambda _: [head("HTTP/1.1 206 X", f"Content-Range: bytes 0-{10**30 - 1}/{10**30}")],
    "a total of 10**30": lambda asks: [head("HTTP/1.1 206 X", f"Content-Range: bytes {asked(asks).start}-9/{10**30}")],
    "a total of 10**5000": lambda asks: [
        head("HTTP/1.1 206 X", f"Content-Range: bytes {asked(asks).start}-9/1{'0' * 5000}")
    ],
    "another length in the end": lambda _: [head("HTTP/1.1 206 X", "Content-Range: bytes 0-9/10", "Content-Length: 99")],
    "a refusal with an endless body": endless(b"x" * 1000, head("HTTP/1.1 400 expired", "Content-Type: text/plain")),
    "a refusal in an endless chunk": endless(
        b"x" * 1000, head("HTTP/1.1 400 X", "Transfer-Encoding: chunked") + b"fffffffff\r\n"
    ),
    "a 404 with an endless body": endless(b"x" * 1000, head("HTTP/1.1 404 X")),
    "an unusable redirect with an endless body": endless(
        b"x" * 1000, head("HTTP/1.1 302 X", "Location: file:///etc/passwd")
    ),
}


@pytest.mark.parametrize("concurrency", [None, 4], ids="concurrency-{}".format)
class TestHostileHeads:
    @pytest.mark.parametrize("script", HEADS.values(), ids=HEADS)
    def test_at_the_beginning_are_errors_and_not_received_for_ever(self, concurrency, script):
        with RawServer(script) as server:
            with pytest.raises(getm.GetmError):
                getm.open(server.url + "/a", concurrency=concurrency, retries=0, spool=0)
            assert server.sent < 32 * MIB

    def test_in_the_middle_are_too_and_the_next_read_is_right(self, concurrency):
        hostile = []

        def script(asks):
            return hostile[0](asks) if hostile and asked(asks).start else [partial(asks, RIGHT)]

        with RawServer(script) as server, getm.open(server.url + "/a", concurrency=concurrency, retries=0) as file:
            for each in HEADS.values():
                hostile[:] = [each]
                with pytest.raises(getm.GetmError):
                    file.read_at(BLOCK, BLOCK)
            hostile.clear()
            assert RIGHT == file.read_at(0, SIZE)
            assert server.sent < 32 * MIB * len(HEADS)

    @pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, "-5", "abc", "0x10", "5.0"])
    def test_length_that_cannot_be_is_an_error(self, concurrency, length):
        with (
            RawServer(ending(head("HTTP/1.1 200 OK", f"Content-Length: {length}"), b"x" * 100)) as server,
            pytest.raises(getm.GetmError),
        ):
            getm.open(server.url + "/a", concurrency=concurrency, retries=0)

    @pytest.mark.parametrize("length", ["9" * 30, "9" * 5000])
    def test_length_that_cannot_be_is_an_error_in_the_middle(self, concurrency, length):
        def script(asks):
            lie = head(
                "HTTP/1.1 206 X", f"Content-Range: bytes {asked(asks).start}-{SIZE - 1}/{SIZE}", f"Content-Length: {length}"
            )
            return [lie if asked(asks).start else partial(asks, RIGHT)]

        with RawServer(script) as server, getm.open(server.url + "/a", concurrency=concurrency, retries=0) as file:
            assert getm.SourceError is failure(file.read_at, BLOCK, BLOCK + 5)[0]

    @pytest.mark.parametrize("size", [10**12, 2**62, 2**63 - 1, 2**63, 10**19 - 1], ids=str)
    def test_size_beyond_all_reason_costs_nothing_that_is_not_asked_for(self, concurrency, size):
        def script(asks):
            return [partial(asks, RIGHT).replace(f"/{SIZE}\r".encode(), f"/{size}\r".encode())]

        with RawServer(script) as server:
            try:
                file = getm.open(server.url + "/a", concurrency=concurrency, retries=0)
            except getm.GetmError:
                return
            with file:
                assert size == file.size
                assert RIGHT[:100] == file.read(100)
                assert RIGHT[BLOCK : BLOCK + 100] == file.read_at(BLOCK, 100)
                for place in (size - 10, size // 2):
                    with pytest.raises(getm.GetmError):
                        file.read_at(place, 10)

    def test_endless_interim_answers_are_given_up(self, concurrency):
        def script(asks):
            return [b"HTTP/1.1 100 Continue\r\n\r\n" * 1000] * 50 + [partial(asks, RIGHT[:1000])]

        with RawServer(script) as server, pytest.raises(getm.GetmError):
            getm.read(server.url + "/a", concurrency=concurrency, retries=0)

    def test_interim_answers_are_passed_over(self, concurrency):
        hints = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

        def script(asks):
            return [hints, partial(asks, RIGHT)]

        with RawServer(script) as server, getm.open(server.url + "/a", concurrency=concurrency, retries=0) as file:
            assert RIGHT == file.read()

    def test_bytes_behind_an_answer_are_not_taken_for_the_next(self, concurrency):
        def script(asks):
            yield partial(asks, RIGHT)
            time.sleep(0.02)  # until the connection is used again, perhaps
            yield b"SURPLUS"

        with (
            RawServer(script, keeps=True) as server,
            getm.open(server.url + "/a", concurrency=concurrency, retries=0) as file,
        ):
            for start in range(BLOCK, SIZE - 100_000, 150_000):
                assert RIGHT[start : start + 5000] == file.read_at(start, 5000)
                time.sleep(random.choice([0, 0.02]))

    def test_dripping_ones_are_given_up(self, concurrency):
        def script(asks):
            yield FIRST_LINE + b"X: "
            for _ in range(30):
                time.sleep(0.04)  # that is how the server is
                yield b"x"
            yield b"\r\n" + partial(asks, RIGHT[:1000]).partition(b"\r\n")[2]

        with RawServer(script) as server, pytest.raises(getm.GetmError):
            getm.read(server.url + "/a", concurrency=concurrency, retries=0, timeout=(5, 0.15), deadline=0.3)

    @pytest.mark.parametrize("count", [1, 2])
    def test_long_names_of_a_version_are_no_matter(self, request, server, concurrency, count):
        names = dict.fromkeys(("ETag", "Last-Modified")[:count], '"' + "\u00e9" * 60_000 + '"')
        url = server.put("/a.bin", SIZE, names)
        assert_reads(url, concurrency=concurrency, retries=1, deadline=1)


def whole_in_chunks(*pieces):
    return [head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), *pieces]


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


class TestHostileBodies:
    LONG = (f"Content-Length: {10**14}",)
    ENDLESS = pytest.mark.parametrize("lines", [(), ("Transfer-Encoding: chunked",), LONG], ids=str)

    @pytest.mark.parametrize(
        ("door", "lines"),
        [
            *itertools.product(["open", "urlopen", "read", "iter_content"], [(), ("Transfer-Encoding: chunked",)]),
            ("open", LONG),
            ("read", LONG),
        ],
    )
    def test_without_an_end_are_received_as_far_as_allowed(self, door, lines):
        piece = b"x" * 10_000
        piece = chunk(piece) if "chunked" in str(lines) else piece
        with RawServer(endless(piece, head("HTTP/1.1 200 OK", *lines))) as server:
            with pytest.raises(getm.RangeNotSupported, match="spool=100000"):
                getattr(getm, door)(server.url + "/a", spool=100_000)
            assert server.sent < 32 * MIB

    def test_without_an_end_are_streamed_as_far_as_they_are_read(self):
        with RawServer(endless(b"x" * 10_000, head("HTTP/1.1 200 OK", *self.LONG))) as server:
            with getm.urlopen(server.url + "/a", spool=100_000) as stream:
                for _ in range(3):
                    assert b"x" * MIB == stream.read(MIB)
            assert server.sent < 32 * MIB

    @ENDLESS
    def test_without_an_end_are_copied_as_far_as_there_is_room(self, tmp_path, monkeypatch, lines):
        piece = b"x" * 10_000
        piece = chunk(piece) if "chunked" in str(lines) else piece
        most = resource.getrlimit(resource.RLIMIT_FSIZE)
        with RawServer(endless(piece, head("HTTP/1.1 200 OK", *lines))) as server:
            resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, most[1]))
            try:
                with pytest.raises(OSError, match=r"File too large|No space left") as caught:
                    getm.copy(server.url + "/a", tmp_path / "a.bin")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, most)
            assert str(tmp_path / "a.bin.part") == caught.value.filename
            assert server.sent < 32 * MIB
            del caught  # its traceback holds what was open
        assert [] == os.listdir(tmp_path)

    @EVERY
    @pytest.mark.parametrize("keeps", [True, False])
    def test_longer_than_announced_are_cut_where_they_should_end(self, concurrency, keeps):
        def script(asks):
            right = partial(asks, RIGHT)
            return [(right.replace(b"Connection: close\r\n", b"", 1) if keeps else right) + b"more" * 100]

        with RawServer(script, keeps=keeps) as server, getm.open(server.url + "/a", concurrency=concurrency) as file:
            for _ in range(3):
                default(concurrency).clear()
                with contextlib.suppress(getm.SourceError) if keeps else contextlib.nullcontext():
                    assert RIGHT == file.read_at(0, SIZE)

    @pytest.mark.parametrize("concurrency", [None, 4])
    @pytest.mark.parametrize(
        "line", [b"-5\r\n", b"fffffffffffffffffffffff\r\n", b"x\r\n", b"\r\n", b"5;" + b"x" * 100_000, b"1_0\r\n"], ids=repr
    )
    def test_in_chunks_of_no_length_are_errors(self, concurrency, line):
        def script(asks):
            if asked(asks).start == 0:
                return [partial(asks, RIGHT)]
            lines = partial(asks, RIGHT).partition(b"\r\n\r\n")[0].replace(b"Content-Length", b"X-Length")
            return [lines + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + line]

        with (
            RawServer(script) as server,
            getm.open(server.url + "/a", concurrency=concurrency, retries=0) as file,
            pytest.raises(getm.SourceError) as caught,
        ):
            file.read_at(BLOCK, BLOCK + 5)
        assert not isinstance(caught.value, getm.WorkerError)

    def test_with_endless_trailers_are_given_up(self):
        script = endless(b"X: y\r\n" * 1000, *whole_in_chunks(chunk(b"x" * 100), b"0\r\n"), most=16 * MIB)
        with RawServer(script) as server:
            with contextlib.suppress(getm.GetmError):
                getm.read(server.url + "/a")
            assert server.sent < 12 * MIB

    @EVERY
    def test_compressed_ones_stay_as_they_are_stored(self, server, concurrency, caplog):
        bomb = gzip.compress(bytes(64 * MIB), 9)
        url = server.put("/bomb.gz", bomb, {"Content-Encoding": "gzip"})
        with getm.open(url, concurrency=concurrency, block_size=16 * 1024) as file:
            assert (len(bomb), bomb) == (file.size, file.read())
        assert 1 == len([record for record in caplog.records if "Content-Encoding is gzip" in record.getMessage()])

    @pytest.mark.parametrize(
        "options",
        [
            pytest.param(dict, id="plain"),
            pytest.param(lambda: {"session": session_with_a_hook()}, id="seen by a hook"),
            pytest.param(lambda: {"auth": requests.auth.HTTPDigestAuth("u", "p")}, id="seen by digest"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:the session or auth wants to see answers")
    def test_of_redirects_are_not_received(self, options):
        def script(asks):
            if "/there" in asks:
                return [partial(asks, RIGHT)]
            return endless(b"x" * 1000, head("HTTP/1.1 302 X", "Location: /there"))(asks)

        with RawServer(script) as server:
            with getm.open(server.url + "/a", **options()) as file:
                assert RIGHT[:5] == file.read(5)
            assert server.sent < 32 * MIB

    @EVERY
    def test_dripping_ones_are_stalls(self, server, url, concurrency):
        server.fail(Fault(pace=1000), times=None)
        for door in (getm.open, getm.urlopen):
            with (
                door(url, concurrency=concurrency, timeout=(5, 0.3), retries=0) as file,
                pytest.raises(getm.TransferTimeout, match="stall"),
            ):
                file.read(5000)

    @pytest.mark.parametrize("concurrency", [None, 2])
    @pytest.mark.parametrize("door", ["open", "read_at", "urlopen", "read", "copy"])
    @pytest.mark.parametrize(
        "fault",
        [
            Fault(pace=20),
            Fault(pace=20, whole=True),
            Fault(pace=20, whole=True, framing="chunks"),
            lambda request: Fault(pace=20, whole=True) if request.start or request.index else None,
        ],
        ids=["parts", "wholes", "wholes without a length", "wholes where parts came before"],
    )
    def test_that_drip_for_ever_are_given_up(self, server, tmp_path, door, fault, concurrency):
        url = server.put("/drip", 1_000_000)
        server.fail(fault, times=None)
        options = {"timeout": (5, 0.2), "deadline": 0.3, "retries": 1000, "block_size": 65_536}
        with pytest.raises(getm.TransferTimeout):
            DRIPPING[door](url, tmp_path / "copy", {"concurrency": concurrency, **options})

    @pytest.mark.parametrize("door", ["open", "read_at", "urlopen", "read", "copy"])
    @pytest.mark.parametrize("whole", [False, True], ids=["parts", "wholes"])
    def test_that_are_slow_and_do_come_are_waited_for(self, server, tmp_path, door, whole):
        url = server.put("/slow", 15_000)
        server.fail(Fault(pace=4_000, whole=whole), times=None)
        DRIPPING[door](url, tmp_path / "copy", {"concurrency": 2, "timeout": (5, 2), "deadline": 2, "block_size": 4096})


def read_with(door):
    def read(url, _path, options):
        with door(url, **options) as file:
            assert_ramp(file.read(), 0)

    return read


def read_at_the_end(url, _path, options):
    with getm.open(url, **options) as file:
        assert_ramp(file.read_at(file.size - 10, 10), file.size - 10)


DRIPPING = {
    "open": read_with(getm.open),
    "read_at": read_at_the_end,
    "urlopen": read_with(getm.urlopen),
    "read": lambda url, _path, options: getm.read(url, 10_000, 14_000, **options),
    "copy": lambda url, path, options: getm.copy(url, path, **options),
}


def session_with_a_hook():
    session = requests.Session()
    session.hooks["response"].append(lambda response, **_: response)
    return session


def test_what_a_hook_sees_is_read_here_with_a_warning(server):
    url = server.put("/a.bin", 3 * MIB)
    for door in (getm.open, getm.urlopen, getm.read):
        with pytest.warns(UserWarning, match="reading is done in this process"):
            result = door(url, session=session_with_a_hook(), concurrency=4)
        with contextlib.nullcontext(result) if door is getm.read else result as content:
            assert_ramp(content if door is getm.read else content.read(), 0)


def test_redirects_to_names_that_are_not_quoted_are_followed():
    def script(asks):
        if "/a%20b/%C3%A9 " in asks:
            return [partial(asks, RIGHT)]
        return [b"HTTP/1.1 302 X\r\nLocation: /a b/\xc3\xa9\r\nContent-Length: 0\r\n\r\n"]

    with RawServer(script) as server:
        assert RIGHT[:10] == getm.read(server.url + "/a", 0, 10)


@pytest.mark.parametrize(
    "options",
    [pytest.param(dict, id="plain"), pytest.param(lambda: {"session": session_with_a_hook()}, id="seen by a hook")],
)
@pytest.mark.filterwarnings("ignore:the session or auth wants to see answers")
class TestHostileRedirects:
    @pytest.mark.parametrize(
        "grow", [lambda path: path, lambda path: path + "x" * 5000, lambda path: path + "/../x?" + path]
    )
    def test_to_themselves_end(self, server, options, grow):
        server.fail(lambda request: redirect(grow(request.path)), times=None)
        with pytest.raises(getm.SourceError, match="more than 10 redirects"):
            getm.open(server.url + "/a", **options())
        assert 11 == len(server.log)

    def test_in_a_chain_are_followed_as_far_as_allowed(self, server, url, options):
        server.fail(lambda request: redirect(f"/{int(request.path[1:]) - 1}"), when=lambda r: r.path[1:] > "0", times=None)
        server.put("/0", SIZE)
        with getm.open(server.url + "/10", **options()) as file:
            assert RIGHT[:5] == file.read(5)
        with pytest.raises(getm.SourceError, match="more than 10 redirects"):
            getm.open(server.url + "/11", **options())

    @pytest.mark.parametrize(
        "location",
        [
            "file:///etc/passwd",
            "data:,x",
            "ftp://u:hunter2@h/x",
            "gopher://h/?hunter2",
            "http://[",
            "http://h:99999/?hunter2",
            "http://u:hunter2@/",
            "javascript:alert(1)",
            "http://.a/?hunter2",
            "http://*.a/?hunter2",
            "http://a b/?hunter2",
        ],
    )
    def test_to_what_cannot_be_read_are_errors(self, server, options, location):
        server.fail(redirect(location), times=None)
        kind, text = failure(getm.open, server.url + "/a", **options())
        assert SECRET not in text
        assert getm.SourceError is kind
        assert 1 == len(server.log)


def run(code, *arguments, **more):
    """Run a script to its end, in this folder; return what it has written."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **more}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert 0 == done.returncode, done.stderr
    return done.stdout + done.stderr


COMMAND = """
    import sys
    from getm import cli
    for url in sys.argv[1:]:
        print(cli.run(["-x", "1", url]))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make an empty folder, and work in it."""
    folder = tmp_path / "above" / "folder"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


class TestCommand:
    NAMES = (
        ("../../up", "up"),
        ("{above}/absolute", "absolute"),
        ("..\\..\\back", "back"),
        ("C:\\Windows\\system32\\win.ini", "win.ini"),
        ("C:drive", "C:drive"),
        (".hidden", "hidden"),
        ("... .dots", "dots"),
        ("nul\0.txt", "nul_.txt"),
        ("\x1b]0;title\x07.txt", "_]0;title_.txt"),
        ("\x9b31m.txt", "_31m.txt"),
        ("a\tb.txt", "a_b.txt"),
        ("~", "~"),
        ("-rf", "-rf"),
        ("..", None),
        ("/", None),
    )

    def test_writes_nothing_outside_the_folder_whatever_the_server_calls_the_object(self, server, folder):
        urls = []
        for number, (name, _) in enumerate(self.NAMES):
            quoted = name.replace("\\", "\\\\").format(above=folder.parent)
            urls.append(server.put(f"/{number}/", 10, {"Content-Disposition": f'attachment; filename="{quoted}"'}))
        written = run(COMMAND, *urls)
        assert sorted(name for _, name in self.NAMES if name) == sorted(os.listdir(folder))
        assert ["folder"] == os.listdir(folder.parent)
        assert written.replace("\n", "").isprintable()

    ESCAPE = "\x1b[31m\x9b2J"

    def test_shows_no_escape_sequence_of_a_server(self, server, folder):
        server.put("/encoded", 10, {"Content-Encoding": self.ESCAPE})
        server.put("/changed", 3 * MIB, {"ETag": f'"{self.ESCAPE}"'})
        server.fail(
            Fault(headers={"ETag": f'"other {self.ESCAPE}"'}), when=lambda r: r.path == "/changed" and r.start, times=None
        )
        server.fail(redirect(f"ftp://host/{self.ESCAPE}"), when=lambda r: r.path == "/away", times=None)
        with RawServer(ending(head(f"HTTP/1.1 404 {self.ESCAPE}"))) as raw:
            urls = [raw.url + "/a", *(server.url + path for path in ("/changed", "/away"))]
            written = run(COMMAND, *urls)
        assert ["3", "8", "5"] == re.findall(r"^\d$", written, re.MULTILINE)
        assert written.replace("\n", "").isprintable()

    def test_shows_no_escape_sequence_of_a_warning(self, server, folder):
        written = run(COMMAND, server.put("/encoded", 10, {"Content-Encoding": self.ESCAPE}))
        assert written.replace("\n", "").isprintable()

    def test_tells_no_secret(self, server, folder):
        urls = [
            server.put(f"/{status}", 3 * MIB).replace("://", f"://user:{SECRET}@") + f"?X={SECRET}#{SECRET}"
            for status in (1, 403)
        ]
        server.fail(Fault(status=403), when=lambda r: r.path == "/403", times=None)
        assert SECRET not in run(COMMAND, "--help", "--version", *urls, f"ftp://u:{SECRET}@h/?{SECRET}")


class TestTexts:
    """What a program may show of getm's tells no secret."""

    def everything(self, url):
        return url.replace("://", f"://user:{SECRET}@") + f"?X-Amz-Signature={SECRET}#{SECRET}"

    OPTIONS = {  # noqa: RUF012  # read only
        "headers": {"Authorization": SECRET},
        "auth": ("user", SECRET),
        "proxies": {"ftp": f"http://user:{SECRET}@host"},
    }

    @pytest.mark.parametrize("more", ["?X-Amz-Signature=hunter2", "#hunter2", "?a=1&\u00e9=hunter2#b"])
    def test_of_public_objects(self, server, url, tmp_path, more):
        secret = (url if more.startswith("?X") else url.replace("://", f"://user:{SECRET}@")) + more
        shown = [getm.info(secret, **self.OPTIONS), getm.copy(secret, tmp_path / "a.bin", **self.OPTIONS)]
        with contextlib.closing(getm.Engine()) as engine:
            with getm.open(secret, engine=engine, **self.OPTIONS) as file, getm.urlopen(secret, engine=engine) as stream:
                file.read()
                shown += [file, stream, engine, engine.stats, file.stats, file.name, file.url, stream.name, stream.url]
            shown += [file, stream]
        with getm.open(secret, "r", encoding="latin-1", **self.OPTIONS) as text:
            shown += [text, text.buffer]
        assert SECRET not in repr(shown)

    @pytest.mark.parametrize("what", ["Settings", "Request", "Fetch", "Feed"])
    def test_of_objects_within(self, url, what):
        settings = Settings(**self.OPTIONS)
        source = open_source(self.everything(url), settings)
        request = source.request(0, 10)
        with getm.open(self.everything(url), **self.OPTIONS) as file:
            shown = {"Settings": settings, "Request": request, "Fetch": Fetch(1, request), "Feed": file._feed}[what]
            assert SECRET not in repr(shown)

    @EVERY
    def test_of_any_log(self, server, url, caplog, concurrency):
        caplog.set_level(logging.DEBUG)
        server.fail(Fault(status=503), times=2)
        assert_reads(self.everything(url), concurrency=concurrency)
        assert SECRET not in caplog.text

    @pytest.mark.parametrize(
        "options",
        [
            pytest.param(
                {"refresh": f"http://h/?{SECRET}"},
            ),
            {"headers": {SECRET: 5}},
            {"headers": {"X": f"a\r\n{SECRET}: b"}},
            {"headers": {f"a\n{SECRET}": "b"}},
            {"headers": {"X": f" {SECRET}"}},
            {"headers": {"X": f"{SECRET}\n folded"}},
            {"headers": {f"a b: {SECRET}": "b"}},
            {"auth": SECRET},
            {"auth": ("user", SECRET, 5)},
            {"session": SECRET},
            {"proxies": SECRET},
            {"timeout": SECRET},
        ],
        ids=str,
    )
    def test_of_errors_of_usage(self, server, url, options):
        with pytest.raises(getm.UsageError) as caught:
            getm.open(url, **options)
        assert SECRET not in texts(caught.value)
        assert [] == server.log

    @pytest.mark.parametrize(
        "options",
        [
            pytest.param(lambda: {"auth": ("user", f"{SECRET}\u65e5")}, id="password that is not Latin-1"),
            pytest.param(lambda: {"session": session_saying(f"{SECRET}\r\nInjected: 1")}, id="header of a session"),
            pytest.param(lambda: {"auth": saying(f"{SECRET}\r\nInjected: 1")}, id="header of an auth object"),
            pytest.param(lambda: {"auth": saying(f"{SECRET}\u65e5")}, id="header that is not Latin-1"),
        ],
    )
    @pytest.mark.parametrize("concurrency", [None, 4])
    def test_of_what_cannot_be_sent_and_is_not_sent(self, server, url, options, concurrency):
        kind, text = failure(getm.open, url, concurrency=concurrency, **options())
        assert SECRET not in text
        assert issubclass(kind, getm.UsageError | getm.GetmError)
        assert [] == [request for request in server.log if request.headers["Injected"]]

    @pytest.mark.parametrize("concurrency", [None, 4])
    def test_of_what_cannot_be_sent_in_the_middle(self, server, url, concurrency):
        auth = saying("fine")
        with getm.open(url, auth=auth, concurrency=concurrency, retries=1) as file:
            auth.text = f"{SECRET}\r\nInjected: 1"
            kind, text = failure(file.read_at, BLOCK, BLOCK)
        assert SECRET not in text
        assert issubclass(kind, getm.UsageError | getm.SourceError)

    @pytest.mark.parametrize("name", ["ETag", "Last-Modified", "Content-Encoding"])
    def test_of_servers_are_one_printable_line(self, server, url, name, caplog):
        hostile = Fault(headers={"ETag": None, name: "\x1b[2J\r\n\tgetm: all is well" + "!" * 5000})
        if name == "Content-Encoding":
            server.fail(hostile)
            getm.open(url).close()
            assert caplog.messages
            assert all(message.isprintable() for message in caplog.messages)
        else:
            server.fail(hostile, when=lambda request: request.start, times=None)
            with getm.open(url) as file, pytest.raises(getm.ObjectChanged) as caught:
                file.read_at(BLOCK, 10)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 2000


def saying(text):
    return _Saying(text)


class _Saying(requests.auth.AuthBase):
    def __init__(self, text):
        self.text = text

    def __call__(self, request):
        request.headers["X-Said"] = self.text
        return request


def session_saying(text):
    session = requests.Session()
    session.headers["X-Said"] = text
    return session
