"""Requests by way of `requests`: what a caller's session or auth object prepares or sends, and what goes through a proxy.

All else is sent without it, see `transport.py`. So this module is imported only where it is needed: that takes 50 ms.
"""

from __future__ import annotations

import http.client
import logging
import queue
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import requests
import requests.adapters
import requests.utils
import urllib3
import urllib3.connection

from getm import uri
from getm.errors import UsageError
from getm.retry import Failure, RequestFailed, Trouble
from getm.sources.base import Request
from getm.sources.connection import ConnectTimeout, NoProxy, Reply, trust
from getm.sources.response import Response

POOL = 32
Session: TypeAlias = requests.Session
Prepared: TypeAlias = requests.PreparedRequest

_HIDDEN_LOCATION = "getm-location"
_NOT_IN_A_HEADER = re.compile(rb"[\r\n\0]")
_DEFAULTS = requests.utils.default_headers()


class Adapter(requests.adapters.HTTPAdapter):
    """Sends requests over connections of this module, but for those through a SOCKS proxy."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  # they are the parent's
        """Make the pools."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> urllib3.ProxyManager:  # noqa: ANN401  # likewise
        """Return the pools for a proxy."""
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager


class PlainAdapter(Adapter):
    """Likewise, and returns answers as they are of urllib3: making those of `requests`, cookies and all, takes longer."""

    def __init__(self) -> None:
        super().__init__(pool_connections=POOL, pool_maxsize=POOL, max_retries=0)

    def build_response(self, req: Prepared, resp: Any) -> Any:  # noqa: ANN401, ARG002  # the parent's
        """Return an answer."""
        return resp

    def carry(self, request: Request) -> Reply:
        """Send a request that was prepared, through a proxy.

        Raises:
            OSError: there is no answer; or `HTTPException`, or `RequestFailed`.
        """
        prepared: Any = Prepared()
        prepared.method, prepared.url, prepared.headers = "GET", request.url, request.headers
        is_proxied = bool(requests.utils.select_proxy(request.url, request.proxies))
        with _translated(is_proxied=is_proxied):
            response: Any = self.send(prepared, **_sending(request))
        return _reply(response, response.headers)


def own_session() -> Session:
    """Return a session for an auth object that wants to see answers."""
    session = Session()
    session.mount("http://", Adapter())
    session.mount("https://", Adapter())
    return session


def send(session: Session, prepared: Prepared, request: Request) -> Reply:
    """Send a request by a session, whose hooks and adapters see the answer; redirects are not followed.

    Raises:
        OSError: there is no answer; or `HTTPException`, or `RequestFailed`.
    """
    prepared = prepared.copy()
    prepared.hooks = {**prepared.hooks, "response": [*prepared.hooks["response"], _hide_location]}
    with _translated():
        response = session.send(prepared, allow_redirects=False, **_sending(request))
    if _HIDDEN_LOCATION in response.headers:
        response.headers["location"] = response.headers.pop(_HIDDEN_LOCATION)
    return _reply(response.raw, response.headers)


def prepare(url: str, headers: Iterable[Mapping[str, str]], auth: Any, session: Any) -> Prepared:  # noqa: ANN401
    """Return a GET request, for `requests` to send.

    Args:
        url: where to.
        headers: the defaults, those of the caller, and those that hold in any case.
        auth: `(user, password)` or an object of `requests`.
        session: a session whose headers go before the defaults, or None.

    Raises:
        UsageError: that cannot be sent.
    """
    try:
        prepared = _prepared(url, headers, auth, session)
        for each in [text for item in prepared.headers.items() for text in item]:
            _check_header(each)
    except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError) as error:
        text = "its URL" if isinstance(error, requests.exceptions.InvalidURL) else "a header or password"
        raise UsageError(f"{uri.redact(url)}: {text} holds what cannot be sent by HTTP") from None
    return prepared


def _prepared(url: str, headers: Iterable[Mapping[str, str]], auth: Any, session: Any) -> Prepared:  # noqa: ANN401
    merged: Any = requests.structures.CaseInsensitiveDict()
    defaults, *others = headers
    merged.update(defaults)
    if session is not None:
        merged.update({name: value for name, value in session.headers.items() if name not in _DEFAULTS})
    for some in others:
        merged.update(some)
    prepared = Prepared()
    if session is not None:
        return cast("Prepared", session.prepare_request(requests.Request("GET", url, merged, auth=auth)))
    if callable(auth):
        prepared.prepare("GET", url, merged, params="", auth=auth)
    else:  # without cookies, a body and hooks, which take a third of the time
        prepared.prepare_method("GET")
        prepared.prepare_url(url, "")
        prepared.prepare_headers(merged)
        prepared.prepare_auth(auth, url)
    return prepared


def _check_header(text: str | bytes) -> None:
    """Raise `UnicodeError` or `InvalidHeader` if that cannot be in a header."""
    if _NOT_IN_A_HEADER.search(text if isinstance(text, bytes) else text.encode("latin-1")):
        raise requests.exceptions.InvalidHeader


def is_session(thing: object) -> bool:
    """Whether something is a session."""
    return isinstance(thing, Session)


def has_own_adapter(session: Session, url: str) -> bool:
    """Whether a session sends requests to a URL by an adapter of the caller's."""
    return type(session.get_adapter(url)) is not requests.adapters.HTTPAdapter


def environ_proxies(url: str) -> dict[str, str]:
    """Return the proxies that the environment names for a URL."""
    return {scheme: proxy for scheme, proxy in requests.utils.get_environ_proxies(url).items() if proxy}


def _reply(response: urllib3.HTTPResponse, headers: Mapping[str, str]) -> Reply:
    """Return an answer as direct connections have it. `requests` goes to that of `http.client`, too, for its cookies."""
    original: Any = response._original_response  # noqa: SLF001

    def leave(is_reusable: bool) -> None:  # noqa: FBT001
        (original if is_reusable else response).close()
        response.release_conn()

    return Reply(original, headers, leave)


def _sending(request: Request) -> dict[str, Any]:
    """Return how `requests` is to send a request."""
    return {
        "stream": True,
        "timeout": (request.connect, request.stall),
        "verify": request.verify,
        "cert": request.cert,
        "proxies": dict(request.proxies),
    }


def _hide_location(response: requests.Response, **_: object) -> None:
    """Have `requests` not look where an answer redirects to: it would read its whole body first."""
    if "location" in response.headers:
        response.headers[_HIDDEN_LOCATION] = response.headers.pop("location")


@contextmanager
def _translated(*, is_proxied: bool = False) -> Iterator[None]:
    """Turn errors into those that direct connections have, and keep `urllib3` from logging: it shows queries of URLs."""
    _thread.is_discreet = True
    try:
        yield
    except requests.exceptions.ConnectTimeout as error:
        raise ConnectTimeout from error
    except requests.exceptions.Timeout as error:
        raise TimeoutError from error
    except requests.exceptions.ConnectionError as error:
        raise (NoProxy if is_proxied and _is_unconnected(error) else ConnectionError) from error
    except (requests.exceptions.InvalidURL, urllib3.exceptions.LocationValueError) as error:
        raise http.client.InvalidURL from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        needs = "a SOCKS proxy needs the package PySocks" if "SOCKS" in str(error) else type(error).__name__
        text = f"the request cannot be sent: {needs}"
        raise RequestFailed(Failure(Trouble.PROTOCOL, text)) from None
    finally:
        _thread.is_discreet = False


def _is_unconnected(error: requests.exceptions.ConnectionError) -> bool:
    """Whether an error says that whoever was to be connected to first is not there."""
    reason = getattr(next(iter(error.args), None), "reason", None)
    return isinstance(getattr(reason, "original_error", reason), urllib3.exceptions.NewConnectionError)


class _Response(Response):
    """An answer as `urllib3` wants it."""

    def begin(self) -> None:
        """Read the head."""
        super().begin()
        message = http.client.HTTPMessage()
        for name, value in self.fields:
            message[name] = value
        self.headers = self.msg = message


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _Response


class _SecureConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response

    def connect(self) -> None:
        """Connect, with authorities that were read for an earlier connection, if they are the same."""
        is_usual = not (self.proxy or self.ssl_context or self.cert_file or self.ca_cert_dir or self.ca_cert_data)
        if is_usual and self.ca_certs and (context := trust(self.ca_certs)):
            self.ssl_context, self.ca_certs = context, None
        super().connect()


class _Idle(queue.LifoQueue[Any]):
    """The connections of a pool that nobody uses, the last one used first.

    There is no lock, as an interrupt could leave it taken for ever; and nobody waits, as a new connection can be had.

    Args:
        maxsize: how many at most, or a few more.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self._connections: deque[Any] = deque()

    def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002, FBT001, FBT002
        """Add a connection.

        Raises:
            Full: there are enough.
        """
        if len(self._connections) >= self.maxsize:
            raise queue.Full
        self._connections.append(item)

    def qsize(self) -> int:
        """Return how many there are."""
        return len(self._connections)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ANN401, ARG002, FBT001, FBT002
        """Return a connection.

        Raises:
            Empty: there is none.
        """
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection
    QueueCls = _Idle


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection
    QueueCls = _Idle


_POOLS = {"http": _Pool, "https": _SecurePool}
_thread = threading.local()
logging.getLogger("urllib3.connectionpool").addFilter(lambda _: not getattr(_thread, "is_discreet", False))
