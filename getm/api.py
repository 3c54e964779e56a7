"""The public names, imported as soon as one of them is used of `getm`, which has them all."""

from __future__ import annotations

from getm.about import Info, info
from getm.batch import Result, copy_many
from getm.engine import Engine, Stats
from getm.errors import (
    AccessDenied,
    BadStatus,
    GetmError,
    IntegrityError,
    MissingExtra,
    NotFound,
    ObjectChanged,
    RangeNotSupported,
    ShortRead,
    SourceError,
    TransferTimeout,
    UsageError,
    WorkerError,
)
from getm.opening import open, read  # noqa: A004  `getm.open` reads like the builtin
from getm.pipes import pipe
from getm.reader import Reader
from getm.stream import Stream, iter_content, urlopen
from getm.transfer import Copied, Terms, copy

__all__ = [
    "AccessDenied",
    "BadStatus",
    "Copied",
    "Engine",
    "GetmError",
    "Info",
    "IntegrityError",
    "MissingExtra",
    "NotFound",
    "ObjectChanged",
    "RangeNotSupported",
    "Reader",
    "Result",
    "ShortRead",
    "SourceError",
    "Stats",
    "Stream",
    "Terms",
    "TransferTimeout",
    "UsageError",
    "WorkerError",
    "copy",
    "copy_many",
    "info",
    "iter_content",
    "open",
    "pipe",
    "read",
    "urlopen",
]
