"""What a server says of one object."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Unpack

from getm import config, integrity, uri
from getm.config import Options, Settings, Url
from getm.engine import first
from getm.sources import open_source


@dataclass(frozen=True)
class Info:
    """What a server says of an object.

    Attributes:
        url: where it is in the end, without user info, query and fragment.
        name: a file name for it: the server's, else the last segment of the URL's path; "" if there is none.
        size: in bytes; None if the server does not tell.
        etag: as sent, or None.
        last_modified: as sent, or None.
        ranges: whether it answers range requests; otherwise reading goes by way of a temporary file.
        digests: which the server promises, in hexadecimal, by algorithm, the best first.
    """

    url: str
    name: str
    size: int | None
    etag: str | None
    last_modified: str | None
    ranges: bool
    digests: Mapping[str, str] = field(default_factory=dict)


def info(url: Url, **options: Unpack[Options]) -> Info:
    """Return what the server says of the object behind a URL, for one request of one byte.

    Raises:
        GetmError: the object cannot be had.
        UsageError: a URL or option cannot be used.
    """
    return look(url, config.settings(options))


def look(url: Url, settings: Settings) -> Info:
    """Do what `info` does."""
    with closing(open_source(url, settings)) as source, closing(first(source, settings, 0, 1, spools=False)[0]) as body:
        answer = body.answer
    name = uri.disposition_name(answer.headers.get("content-disposition", "")) or uri.name(answer.url)
    version = answer.version
    size = version.size if version.size >= 0 else None
    digests: dict[str, str] = {}
    for promise in integrity.promised(answer.headers):
        digests.setdefault(promise.algorithm, promise.text)
    return Info(
        url=source.name,
        name=name,
        size=size,
        etag=version.etag,
        last_modified=version.last_modified,
        ranges=not answer.is_whole,
        digests=digests,
    )
