"""Where an object is asked for: what its server is told there, and requests for ranges of it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

import requests
import requests.adapters
import requests.utils
import urllib3

from getm import uri
from getm.config import Settings
from getm.errors import UsageError
from getm.ranges import range_header
from getm.retry import Failure, RequestFailed, Trouble

_SECRET_WORDS = ("auth", "cookie", "credential", "jwt", "key", "pass", "secret", "session", "signature", "token")
_PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy")
_AUTHORITY_NAMES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_NOT_IN_A_HEADER = re.compile(rb"[\r\n\0]")
_USER_AGENT = "getm"
_DEFAULTS = requests.utils.default_headers()


@dataclass(frozen=True, repr=False)
class Place:
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
    def plain(self) -> tuple[str, Mapping[str, str]]:
        """The URL and the headers of a request for any range, if it is plain."""
        return _words(self, request_for(self, 0, 1))


def place_of(url: str, settings: Settings) -> Place:
    """Return where *url* is asked for, with all that the caller gave."""
    session = cast("requests.Session | None", settings.session)
    return Place(url, dict(settings.headers), settings.auth, session, *_environment(url, settings))


def redirected(place: Place, location: str, settings: Settings) -> Place:
    """Return the place that *place* has redirected to; another origin is told no secrets.

    Raises:
        RequestFailed: there is none.
    """
    try:
        target = uri.check(urljoin(place.url, location))
        check_headers(replace(place, url=target, headers={}))
    except UsageError as error:
        raise RequestFailed(Failure(Trouble.PROTOCOL, f"redirected to something unusable: {error}")) from None
    except ValueError:
        raise RequestFailed(Failure(Trouble.PROTOCOL, "redirected to something unusable: no URL")) from None
    if _origin(target) == _origin(place.url):
        return replace(place, url=_with_user(target, place.url))
    headers = {name: value for name, value in place.headers.items() if not _is_secret(name)}
    return Place(target, headers, None, None, *_environment(target, settings))


def check_headers(place: Place) -> None:
    """Find out whether URL and headers can be sent at all.

    Raises:
        UsageError: they cannot.
    """
    words(place if place.is_plain else replace(place, auth=None, session=None), 0, 1)


def sees_answers(place: Place) -> bool:
    """Say whether the caller's own code is to see the answers: a hook, as digest authentication has one, or an adapter."""
    if place.session is not None and type(place.session.get_adapter(place.url)) is not requests.adapters.HTTPAdapter:
        return True
    return (place.session is not None or callable(place.auth)) and bool(request_for(place, 0, 1).hooks["response"])


def words(place: Place, start: int, stop: int) -> tuple[str, Mapping[str, str]]:
    """Return the URL and the headers of a request for a range, with all credentials."""
    if not place.is_plain:
        return _words(place, request_for(place, start, stop))
    url, headers = place.plain
    return url, {**headers, "Range": range_header(start, stop)}


def request_for(place: Place, start: int, stop: int) -> requests.PreparedRequest:
    """Return a request for a range, for `requests` to send."""
    headers: requests.structures.CaseInsensitiveDict[str | bytes] = requests.structures.CaseInsensitiveDict()
    headers.update({"User-Agent": _USER_AGENT, "Accept": "*/*"})
    if place.session is not None:
        headers.update({name: value for name, value in place.session.headers.items() if name not in _DEFAULTS})
    headers.update(place.headers)
    headers.update({"Accept-Encoding": "identity", "Range": range_header(start, stop)})
    try:
        prepared = requests.PreparedRequest()
        if place.session is not None:
            prepared = place.session.prepare_request(requests.Request("GET", place.url, headers, auth=place.auth))
        elif callable(place.auth):
            prepared.prepare("GET", place.url, headers, params="", auth=place.auth)
        else:  # without cookies, a body and hooks, which take a third of the time
            prepared.prepare_method("GET")
            prepared.prepare_url(place.url, "")
            prepared.prepare_headers(headers)
            prepared.prepare_auth(place.auth, place.url)
        for each in [text for item in prepared.headers.items() for text in item]:
            _check_header(each)
    except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError) as error:
        text = "its URL" if isinstance(error, requests.exceptions.InvalidURL) else "a header or password"
        raise UsageError(f"{uri.redact(place.url)}: {text} holds what cannot be sent by HTTP") from None
    return prepared


def _words(place: Place, prepared: requests.PreparedRequest) -> tuple[str, Mapping[str, str]]:
    return prepared.url or place.url, dict(prepared.headers)


def _environment(url: str, settings: Settings) -> tuple[bool | str, str | tuple[str, str] | None, dict[str, str]]:
    """Read certificates and proxies for *url*: what was given, else what the environment says."""
    proxies = dict(settings.proxies or {})
    if isinstance(settings.session, requests.Session):
        found = settings.session.merge_environment_settings(url, proxies, True, settings.verify, settings.cert)
        found_verify = found["verify"]
        return True if found_verify is None else found_verify, found["cert"], dict(found["proxies"])
    verify: bool | str = True if settings.verify is None else settings.verify
    if verify is True:
        verify = next((os.environ[name] for name in _AUTHORITY_NAMES if os.environ.get(name)), True)
        if isinstance(verify, str) and url.startswith("https:") and not os.path.exists(verify):
            raise UsageError(f"there is no file {verify!r}, which {' or '.join(_AUTHORITY_NAMES)} names")
    if settings.proxies is None:
        proxies = _environ_proxies(url)
    return verify, settings.cert, proxies


def _environ_proxies(url: str) -> dict[str, str]:
    """Return the proxies that the environment names; `requests` looks through all of it, twice, for each URL."""
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXY_NAMES):
        return {}
    return {scheme: proxy for scheme, proxy in requests.utils.get_environ_proxies(url).items() if proxy}


def _check_header(text: str | bytes) -> None:
    """Raise `UnicodeError` or `InvalidHeader` if that cannot be in a header."""
    if _NOT_IN_A_HEADER.search(text if isinstance(text, bytes) else text.encode("latin-1")):
        raise requests.exceptions.InvalidHeader


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
