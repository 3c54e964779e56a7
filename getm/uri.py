"""URLs and the file names in them: what getm reads, what it shows, what a copy is called."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from getm.errors import UsageError

# Linux file systems take 255 bytes; the rest is room for endings of our own, as in NAME.part.json.
LONGEST_NAME = 200

_PORTS = {"http": 80, "https": 443}
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_QUERY_TEXT = re.compile(r"^[^?]*\??|#.*", re.DOTALL)  # all but the query
_USER_INFO = re.compile(r"(^/{0,2}|:/{1,2})[^/]*@")
_NOT_A_HOST = re.compile(r"(?:^|(?<=:))//(?!(?:\[[^]/]*\]|[^:/]*)(?::\d*)?(?:/|$)).*", re.ASCII | re.DOTALL)
_NEVER_IN_A_URL = re.compile(r"^\s|[\x00-\x1f\x7f\ud800-\udfff]|\s$")
# By the parameters that only a signed URL has: those that sign. What else such a URL says, as `response-content-type`,
# may change the answer. Sources: AWS SigV4 and SigV2 query strings, Google V4 and V2 signed URLs, CloudFront signed URLs,
# Azure SAS tokens.
_SIGNATURES = tuple(
    (frozenset(proof.split()), frozenset(f"{proof} {others}".split()))
    for proof, others in (
        (
            "x-amz-signature",
            "x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signedheaders x-amz-security-token",
        ),
        ("x-goog-signature", "x-goog-algorithm x-goog-credential x-goog-date x-goog-expires x-goog-signedheaders"),
        ("signature expires awsaccesskeyid", "x-amz-security-token"),
        ("signature expires googleaccessid", ""),
        ("signature key-pair-id", "expires policy hash-algorithm"),
        ("sig se sv", "st sp sr spr sip si skoid sktid skt ske sks skv"),
    )
)
# Not the parser of the `email` package: it takes `filename` before `filename*`, eats the backslashes that would show
# which part of `C:\dir\name` is the name, and raises a bare TypeError for some malformed values.
_PARAMETER = re.compile(r'(?:^|;)\s*([^\s=;]+)\s*=\s*("(?:\\.|[^"\\])*"|[^;]*)', re.DOTALL)


class Origin(NamedTuple):
    """What a connection leads to."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port, as `Host` names them: without the port that is usual."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def address(url: str) -> tuple[Origin, str]:
    """Return the server of a URL, and what to ask it for: path and query.

    Raises:
        ValueError: there is none.
    """
    parts = urlsplit(url)
    origin = Origin(parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme])
    return origin, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def check(url: str) -> str:
    """Return *url* as it is, if it is one that getm can read.

    Raises:
        UsageError: it is not a str, not http or https, names no host, or holds what no URL holds.
    """
    if not isinstance(url, str):
        raise UsageError(f"a URL must be a str, not {type(url).__name__}")
    if _NEVER_IN_A_URL.search(url):
        raise UsageError(
            f"{redact(url)!r} holds control characters, or blanks at its ends: remove them, or quote them as %XX"
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        is_clear = "\\" not in parts.netloc  # which is a slash for some
    except ValueError:
        is_clear = False
    if not is_clear:  # the text of the error quotes what may be a password
        raise UsageError(f"{redact(url)!r} has no valid host and port: quote special characters in the user info")
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"{redact(url)!r} cannot be read: give a URL that begins with http:// or https://")
    if not host:
        raise UsageError(f"{redact(url)!r} names no host: give a URL of the form https://host/path")
    return url


def redact(url: str) -> str:
    """Return *url* without user info, query and fragment: one printable line, fit for errors and logs.

    Never raises. Where it is not clear what is host and what is password, nothing after the scheme is shown.
    """
    shown = _USER_INFO.sub(r"\1", _QUERY.sub("", url))
    return printable(_NOT_A_HOST.sub("//...", shown))


def printable(text: str) -> str:
    """Return *text* as one line: "_" for controls, separators other than a blank, direction marks, lone surrogates."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "_" for each in text)


def unsigned(url: str) -> str:
    """Return *url* without the parameters that sign it, if it is signed in one of the ways in `_SIGNATURES`.

    Two URLs that are equal without them name the same object; whether one may be read is for the server to say.
    """
    address, mark, query = url.partition("?")
    parameters = [parameter for parameter in query.split("&") if parameter]
    names = {parameter.partition("=")[0].lower() for parameter in parameters}
    for proof, signing in _SIGNATURES:
        if proof <= names:
            parameters = [each for each in parameters if each.partition("=")[0].lower() not in signing]
    return address + mark + "&".join(parameters) if parameters else address


def expiry(url: str) -> float | None:
    """Return when a signed URL says that it expires, in seconds since the epoch; None if it does not. Never raises."""
    try:
        said = {name.lower(): value for name, value in parse_qsl(_QUERY_TEXT.sub("", url))}
        for scheme in ("x-amz", "x-goog"):
            if f"{scheme}-signature" in said:
                signed = datetime.strptime(said[f"{scheme}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return signed.timestamp() + int(said[f"{scheme}-expires"])
        if "sig" in said and "se" in said:
            when = datetime.fromisoformat(said["se"])
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        return float(max(0, int(said["expires"]))) if "signature" in said else None
    except (KeyError, ValueError, OverflowError):
        return None


def name(url: str) -> str:
    """Return the file name that the path of *url* ends in, percent-decoded; "" if there is none. Never raises.

    It is a base name: without separators and control characters, not `.` or `..`, at most `LONGEST_NAME` bytes.
    """
    path = _QUERY.sub("", url).partition("://")[2].partition("/")[2]
    return _base_name(unquote(path.rpartition("/")[2]))


def disposition_name(header: str) -> str | None:
    """Return the file name in the value of a `Content-Disposition` header (RFC 6266), None if there is none.

    `filename*` (RFC 8187, formerly RFC 5987) goes before `filename`. The server is not trusted: what comes back is a
    base name as from `name`, and never one of a hidden file. Never raises.
    """
    parameters = {key.lower(): value for key, value in reversed(_PARAMETER.findall(header))}
    for key, decode in (("filename*", _extended), ("filename", _plain)):
        found = _base_name(decode(_unquoted(parameters.get(key, "")))).lstrip(". ")
        if found:
            return found
    return None


def _base_name(text: str) -> str:
    base = printable(text.replace("\\", "/").rpartition("/")[2]).strip()
    return "" if base in (".", "..") else _shortened(base)


def _shortened(base: str) -> str:
    """Return *base* with its middle left out if it is too long; its ending is kept."""
    encoded = base.encode()
    if len(encoded) <= LONGEST_NAME:
        return base
    kept = encoded[: LONGEST_NAME - 20], encoded[-20:]
    return "".join(part.decode(errors="ignore") for part in kept)


def _unquoted(value: str) -> str:
    """Return the text of a quoted string, or a bare token as it is; a backslash quotes only a quote or a backslash."""
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        return re.sub(r'\\(["\\])', r"\1", value[1:-1])
    return value.strip(' \t"')


def _extended(value: str) -> str:
    """Return the text of an extended value, `charset'language'percent-encoded`; any charset but Latin-1 is UTF-8."""
    charset, _, encoded = [*value.split("'", 2), "", ""][:3]
    return unquote(encoded, "latin-1" if charset.lower() == "iso-8859-1" else "utf-8", errors="replace")


def _plain(value: str) -> str:
    """Return *value* as its sender meant it: http.client reads headers as Latin-1, servers write them in UTF-8."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
