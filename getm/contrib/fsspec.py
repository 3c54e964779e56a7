"""The file system of `getm+http://` and `getm+https://` URLs in fsspec, and so of all that opens files by it.

fsspec finds it by the entry points of this distribution, and imports it when the first such URL is opened. Plain http and
https URLs stay with fsspec's own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Unpack

import fsspec

import getm
from getm import config, uri
from getm.config import Options
from getm.engine import chosen
from getm.sources import open_source


class File(getm.Reader):
    """A reader that may be dropped open: pyarrow, fastparquet and DuckDB do so with what they open by fsspec."""

    def __del__(self) -> None:
        """Close it, without a word."""
        if getattr(self, "_feed", None) is not None:
            self.close()


class GetmFileSystem(fsspec.AbstractFileSystem):
    """Objects behind URLs, each a file that can be read; there are no folders.

    Threads may share a file, as DuckDB's do: a thread's seek holds for its own next read, whatever others do in between.

    `simplecache::` and `filecache::` keep whole objects on disk. `blockcache::` is refused: it notes blocks as there before
    they are, reads zeros if they do not come, and puts blocks of two versions of an object together.

    Args:
        **options: how objects are read, as `getm.open` takes them.

    Raises:
        TypeError: an option is unknown.
        UsageError: a value cannot be used.
    """

    protocol = ("getm+http", "getm+https")

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__()
        self._options = options
        self._settings = config.settings(options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        """Return *path*: those of this file system are whole URLs."""
        return path

    def _open(self, path: str, mode: str = "rb", **kwargs: object) -> File:
        """Open an object; how fsspec would buffer and commit it means nothing here.

        Raises:
            GetmError: the object cannot be had; no `NotFound` if the URL has a query.
            UsageError: it was to be written, or kept in blocks.
        """
        if mode != "rb":
            raise getm.UsageError(f"mode must be 'rb', not {mode!r}: an object is only read")
        if kwargs.get("cache_type") == "none" and "size" in kwargs:  # so only blockcache opens
            raise getm.UsageError("blockcache can give wrong bytes after a failure: take simplecache or filecache")
        engine = chosen(None, self._settings.concurrency)
        try:
            feed = engine.attach(open_source(_url(path), self._settings), self._settings)
        except getm.NotFound as error:
            if not any(mark in path for mark in "*?["):
                raise
            # Of a FileNotFoundError fsspec makes one of its own, which shows the whole path, query and all.
            raise getm.BadStatus(str(error), url=error.url, status=error.status) from None
        return File(engine, feed, self._settings)

    def get_file(self, rpath: str, lpath: object = None, **kwargs: object) -> None:
        """Copy an object to a file, which appears, or is another, only once all is there: caches believe in any that is.

        Raises:
            GetmError: the object cannot be had; nothing has changed.
            OSError: it cannot be written.
        """
        if (
            not isinstance(lpath, str | os.PathLike)
            or "outfile" in kwargs
            or (os.path.exists(lpath) and not os.path.isfile(lpath))
        ):
            super().get_file(rpath, lpath, **kwargs)
            return
        target = os.path.realpath(lpath)
        fresh = os.path.join(os.path.dirname(target), f".getm-{secrets.token_hex(8)}")
        try:
            super().get_file(rpath, fresh, **kwargs)
            os.replace(fresh, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)

    def info(self, path: str, **_kwargs: object) -> dict[str, object]:
        """Return name, size, type, and what the server says of the version.

        Raises:
            GetmError: the object cannot be had.
        """
        about = getm.info(_url(path), **self._options)
        version = {"etag": about.etag, "last_modified": about.last_modified}
        return {"name": path, "size": about.size, "type": "file", **version}

    def modified(self, path: str) -> datetime:
        """Return when the object was last modified: now, if its server does not say, so that no cache is relied on.

        Raises:
            GetmError: the object cannot be had.
        """
        said = getm.info(_url(path), **self._options).last_modified
        return datetime.now(UTC) if said is None else parsedate_to_datetime(said)

    def exists(self, path: str, **_kwargs: object) -> bool:
        """Say whether there is such an object.

        Raises:
            GetmError: that cannot be known.
        """
        try:
            self.info(path)
        except getm.NotFound:
            return False
        return True

    def ls(self, path: str, detail: bool = True, **_kwargs: object) -> list[dict[str, object]] | list[str]:  # noqa: FBT001, FBT002  # fsspec's
        """Return the object itself: servers do not tell what else there is."""
        return [self.info(path)] if detail else [path]

    def glob(self, path: str, **_kwargs: object) -> list[str]:
        """Return *path*, in which a question mark begins the query."""
        return [path]


def _url(path: str) -> str:
    """Return what getm calls a path of this file system.

    Raises:
        NotFound: it is none; rasterio looks for "test" to find out whether a file system works.
    """
    if not path.startswith(("getm+http:", "getm+https:", "http:", "https:")):
        raise getm.NotFound(f"there is no {uri.redact(path)!r}: paths begin with getm+http:// or getm+https://")
    return path.removeprefix("getm+")
