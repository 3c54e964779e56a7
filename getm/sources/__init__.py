"""Where an object's bytes come from: today HTTP and HTTPS."""

from __future__ import annotations

from collections.abc import Callable

from getm.config import Settings, Url
from getm.sources.base import UNTOLD, Answer, Body, Request, Source, Transport, Version
from getm.sources.http import HttpSource
from getm.sources.transport import known

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
]


def open_source(url: Url, settings: Settings, file: Callable[[], str] | None = None, *, forward: bool = False) -> Source:
    """Return the source for *url*, or for what it returns if it is callable; nothing is sent yet.

    What a server without ranges sends goes to the file whose path *file* returns, once there is such an answer; to a
    temporary one if that is None; or nowhere, if the object is read *forward* alone, and its size is known.

    Raises:
        UsageError: the URL or an option cannot be used.
    """
    return HttpSource(url, settings, file, forward=forward)
