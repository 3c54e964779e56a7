"""Read the bytes behind a URL as a fast, seekable file object.

`open` gives a file, `urlopen` and `iter_content` give memoryviews of shared memory, `read` gives a range, `copy` writes a
file, `copy_many` writes many. See the README.
"""

from __future__ import annotations

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
from getm.pipe import pipe
from getm.reader import Info, Reader, info, open, read  # noqa: A004  `getm.open` reads like the builtin
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
__version__ = "0.1.0"
