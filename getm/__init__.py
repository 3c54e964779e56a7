"""Read the bytes behind a URL as a fast, seekable file object.

`open` gives a file, `urlopen` and `iter_content` give memoryviews of shared memory, `read` gives a range, `copy` writes a
file, `copy_many` writes many. See the README.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a type checker need not wait
    from getm.api import *  # noqa: F403

__version__ = "0.1.0"

_PUBLIC = """
    AccessDenied BadStatus Copied Engine GetmError Info IntegrityError MissingExtra NotFound ObjectChanged
    RangeNotSupported Reader Result ShortRead SourceError Stats Stream Terms TransferTimeout UsageError WorkerError copy
    copy_many info iter_content open pipe read urlopen
""".split()  # noqa: SIM905  # thirty lines otherwise


def __getattr__(name: str) -> object:
    """Import all that is public when some of it is first used: `import getm` alone is not to cost the 100 ms of requests."""
    if name == "__all__":
        return _PUBLIC
    if name not in _PUBLIC:
        raise AttributeError(f"module 'getm' has no attribute {name!r}")
    return getattr(importlib.import_module("getm.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
