"""Where an object is asked for: what its server is told there, and requests for ranges of it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urljoin, urlsplit

from getm import uri
from getm.config import Settings
from getm.errors import UsageError
from getm.ranges import range_header
from getm.retry import Failure, RequestFailed, Trouble

if TYPE_CHECKING:
    from getm.sources.sessions import Prepared, Session

_SECRET_WORDS = ("auth", "cookie", "credential", "jwt", "key", "pass", "secret", "session", "signature", "token")
_PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy")
_AUTHORITY_NAMES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_DEFAULT_HEADERS = {"User-Agent": "getm", "Accept": "*/*"}
_CLEAN_URL = re.compile(
    r"""https?://[a-z0-9](?:[a-z0-9-]|\.(?!\.))*(?::(?:[1-5]\d{4}|6[0-4]\d{3}|[1-9]\d{0,3}))?
    (?:/(?!\.)(?:[\w.~!$&'()*+,;=:@-]|%(?!2[DE]|5F|7E|3\d|[46][1-9A-F]|[57][0-9A])[0-9A-F]{2})*)+
    (?:\?(?:[\w.~!$&'()*+,;=:@/?-]|%(?!2[DE]|5F|7E|3\d|[46][1-9A-F]|[57][0-9A])[0-9A-F]{2})+)?""",
    re.ASCII | re.VERBOSE,
)
"""URLs that `requests` leaves as they are: nothing to be quoted or unquoted, no user, no folder of dots."""
_CLEAN_NAME = re.compile(r"[\w-]+", re.ASCII)
_CLEAN_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?", re.ASCII)


@dataclass(frozen=True, repr=False)
class Place:
    """Where an object is asked for, and what its server is told."""

    url: str
    headers: Mapping[str, str]
    auth: Any
    session: Session | None
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
        return _plain_words(self)


def place_of(url: str, settings: Settings) -> Place:
    """Return where *url* is asked for, with all that the caller gave."""
    session = cast("Session | None", settings.session)
    return Place(url, dict(settings.headers), settings.auth, session, *_environment(url, settings))


def is_session(thing: object) -> bool:
    """Say whether something is a session of `requests`."""
    return bool(_sessions().is_session(thing))


def redirected(place: Place, location: str, settings: Settings) -> Place:
    """Return the place that *place* has redirected to; another origin is told no secrets.

    Raises:
        RequestFailed: there is none.
    """
    with suppress(UnicodeError):  # bytes of a header are read as Latin-1; there they are UTF-8, if they are not quoted
        location = location.encode("latin-1").decode()
    try:
        target = uri.check(urljoin(place.url, location))
        origin, former = (_origin(replace(place, url=url, headers={})) for url in (target, place.url))
    except UsageError as error:
        raise RequestFailed(Failure(Trouble.PROTOCOL, f"redirected to something unusable: {error}")) from None
    except ValueError:
        raise RequestFailed(Failure(Trouble.PROTOCOL, "redirected to something unusable: no URL")) from None
    if origin == former:
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
    if place.is_plain:
        return False
    if place.session is not None and _sessions().has_own_adapter(place.session, place.url):
        return True
    return bool(request_for(place, 0, 1).hooks["response"])


def words(place: Place, start: int, stop: int) -> tuple[str, Mapping[str, str]]:
    """Return the URL and the headers of a request for a range, with all credentials."""
    if not place.is_plain:
        return _words(place, request_for(place, start, stop))
    url, headers = place.plain
    return url, {**headers, "Range": range_header(start, stop)}


def request_for(place: Place, start: int, stop: int) -> Prepared:
    """Return a request for a range, for `requests` to send.

    Raises:
        UsageError: URL or headers cannot be sent.
    """
    headers = (_DEFAULT_HEADERS, place.headers, {"Accept-Encoding": "identity", "Range": range_header(start, stop)})
    return cast("Prepared", _sessions().prepare(place.url, headers, place.auth, place.session))


def _plain_words(place: Place) -> tuple[str, Mapping[str, str]]:
    """Return the URL and the headers of a plain request; without `requests` where that would leave them as they are."""
    given = place.headers
    names = {name.lower() for name in given if _CLEAN_NAME.fullmatch(name)}
    are_clean = len(names) == len(given) and all(map(_CLEAN_VALUE.fullmatch, given.values()))
    if place.auth is not None or not are_clean or not _CLEAN_URL.fullmatch(place.url):
        return _words(place, request_for(place, 0, 1))
    headers = {name: value for name, value in _DEFAULT_HEADERS.items() if name.lower() not in names}
    headers |= {name: value for name, value in given.items() if name.lower() not in ("accept-encoding", "range")}
    return place.url, headers | {"Accept-Encoding": "identity", "Range": range_header(0, 1)}


def _sessions() -> Any:  # noqa: ANN401  # a module
    """Return what imports `requests`, which takes 50 ms, and is not needed often."""
    from getm.sources import sessions  # noqa: PLC0415

    return sessions


def _words(place: Place, prepared: Prepared) -> tuple[str, Mapping[str, str]]:
    return prepared.url or place.url, dict(prepared.headers)


def _environment(url: str, settings: Settings) -> tuple[bool | str, str | tuple[str, str] | None, dict[str, str]]:
    """Read certificates and proxies for *url*: what was given, else what the environment says."""
    proxies = dict(settings.proxies or {})
    if settings.session is not None:
        session = cast("Session", settings.session)
        found = session.merge_environment_settings(url, proxies, True, settings.verify, settings.cert)
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
    return cast("dict[str, str]", _sessions().environ_proxies(url))


def _origin(place: Place) -> uri.Origin:
    """Return which server a place is of, as who connects finds it.

    Raises:
        UsageError: none can be asked there.
    """
    url, _ = words(place if place.is_plain else replace(place, auth=None, session=None), 0, 1)
    return uri.address(url)[0]


def _is_secret(header: str) -> bool:
    return any(word in header.lower() for word in _SECRET_WORDS)


def _with_user(url: str, other: str) -> str:
    """Return *url* with the user info of another one, unless it has its own."""
    user, mark, _ = urlsplit(other).netloc.rpartition("@")
    parts = urlsplit(url)
    return url if not mark or "@" in parts.netloc else parts._replace(netloc=f"{user}@{parts.netloc}").geturl()
