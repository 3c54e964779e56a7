"""Say why a request was not answered, by what was raised."""

from __future__ import annotations

import http.client
import socket
import ssl

from getm import uri
from getm.retry import Failure, Trouble
from getm.sources.connection import ConnectTimeout, NoProxy

_CERTIFICATE_HINT = "--cacert, verify= or REQUESTS_CA_BUNDLE can name a file of authorities to trust"
_UNTRUSTED = frozenset({18, 19, 20, 21})
"""What OpenSSL says of a certificate that no authority vouches for, as `openssl verify` numbers it."""
_REASONS = {
    "IncompleteRead": "it ended too early",
    "RemoteDisconnected": "the server closed it without an answer",
    "ValueError": "what came is no part of an answer",
}
"""What errors without a text for people mean."""


def connection_failure(error: Exception) -> Failure:
    """Return why there was no answer."""
    chain = _chain(error)
    is_no_http = any(isinstance(one, http.client.HTTPException) for one in chain)
    refused = next((str(one)[:200] for one in chain if type(one) is OSError and str(one).startswith("Tunnel ")), "")
    for applies, trouble, message in (
        (isinstance(error, NoProxy), Trouble.CONNECT, f"no connection to the proxy: {reason(error)}"),
        (isinstance(error, ConnectTimeout), Trouble.CONNECT, "no connection in time"),
        (any(isinstance(one, TimeoutError) for one in chain), Trouble.TIMEOUT, "no answer in time"),
        (any(map(_is_unknown_certificate, chain)), Trouble.PROTOCOL, f"TLS failed: {reason(error)}: {_CERTIFICATE_HINT}"),
        (any(isinstance(one, ssl.SSLError) for one in chain), Trouble.PROTOCOL, f"TLS failed: {reason(error)}"),
        (bool(refused), Trouble.PROTOCOL, f"the proxy refused: {uri.printable(refused)}"),
        (any(map(_is_no_url, chain)), Trouble.PROTOCOL, "the request cannot be sent: no valid URL of server or proxy"),
        (is_no_http and not is_stale(error), Trouble.PROTOCOL, "the answer is not HTTP"),
        (any(map(_is_unknown_host, chain)), Trouble.PROTOCOL, f"no connection: {reason(error)}"),
        (isinstance(error, OSError), Trouble.CONNECT, f"no connection: {reason(error)}"),
    ):
        if applies:
            return Failure(trouble, message)
    return Failure(Trouble.PROTOCOL, f"the request cannot be sent: {type(error).__name__}")


def reason(error: BaseException) -> str:
    """Say what lies at the root of an error, without its text where that may hold a URL."""
    root = _chain(error)[-1]
    for one in reversed(_chain(error)):
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    name = type(root).__name__
    return _REASONS.get(name, name)


def is_stale(error: BaseException) -> bool:
    """Say whether a connection was closed before any answer came, as the server does with idle ones."""
    closed = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)
    return any(isinstance(one, closed) for one in _chain(error))


def _is_unknown_certificate(error: BaseException) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _UNTRUSTED


def _is_no_url(error: BaseException) -> bool:
    return isinstance(error, http.client.InvalidURL | UnicodeError)


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
