"""HTTP and HTTPS: prepare range requests, send them, check every answer, and read bodies straight into memory.

`HttpSource` knows one URL and lives in the calling process; it prepares requests. `HttpTransport` sends prepared requests
and lives in every process. The head of an answer is read by `requests`; the body by `readinto1` on the file below the
`http.client` response, which is a single `recv_into` into the given memory, and is counted here, because `http.client`
ends silently on a connection that is cut.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import logging
import math
import os
import re
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

import requests
import requests.adapters
import requests.utils
import urllib3

from getm import uri
from getm.config import STALL_LEAST, Settings, Url
from getm.errors import UsageError
from getm.ranges import range_header
from getm.retry import Failure, RequestFailed, StallWatch, Trouble
from getm.sources.answer import Redirected, check
from getm.sources.base import UNTOLD, Answer, Body, Request, Transport, Version
from getm.sources.connection import Adapter, Call, PlainAdapter, cut, discreet
from getm.sources.spool import SCRATCH, Spool

REDIRECTS_MOST = 10
POOL = 32
AHEAD_OF_EXPIRY = 60.0
"""Seconds before a signed URL expires at which a fresh one is asked for; of a short life, its last quarter."""
REFUSAL_TEXT = 4096
"""Bytes of the body of a 400 that are looked at: some servers refuse by it."""

_Sent = tuple[urllib3.HTTPResponse, Mapping[str, str]]
"""An answer, and its headers."""
_log = logging.getLogger(__name__)

_SECRET_WORDS = ("auth", "cookie", "credential", "jwt", "key", "pass", "secret", "session", "signature", "token")
_PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy")
_REFUSED = re.compile(rb"xpired|<Code>(AccessDenied|AuthorizationQueryParameters|InvalidToken)", re.IGNORECASE)
"""What such a body says: S3 and GCS of a token that has expired, S3 of one that it does not know and of a signature that is
none, `rclone serve s3` of a signature that has expired."""
_NOT_IN_A_HEADER = re.compile(rb"[\r\n\0]")
_CERTIFICATE_HINT = "verify= or REQUESTS_CA_BUNDLE can name a file of authorities to trust"
_FINGERPRINT_KEY = secrets.token_bytes(32)


@dataclass(frozen=True, repr=False)
class _Place:
    """Where an object is asked for, and what its server is told."""

    url: str
    headers: Mapping[str, str]
    auth: Any
    session: requests.Session | None
    verify: bool | str
    cert: str | tuple[str, str] | None
    proxies: Mapping[str, str]

    @property
    def is_plain(self) -> bool:
        """Whether only getm prepares its requests; code of a session or an auth object may look at the range."""
        return self.session is None and not callable(self.auth)

    @functools.cached_property
    def plain(self) -> requests.PreparedRequest:
        """A request as it is for any range, if it is plain."""
        return _prepare(self, 0, 1)


class HttpSource:
    """One object behind an HTTP URL, as the calling process knows it.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        settings: headers, credentials, certificates, proxies and times.
        file: returns the path of what a server without ranges is to be spooled to, without a limit; None for a temporary
            file.
    """

    def __init__(self, url: Url, settings: Settings, file: Callable[[], str] | None = None) -> None:
        session, auth = settings.session, settings.auth
        if session is not None and not isinstance(session, requests.Session):
            raise UsageError(f"session must be a requests.Session, not {type(session).__name__}")
        if not (auth is None or callable(auth) or (isinstance(auth, tuple) and len(auth) == 2)):
            raise UsageError("auth must be (user, password) or a requests auth object")
        for path in (settings.verify, *(settings.cert if isinstance(settings.cert, tuple) else (settings.cert,))):
            if not isinstance(path, str | bool | None):
                raise UsageError(f"verify and cert are paths, not {path!r}")
            if isinstance(path, str) and not os.path.exists(path):
                raise UsageError(f"there is no file {path!r} for verify or cert")
        self.origin = url
        self._refresh = settings.refresh
        if callable(url):
            self._refresh = self._refresh or url
            url = url()
        self._settings = settings
        self._version: Version | None = None  # whichever is there
        self._file = file
        # Other threads ask by `_place` while one looks for a new one: each of these is replaced as a whole.
        self._first = self._start = self._place = self._place_of(uri.check(url))
        _check_headers(self._first)
        self._has_gone_back = self._is_fresh = False  # what was tried since the last usable answer
        self.name = uri.redact(self._place.url)
        self.identity = uri.unsigned(self._first.url)
        self.headers: Mapping[str, str] = {}
        self._call = Call()
        self._spool: Spool | None = None
        self._own_session: requests.Session | None = None
        self.is_local = _sees_answers(self._first)
        self.generation = 0
        self.due = math.inf

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._call.is_over

    @property
    def is_renewable(self) -> bool:
        """Whether there is something to try when the server refuses: the first URL of a redirect, or a fresh one."""
        return self._refresh is not None or self._place.url != self._first.url

    def expect(self, version: Version) -> None:
        """Take no other version of the object from the first answer on."""
        self._version = version

    def open(self, start: int, stop: int, *, spools: bool = True) -> Body:
        """Send a first request, for `[start, stop)`, follow redirects, and keep the final URL and the version.

        A server that ignores ranges sends the whole object: that *spools*, or comes as it is, its size perhaps untold.

        Raises:
            RequestFailed: no answer, or none that can be used, or that of another version than the one known.
        """
        if self._spool is not None:
            self._arrive(self._start, self._spool.answer)
            return self._spool.body(start, stop)
        with self._call:
            place, body = self._follow(start, stop, self._version if self.generation else None)
        if self._version is not None:
            self._check_version(body)
        if body.answer.is_whole and spools:
            return self._open_spool(place, body, start, stop)
        self._arrive(place, body.answer)
        return body

    def request(self, start: int, stop: int) -> Request:
        """Return a request for `[start, stop)`, with the URL, the headers and the credentials of this moment."""
        return self._request(self._place, start, stop)

    def send(self, request: Request) -> Body:
        """Send a request from this process, over its shared connections."""
        if self._spool is not None:
            return self._spool.body(request.start, request.stop)
        return self._send(self._place, request)

    def renew(self, failure: Failure) -> bool:
        """Have the next `open` ask elsewhere after a refusal; say whether there is anything not tried yet.

        First comes the URL that redirected to here, then a fresh one. May raise what the caller's `refresh` raises.
        """
        if not failure.is_refusal:
            return False
        if self._start.url != self._first.url and not self._has_gone_back:
            self._start, self._has_gone_back = self._first, True
            return True
        if self._refresh is None or self._is_fresh or failure.is_absence:
            return False
        fresh = self._place_of(uri.check(self._refresh()))
        _check_headers(fresh)
        self._first = self._start = fresh
        self._is_fresh = True
        return True

    def close(self) -> None:
        """Break off its first request, and what is received for it without a range, which may be received again."""
        self._call.end()
        if self._spool is not None:
            self._spool.close()

    def explain(self, failure: Failure) -> Failure:
        """Return a failure with what the URL itself says about it."""
        expiry = uri.expiry(self._place.url)
        if not failure.is_refusal or failure.is_absence or expiry is None or expiry > time.time():
            return failure
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(expiry))
        return replace(failure, message=f"{failure.message}; the URL expired at {when}, refresh= can give a fresh one")

    def key(self) -> object | None:
        """Return what readers must have in common to share blocks; None if they must not.

        That is the final URL without a signature, a strong ETag, the size, and a keyed digest of all that the server may
        look at to decide who asks. A session or an auth object may decide anything, so they share nothing.
        """
        version, place = self._version, self._place
        if version is None or not version.is_strong or place.session is not None or callable(place.auth):
            return None
        who = repr((sorted(place.headers.items()), place.auth, place.verify, place.cert, sorted(place.proxies.items())))
        fingerprint = hashlib.blake2b(who.encode(), key=_FINGERPRINT_KEY, digest_size=16).digest()
        return (uri.unsigned(place.url), version.etag, version.size, self._settings.block_size, fingerprint)

    def _place_of(self, url: str) -> _Place:
        """Return where *url* is asked for, with all that the caller gave."""
        settings = self._settings
        session = cast("requests.Session | None", settings.session)
        return _Place(url, dict(settings.headers), settings.auth, session, *self._environment(url))

    def _environment(self, url: str) -> tuple[bool | str, str | tuple[str, str] | None, dict[str, str]]:
        """Read certificates and proxies for *url*: what was given, else what the environment says."""
        settings = self._settings
        proxies = dict(settings.proxies or {})
        if isinstance(settings.session, requests.Session):
            found = settings.session.merge_environment_settings(url, proxies, True, settings.verify, settings.cert)
            found_verify = found["verify"]
            return True if found_verify is None else found_verify, found["cert"], dict(found["proxies"])
        verify: bool | str = True if settings.verify is None else settings.verify
        if verify is True:
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
            if isinstance(verify, str) and url.startswith("https:") and not os.path.exists(verify):
                raise UsageError(f"there is no file {verify!r}, which REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names")
        if settings.proxies is None:
            proxies = _environ_proxies(url)
        return verify, settings.cert, proxies

    def _redirected(self, place: _Place, location: str) -> _Place:
        """Return the place that *place* has redirected to; another origin is told no secrets."""
        try:
            target = uri.check(urljoin(place.url, location))
            _check_headers(replace(place, url=target, headers={}))
        except UsageError as error:
            raise RequestFailed(Failure(Trouble.PROTOCOL, f"redirected to something unusable: {error}")) from None
        except ValueError:
            raise RequestFailed(Failure(Trouble.PROTOCOL, "redirected to something unusable: no URL")) from None
        if _origin(target) == _origin(place.url):
            return replace(place, url=_with_user(target, place.url))
        headers = {name: value for name, value in place.headers.items() if not _is_secret(name)}
        return _Place(target, headers, None, None, *self._environment(target))

    def _follow(self, start: int, stop: int, version: Version | None) -> tuple[_Place, Body]:
        """Send a request, and send it again wherever it is redirected to; return where the answer came from, too."""
        place = self._start
        for _ in range(REDIRECTS_MOST + 1):
            try:
                return place, self._send(place, replace(self._request(place, start, stop), version=version))
            except Redirected as redirect:
                place = self._redirected(place, redirect.location)
        raise RequestFailed(Failure(Trouble.PROTOCOL, f"more than {REDIRECTS_MOST} redirects"))

    def _open_spool(self, place: _Place, body: Body, start: int, stop: int) -> Body:
        """Read all from one answer without ranges, by way of a temporary file."""
        if not self._settings.spool:
            body.close()
            raise RequestFailed(Failure(Trouble.RANGE, "the server ignored the range and sent the whole object"))
        try:
            file = None if self._file is None else self._file()
            self._spool = spool = Spool(body, self._settings.spool, self._send_whole, file)
            if body.answer.version.size < 0:
                spool.complete()
        except BaseException:
            self._spool = None
            body.close()
            raise
        if self._file is None:
            _log.warning("%s: the server knows no ranges; the object is read once, to a temporary file", self.name)
        self.is_local = True
        self._arrive(place, spool.answer)
        return spool.body(start, stop)

    def _send_whole(self) -> Body:
        """Send a request for a whole object again, of which no range can be had."""
        if self._version is None:
            raise RequestFailed(Failure(Trouble.CUT, "the body of unknown length was cut"))
        _, body = self._follow(0, max(1, self._version.size), None)
        self._check_version(body)
        return body

    def _check_version(self, body: Body) -> None:
        """Close a body that is not of the version that it must be.

        Raises:
            RequestFailed: so it is.
        """
        assert self._version is not None
        version = body.answer.version
        if body.answer.stop == UNTOLD:
            version = replace(version, size=self._version.size)
        difference = self._version.difference(version)
        if difference is not None:
            body.close()
            raise RequestFailed(Failure(Trouble.CHANGED, f"the object was replaced while it was read: {difference}"))

    def _arrive(self, place: _Place, answer: Answer) -> None:
        """Ask at *place* from now on, where a usable answer came from."""
        if self._version is None:
            encoding = answer.headers.get("content-encoding", "identity")
            encoding = uri.printable(encoding)[:100]
            if encoding.lower() != "identity":
                _log.warning("%s: Content-Encoding is %s; these are the bytes as stored", uri.redact(place.url), encoding)
            if answer.version.validator is None:
                _log.warning("%s: neither ETag nor Last-Modified; only its size tells a version", uri.redact(place.url))
        self._version = answer.version if self._version is None else self._version
        self._place = self._start = place
        self.headers = answer.headers
        self.name = uri.redact(place.url)
        self._has_gone_back = self._is_fresh = False
        now, expiry = time.time(), uri.expiry(place.url)
        # A URL that has expired by this clock and still works is the clock's fault: then only a refusal tells.
        self.due = math.inf if expiry is None or expiry <= now else expiry - min(AHEAD_OF_EXPIRY, (expiry - now) / 4)
        self.generation += 1

    def _request(self, place: _Place, start: int, stop: int) -> Request:
        prepared = _prepared(place, start, stop)
        return Request(
            url=prepared.url or place.url,
            headers=dict(prepared.headers),
            start=start,
            stop=stop,
            version=self._version,
            connect=self._settings.connect,
            stall=self._settings.stall,
            verify=place.verify,
            cert=place.cert,
            proxies=place.proxies,
        )

    def _send(self, place: _Place, request: Request) -> Body:
        if not self.is_local or (place.session is None and place.auth is None):
            return _process_transport().send(request)
        session = place.session or self._own_session
        if session is None:
            session = self._own_session = requests.Session()
            session.mount("http://", Adapter())
            session.mount("https://", Adapter())
        prepared = _prepared(place, request.start, request.stop)
        prepared.hooks["response"].append(_hide_location)

        def send() -> _Sent:
            response = session.send(
                prepared.copy(),
                stream=True,
                allow_redirects=False,
                timeout=(request.connect, request.stall),
                verify=request.verify,
                cert=request.cert,
                proxies=dict(request.proxies),
            )
            return response.raw, response.headers

        return _answered(request, send)


def _check_headers(place: _Place) -> None:
    """Find out whether URL and headers can be sent at all.

    Raises:
        UsageError: they cannot.
    """
    _prepared(place if place.is_plain else replace(place, auth=None, session=None), 0, 1)


def _hide_location(response: requests.Response, **_: object) -> None:
    """Have `requests` not look where an answer redirects to: it would read its whole body first."""
    if "location" in response.headers:
        response.headers[_HIDDEN_LOCATION] = response.headers.pop("location")


def _sees_answers(place: _Place) -> bool:
    """Say whether the caller's own code is to see the answers: a hook, as digest authentication has one, or an adapter."""
    if place.session is not None and type(place.session.get_adapter(place.url)) is not requests.adapters.HTTPAdapter:
        return True
    return (place.session is not None or callable(place.auth)) and bool(_prepared(place, 0, 1).hooks["response"])


def _prepared(place: _Place, start: int, stop: int) -> requests.PreparedRequest:
    """Return a request for a range with all headers and credentials."""
    if not place.is_plain:
        return _prepare(place, start, stop)
    prepared = place.plain.copy()
    prepared.headers["Range"] = range_header(start, stop)
    return prepared


def _prepare(place: _Place, start: int, stop: int) -> requests.PreparedRequest:
    headers: requests.structures.CaseInsensitiveDict[str | bytes] = requests.structures.CaseInsensitiveDict()
    headers.update({"User-Agent": _USER_AGENT, "Accept": "*/*"})
    if place.session is not None:
        headers.update({name: value for name, value in place.session.headers.items() if name not in _DEFAULTS})
    headers.update(place.headers)
    headers.update({"Accept-Encoding": "identity", "Range": range_header(start, stop)})
    request = requests.Request("GET", place.url, headers=headers, auth=place.auth)
    try:
        prepared = request.prepare() if place.session is None else place.session.prepare_request(request)
        for each in [text for item in prepared.headers.items() for text in item]:
            _check_header(each)
    except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError) as error:
        text = "its URL" if isinstance(error, requests.exceptions.InvalidURL) else "a header or password"
        raise UsageError(f"{uri.redact(place.url)}: {text} holds what cannot be sent by HTTP") from None
    return prepared


def _environ_proxies(url: str) -> dict[str, str]:
    """Return the proxies that the environment names; `requests` looks through all of it, twice, for each URL."""
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXY_NAMES):
        return {}
    return {scheme: proxy for scheme, proxy in requests.utils.get_environ_proxies(url).items() if proxy}


def _check_header(text: str | bytes) -> None:
    """Raise `UnicodeError` or `InvalidHeader` if that cannot be in a header."""
    if _NOT_IN_A_HEADER.search(text if isinstance(text, bytes) else text.encode("latin-1")):
        raise requests.exceptions.InvalidHeader


class HttpTransport:
    """Sends requests over kept-alive connections; one a process."""

    def __init__(self) -> None:
        self._adapter = PlainAdapter(pool_connections=POOL, pool_maxsize=POOL, max_retries=0)

    def send(self, request: Request) -> Body:
        """Send one request and check its answer.

        A kept-alive connection that turns out to be closed is replaced at once; nothing else is tried again here.

        Raises:
            RequestFailed: no answer, or none that can be used.
        """
        return _answered(request, lambda: self._send(request))

    def close(self) -> None:
        """Close the connections."""
        self._adapter.close()

    def _send(self, request: Request) -> _Sent:
        prepared: Any = requests.PreparedRequest()
        prepared.method = "GET"
        prepared.url = request.url
        prepared.headers = request.headers
        response: Any = self._adapter.send(
            prepared,
            stream=True,
            timeout=(request.connect, request.stall),
            verify=request.verify,
            cert=request.cert,
            proxies=dict(request.proxies),
        )
        return response, response.headers


def _answered(request: Request, send: Callable[[], _Sent]) -> Body:
    """Send a request, once more if its connection turns out to be closed, and check the answer.

    Args:
        request: what is asked for.
        send: sends it; returns its answer, and the headers of that.

    Raises:
        RequestFailed: no answer, or none that can be used; from None, as the texts of `requests` hold the whole URL.
    """
    try:
        with discreet():
            response, found = _sent(send)
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise RequestFailed(_connection_failure(error)) from None
    try:
        headers = {name.lower(): value for name, value in found.items()}
        if _HIDDEN_LOCATION in headers:
            headers["location"] = headers.pop(_HIDDEN_LOCATION)
        return HttpBody(response, check(request, response.status, headers, time.time()), request.stall)
    except BaseException as error:
        if isinstance(error, RequestFailed) and error.failure.status == 400 and _REFUSED.search(_beginning(response)):
            error = RequestFailed(replace(error.failure, trouble=Trouble.EXPIRED))
        _close(response)
        raise error from None


def _sent(send: Callable[[], _Sent]) -> _Sent:
    try:
        return send()
    except requests.exceptions.ConnectionError as error:
        if not _is_stale(error):
            raise
    return send()


def _close(response: urllib3.HTTPResponse) -> None:
    """Drop the connection of an answer."""
    response.close()
    response.release_conn()


def _beginning(response: urllib3.HTTPResponse) -> bytes:
    """Return what has come of the body of a refusal, as far as it is looked at."""
    try:
        return response.read1(REFUSAL_TEXT)
    except (AttributeError, OSError, http.client.HTTPException, urllib3.exceptions.HTTPError):
        return b""


class HttpBody:
    """The body of one answer, read as it comes, straight into the given memory, and counted.

    Args:
        response: an answer whose body is not read yet.
        answer: what its head says.
        stall: seconds of waiting for it, all together, in which at least 1 KiB must come.
    """

    def __init__(self, response: urllib3.HTTPResponse, answer: Answer, stall: float) -> None:
        self._response = response
        self._answer = answer
        self._left = answer.stop - answer.start
        # The answer of http.client below that of urllib3; requests goes there, too, for its cookies.
        self._original: Any = response._original_response  # noqa: SLF001
        self._skipped = answer.skipped  # bytes to throw away first
        self._watch = StallWatch(stall, STALL_LEAST, 0.0)
        self._waited = 0.0  # seconds, its clock: whoever takes his time to read on does not count as a stall
        if self._left == 0:
            self.close()

    @property
    def answer(self) -> Answer:
        """The head."""
        return self._answer

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one and at most `len(buffer)` bytes, as they come.

        Raises:
            RequestFailed: the connection was cut, or stalled; the body is closed.
        """
        if len(buffer) > self._left:
            buffer = buffer[: self._left]
        try:
            if self._skipped:
                self._skip()
            count = self._receive(buffer)
        except RequestFailed:
            self.close()
            raise
        except TimeoutError as error:
            self.close()
            raise RequestFailed(Failure(Trouble.TIMEOUT, "nothing came in time in the middle of the body")) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise RequestFailed(Failure(Trouble.CUT, f"connection lost in the body: {_reason(error)}")) from error
        if count == 0:
            left = self._left
            self.close()
            if self._answer.stop == UNTOLD and not self._skipped:
                return 0
            raise RequestFailed(Failure(Trouble.CUT, f"the server ended the body {left} bytes early"))
        self._left -= count
        if self._left == 0:
            self.close()
        return count

    def close(self) -> None:
        """Give the connection back if the body was read to its end, otherwise drop it."""
        answer = self._answer
        is_at_end = self._left == 0 and not (answer.skipped and answer.stop < answer.version.size)
        if is_at_end and not self._original.will_close and not self._original.chunked:
            self._original.close()
            self._response.release_conn()
        else:
            _close(self._response)

    def abort(self) -> None:
        """Make a `readinto` under way in another thread return or fail at once."""
        stream = self._original.fp
        if stream is not None:
            cut(stream)

    def _skip(self) -> None:
        waste = memoryview(bytearray(min(self._skipped, SCRATCH)))
        while self._skipped:
            count = self._receive(waste[: self._skipped])
            if count == 0:
                raise ConnectionResetError
            self._skipped -= count

    def _receive(self, buffer: memoryview) -> int:
        began = time.monotonic()
        count = self._receive_next(buffer)
        self._waited += time.monotonic() - began
        self._watch.add(count, self._waited)
        return count

    def _receive_next(self, buffer: memoryview) -> int:
        if self._original.chunked:
            data = self._original.read1(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        stream = self._original.fp
        return 0 if stream is None else int(stream.readinto1(buffer))


_USER_AGENT = "getm"
_HIDDEN_LOCATION = "getm-location"
_DEFAULTS = requests.utils.default_headers()
_process: dict[int, Transport] = {}  # by process number: a forked child must not use its parent's connections


def _process_transport() -> Transport:
    """Return this process's transport; a forked child gets its own."""
    process = os.getpid()
    transport = _process.get(process)
    if transport is None:  # no lock, for a fork could leave it locked
        _process.clear()
        transport = _process.setdefault(process, HttpTransport())
    return transport


def close_connections() -> None:
    """Close the idle connections that this process keeps; the next request opens new ones."""
    _process_transport().close()


def _connection_failure(error: Exception) -> Failure:
    """Return why there was no answer."""
    chain = _chain(error)
    is_no_http = any(isinstance(one, http.client.HTTPException) for one in chain)
    refused = next((str(one)[:200] for one in chain if type(one) is OSError and str(one).startswith("Tunnel ")), "")
    for applies, trouble, message in (
        (isinstance(error, requests.exceptions.ConnectTimeout), Trouble.CONNECT, "no connection in time"),
        (isinstance(error, requests.exceptions.ReadTimeout), Trouble.TIMEOUT, "no answer in time"),
        (any(map(_is_unknown_certificate, chain)), Trouble.PROTOCOL, f"TLS failed: {_reason(error)}: {_CERTIFICATE_HINT}"),
        (isinstance(error, requests.exceptions.SSLError), Trouble.PROTOCOL, f"TLS failed: {_reason(error)}"),
        (bool(refused), Trouble.PROTOCOL, f"the proxy refused: {uri.printable(refused)}"),
        (any(map(_is_no_url, chain)), Trouble.PROTOCOL, "the request cannot be sent: no valid URL of server or proxy"),
        (is_no_http and not _is_stale(error), Trouble.PROTOCOL, "the answer is not HTTP"),
        (any(map(_is_unknown_host, chain)), Trouble.PROTOCOL, f"no connection: {_reason(error)}"),
        (isinstance(error, requests.ConnectionError | OSError), Trouble.CONNECT, f"no connection: {_reason(error)}"),
    ):
        if applies:
            return Failure(trouble, message)
    return Failure(Trouble.PROTOCOL, f"the request cannot be sent: {type(error).__name__}")


def _is_unknown_certificate(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError)


def _is_no_url(error: BaseException) -> bool:
    return isinstance(error, urllib3.exceptions.LocationValueError | requests.exceptions.InvalidURL)


def _is_unknown_host(error: BaseException) -> bool:
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what it was made from, the outermost first."""
    chain: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        one = todo.pop(0)
        if isinstance(one, BaseException) and one not in chain:
            chain.append(one)
            todo += [getattr(one, "reason", None), *one.args, one.__cause__, one.__context__]
    return chain


def _reason(error: BaseException) -> str:
    """Say what lies at the root of an error, without its text where that may hold a URL."""
    root = _chain(error)[-1]
    for one in reversed(_chain(error)):
        if isinstance(one, OSError) and one.strerror and not isinstance(one, requests.exceptions.RequestException):
            return one.strerror
    return type(root).__name__


def _is_stale(error: BaseException) -> bool:
    """Say whether a connection was closed before any answer came, as the server does with idle ones."""
    closed = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)
    return any(isinstance(one, closed) for one in _chain(error))


def _is_secret(header: str) -> bool:
    return any(word in header.lower() for word in _SECRET_WORDS)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib3.util.parse_url(url)  # as who connects reads it
    scheme = parts.scheme or ""
    return scheme, parts.host, parts.port or {"http": 80, "https": 443}.get(scheme)


def _with_user(url: str, other: str) -> str:
    """Return *url* with the user info of another one, unless it has its own."""
    user, mark, _ = urlsplit(other).netloc.rpartition("@")
    parts = urlsplit(url)
    return url if not mark or "@" in parts.netloc else parts._replace(netloc=f"{user}@{parts.netloc}").geturl()
