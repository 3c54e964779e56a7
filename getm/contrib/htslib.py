"""Let htslib read from file objects of this process, by names that begin with `getm:`.

     htslib: hread, hseek ──► hFILE.backend ──► _read, _seek ──► file.readinto
     pysam: raises, or ends ◄── -1 and errno ◄── Served.error ──► Served.check raises it

htslib opens a name by the handler of its scheme, as its plug-ins do (`hfile_internal.h`, which pysam ships), and calls back
by ctypes, which takes the interpreter's lock. So no thread of htslib's own may read, while pysam holds that lock and waits.

No exception gets through C. What a callback raises is kept, and raised when pysam has returned; pysam alone would take some
of these failures for the end of the file. What is raised before the first line of a callback, as by Ctrl-C, ctypes throws
away, and returns any number. That is found by what an `hFILE` says of itself: between callbacks its position is ours, and it
has come to its end at ours only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import secrets
import string
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from getm.config import KIB
from getm.errors import GetmError, MissingExtra
from getm.reader import Reader

try:
    import pysam
except ImportError as error:
    raise MissingExtra("pysam cannot be imported; pip install 'getm[pysam]'") from error

__all__ = ["Served", "pysam"]

_SCHEME = b"getm"
_SHOWN = string.punctuation.replace("#", "")
"""What is shown as it is of a URL in a name: `##idx##` would begin the name of an index."""
_PRIORITY = 50
"""Of one handler among several for a scheme, of which there are none for ours; htslib's own have 50 and 80."""
_BUFFER = 256 * KIB
"""Bytes that htslib reads at once. From the place that an index tells it reads on for up to 16,000 bases, until it comes to
those that were asked for: at 30 ms and concurrency=1 with 64 KiB in 1.7 requests a region, with 256 KiB and more in 1.4."""


class Served:
    """A file that htslib can open, as often as it likes, until it is closed here and by htslib.

    Args:
        file: to be read; it is closed in the end.
        url: of it, redacted.

    Attributes:
        name: by which htslib knows it, and shows it in its errors.
        error: what a callback has raised, and nobody has been told of.
        failure: what somebody has been told of, in words; htslib does not recover from it.
    """

    def __init__(self, file: Reader | io.BytesIO, url: str) -> None:
        self.file = file
        self.size = file.seek(0, io.SEEK_END)
        self.name = f"getm:{secrets.token_hex(8)}:{quote(url, safe=_SHOWN)}"
        self.error: BaseException | None = None
        self.failure = ""
        self._url = url
        self._handles: dict[int, _Handle] = {}  # what htslib has open of it, by address
        self._is_wanted = True
        _served[self.name.encode()] = self

    def close(self) -> None:
        """Close the file as soon as htslib has closed it, too. Twice is harmless."""
        self._is_wanted = False
        self.leave(0)

    def enter(self, address: int, handle: _Handle) -> None:
        """Note that htslib has it open."""
        self._handles[address] = handle

    def leave(self, address: int) -> None:
        """Note that htslib has closed it."""
        self._handles.pop(address, None)
        if not (self._is_wanted or self._handles):
            _served.pop(self.name.encode(), None)
            self.file.close()

    def keep(self, error: BaseException) -> int:
        """Keep what was raised for `check`, and return what C wants to hear."""
        self.error = self.error or error
        ctypes.set_errno(errno.EIO)
        return -1

    def check(self, cause: BaseException | None = None) -> None:
        """Raise what was kept; or else have what was raised instead say what was read.

        Args:
            cause: what pysam raises instead; or what was raised here, within.
        """
        mine = [handle for handle in list(self._handles.values()) if handle.thread == threading.get_ident()]
        if not all(handle.is_sound() for handle in mine):
            self.keep(_interrupted())
        error, self.error = self.error, None  # not to be kept: it may hold, by its traceback, what holds htslib's files open
        if error is not None:
            self.failure = f"{type(error).__name__}: {error}"
            raise error from cause
        if self.failure and not isinstance(cause, GetmError):
            raise GetmError(f"reading has failed before ({self.failure}): open the file again") from cause
        if cause is not None and not any(self._url in text for text in (str(cause), *getattr(cause, "__notes__", ()))):
            cause.add_note(f"while reading {self._url}")

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Raise what was kept in the block, in place of what it raises."""
        try:
            yield
        except Exception as error:
            self.check(error)
            raise
        self.check()


class _Backend(ctypes.Structure):
    """How an `hFILE` is read."""


class _HFile(ctypes.Structure):
    """What htslib has open. This much of it is public, as its functions in headers are compiled into other programs."""

    _fields_ = (
        ("buffer", ctypes.c_void_p),
        ("begin", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
        ("limit", ctypes.c_void_p),
        ("backend", ctypes.POINTER(_Backend)),
        ("offset", ctypes.c_int64),
        ("at_eof", ctypes.c_uint, 1),
        ("mobile", ctypes.c_uint, 1),
        ("readonly", ctypes.c_uint, 1),
        ("preserve", ctypes.c_uint, 1),
        ("has_errno", ctypes.c_int),
    )


class _Handler(ctypes.Structure):
    """How names of a scheme are opened."""


@dataclass
class _Handle:
    """What htslib has open, how far it has read, and in which thread of late."""

    served: Served
    hfile: _HFile
    position: int = 0
    thread: int = field(default_factory=threading.get_ident)

    def enter(self) -> None:
        """Note the thread in which htslib calls.

        Raises:
            GetmError: it is not where it was left.
        """
        self.thread = threading.get_ident()
        if not self.is_sound():
            raise _interrupted()

    def is_sound(self) -> bool:
        """Whether htslib is where it is by our count, as it must be but while it has called."""
        position: int = self.hfile.offset + self.hfile.end - self.hfile.buffer
        return position == self.position and not (self.hfile.at_eof and position < self.served.size)


_served: dict[bytes, Served] = {}  # by name
_handles: dict[int, _Handle] = {}  # by address of the hFILE

_Read = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, use_errno=True)
_Seek = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, use_errno=True)
_Close = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, use_errno=True)
_Open = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, use_errno=True)
_Backend._fields_ = (
    ("read", _Read),
    ("write", ctypes.c_void_p),
    ("seek", _Seek),
    ("flush", ctypes.c_void_p),
    ("close", _Close),
)
_Handler._fields_ = (
    ("open", _Open),
    ("isremote", ctypes.c_void_p),  # local: of others htslib copies the index to the current folder
    ("provider", ctypes.c_char_p),
    ("priority", ctypes.c_int),
    ("vopen", ctypes.c_void_p),
)


def _interrupted() -> GetmError:
    return GetmError("reading was interrupted: open the file again")


def _read(address: int, buffer: int, length: int) -> int:
    handle = _handles[address]
    served = handle.served
    try:
        handle.enter()
        served.file.seek(handle.position)  # of this thread: others may read the same file
        count = served.file.readinto((ctypes.c_char * length).from_address(buffer))
    except BaseException as error:  # noqa: BLE001  none may get through C
        return served.keep(error)
    handle.position += count
    return count


def _seek(address: int, offset: int, whence: int) -> int:
    handle = _handles[address]
    served = handle.served
    try:
        handle.enter()
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: handle.position, io.SEEK_END: served.size}[whence]
    except BaseException as error:  # noqa: BLE001
        return served.keep(error)
    if position < 0:
        ctypes.set_errno(errno.EINVAL)
        return -1
    handle.position = position
    return position


def _close(address: int) -> int:
    handle = _handles.pop(address)
    served = handle.served
    try:
        served.leave(address)
    except BaseException as error:  # noqa: BLE001
        return served.keep(error)
    return 0


def _open(name: bytes, mode: bytes) -> int | None:
    served = _served.get(name)
    if served is None or not mode.startswith(b"r") or b"+" in mode:
        ctypes.set_errno(errno.ENOENT if served is None else errno.EROFS)
        return None
    try:
        address: int = _library.hfile_init(ctypes.sizeof(_HFile), mode, _BUFFER)
        _library.hfile_set_blksize(address, _BUFFER)  # more than htslib gives at first
        hfile = _HFile.from_address(address)
        hfile.backend = ctypes.pointer(_backend)
        _handles[address] = handle = _Handle(served, hfile)
        served.enter(address, handle)
    except BaseException as error:  # noqa: BLE001
        served.keep(error)
        return None
    return address


def _load() -> ctypes.CDLL:
    """Return the htslib that pysam uses.

    Raises:
        MissingExtra: its plug-in interface is not the one that is known here.
    """
    library = ctypes.CDLL(pysam.libchtslib.__file__)
    try:
        library.hfile_init.argtypes = (ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
        library.hfile_init.restype = ctypes.c_void_p
        library.hfile_set_blksize.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        library.hfile_destroy.argtypes = (ctypes.c_void_p,)
        library.hfile_destroy.restype = None
        library.hfile_add_scheme_handler.argtypes = (ctypes.c_char_p, ctypes.POINTER(_Handler))
        library.hfile_add_scheme_handler.restype = None
        local = library.hfile_always_local, library.hfile_has_plugin
    except AttributeError as error:
        raise MissingExtra(f"{_UNKNOWN}: {error}") from error
    address = library.hfile_init(ctypes.sizeof(_HFile), b"r", 4096)
    hfile = _HFile.from_address(address)
    is_known = hfile.buffer == hfile.begin == hfile.end == hfile.limit - 4096 and not (hfile.offset or hfile.at_eof)
    library.hfile_destroy(address)
    if not (is_known and local):
        raise MissingExtra(f"{_UNKNOWN}: an hFILE has other fields")
    return library


_UNKNOWN = (
    f"getm cannot read for the htslib of pysam {pysam.__version__}; pip install 'getm[pysam]' installs one that it knows"
)
_library = _load()
_backend = _Backend(_Read(_read), None, _Seek(_seek), None, _Close(_close))
_handler = _Handler(_Open(_open), ctypes.cast(_library.hfile_always_local, ctypes.c_void_p), b"getm", _PRIORITY, None)
_library.hfile_has_plugin(_SCHEME)  # before this, or a first file, htslib has no table of schemes
_library.hfile_add_scheme_handler(_SCHEME, ctypes.byref(_handler))
for _kept in (_backend, _handler, _SCHEME):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))  # htslib has them for ever: longer than modules live
