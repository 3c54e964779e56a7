"""Where an object's bytes come from: today HTTP and HTTPS."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from getm.config import Settings, Url
from getm.sources import connection
from getm.sources.base import UNTOLD, Answer, Body, Request, Source, Transport, Version
from getm.sources.http import HttpSource
from getm.sources.transport import HttpTransport

__all__ = [
    "UNTOLD",
    "Answer",
    "Body",
    "Request",
    "Source",
    "Transport",
    "Version",
    "known",
    "learn",
    "open_source",
    "open_transport",
]


def open_source(url: Url, settings: Settings, file: Callable[[], str] | None = None) -> Source:
    """Return the source for *url*, or for what it returns if it is callable; nothing is sent yet.

    What a server without ranges sends goes to the file whose path *file* returns, once there is such an answer; to a
    temporary one if that is None.

    Raises:
        UsageError: the URL or an option cannot be used.
    """
    return HttpSource(url, settings, file)


def open_transport() -> Transport:
    """Return a transport of this process's own."""
    return HttpTransport()


def known() -> list[str]:
    """Return what requests of this process have needed that takes long to read: paths, for another's `learn`."""
    return connection.trusted()


def learn(paths: Iterable[str]) -> None:
    """Read that before the first request, and before this process is forked."""
    for path in paths:
        connection.trust(path)
