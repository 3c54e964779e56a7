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
    "open_source",
    "open_transport",
]


def open_source(url: Url, settings: Settings, file: Callable[[], str] | None = None, *, forward: bool = False) -> Source:
    """Return the source for *url*, or for what it returns if it is callable; nothing is sent yet.

    What a server without ranges sends goes to the file whose path *file* returns, once there is such an answer; to a
    temporary one if that is None; or nowhere, if the object is read *forward* alone, and its size is known.

    Raises:
        UsageError: the URL or an option cannot be used.
    """
    return HttpSource(url, settings, file, forward=forward)


def open_transport(known: Iterable[str] = ()) -> Transport:
    """Return a transport of this process's own, once it has read what requests of another have needed, see below."""
    for path in known:
        connection.trust(path)
    return HttpTransport()


def known() -> list[str]:
    """Return what requests of this process have needed that takes long to read: paths, for `open_transport` in another."""
    return connection.trusted()
