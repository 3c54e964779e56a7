"""HTTP and HTTPS: know one URL, in the calling process, and follow it to where its object is."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from getm import uri
from getm.config import Settings, Url
from getm.errors import UsageError
from getm.retry import Failure, RequestFailed, Trouble
from getm.sources.answer import Redirected
from getm.sources.base import UNTOLD, Answer, Body, Request, Version
from getm.sources.place import Place, check_headers, is_session, place_of, redirected, request_for, sees_answers, words
from getm.sources.response import Call
from getm.sources.spool import Spool
from getm.sources.transport import answered, process_transport

if TYPE_CHECKING:
    from getm.sources.sessions import Session

REDIRECTS_MOST = 10
AHEAD_OF_EXPIRY = 60.0
"""Seconds before a signed URL expires at which a fresh one is asked for; of a short life, its last quarter."""

_log = logging.getLogger(__name__)
_FINGERPRINT_KEY = secrets.token_bytes(32)


class HttpSource:
    """One object behind an HTTP URL, as the calling process knows it.

    Args:
        url: http or https; or what returns one, called for each fresh one.
        settings: headers, credentials, certificates, proxies and times.
        file: returns the path of what a server without ranges is to be spooled to, without a limit; None for a temporary
            file.
        forward: whether the object is read forwards alone.
    """

    def __init__(
        self, url: Url, settings: Settings, file: Callable[[], str] | None = None, *, forward: bool = False
    ) -> None:
        session, auth = settings.session, settings.auth
        if session is not None and not is_session(session):
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
        self._forward = forward
        # Other threads ask by `_place` while one looks for a new one: each of these is replaced as a whole.
        self._first = self._start = self._place = place_of(uri.check(url), settings)
        check_headers(self._first)
        self._has_gone_back = self._is_fresh = False  # what was tried since the last usable answer
        self.name = uri.redact(self._place.url)
        self.identity = uri.unsigned(self._first.url)
        self.headers: Mapping[str, str] = {}
        self._call = Call()
        self._spool: Spool | None = None
        self._own_session: Session | None = None
        self.is_local = sees_answers(self._first)
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
        return self._request(self._place, start, stop, self._version)

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
        fresh = place_of(uri.check(self._refresh()), self._settings)
        check_headers(fresh)
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
        return replace(failure, message=f"{failure.message}; the URL expired at {when}: a fresh one is needed (refresh=)")

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

    def _follow(self, start: int, stop: int, version: Version | None) -> tuple[Place, Body]:
        """Send a request, and send it again wherever it is redirected to; return where the answer came from, too."""
        place = self._start
        for _ in range(REDIRECTS_MOST + 1):
            try:
                return place, self._send(place, self._request(place, start, stop, version))
            except Redirected as redirect:
                place = redirected(place, redirect.location, self._settings)
        raise RequestFailed(Failure(Trouble.PROTOCOL, f"more than {REDIRECTS_MOST} redirects"))

    def _open_spool(self, place: Place, body: Body, start: int, stop: int) -> Body:
        """Read all from one answer without ranges, by way of a temporary file."""
        if not self._settings.spool:
            body.close()
            raise RequestFailed(Failure(Trouble.RANGE, "the server ignored the range and sent the whole object"))
        try:
            file = None if self._file is None else self._file()
            keeps = not self._forward or body.answer.version.size < 0
            self._spool = spool = Spool(body, self._settings.spool, self._send_whole, file, keeps=keeps)
            if body.answer.version.size < 0:
                spool.complete()
        except BaseException:
            self._spool = None
            body.close()
            raise
        if self._file is None and keeps:
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

    def _arrive(self, place: Place, answer: Answer) -> None:
        """Ask at *place* from now on, where a usable answer came from."""
        if self._version is None:
            encoding = answer.headers.get("content-encoding", "identity")
            encoding = uri.printable(encoding)[:100]
            if encoding.lower() != "identity":
                _log.warning("%s: Content-Encoding is %s; these are the bytes as stored", uri.redact(place.url), encoding)
            if answer.version.validator is None and answer.version.size:
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

    def _request(self, place: Place, start: int, stop: int, version: Version | None) -> Request:
        url, headers = words(place, start, stop)
        return Request(
            url=url,
            headers=headers,
            start=start,
            stop=stop,
            version=version,
            connect=self._settings.connect,
            stall=self._settings.stall,
            verify=place.verify,
            cert=place.cert,
            proxies=place.proxies,
        )

    def _send(self, place: Place, request: Request) -> Body:
        if not self.is_local or (place.session is None and place.auth is None):
            return process_transport().send(request)
        from getm.sources import sessions  # noqa: PLC0415  # imports `requests`, which takes 50 ms

        session = place.session or self._own_session
        if session is None:
            session = self._own_session = sessions.own_session()
        prepared = request_for(place, request.start, request.stop)
        return answered(request, lambda: sessions.send(session, prepared, request))
