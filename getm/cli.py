"""The command `getm`: one copy, one line of text for an error, one exit code for its kind.

This file alone prints, exits and handles signals.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

import getm
from getm import errors, progress, uri

# What a failure exits with: that of the first class it is an instance of.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (click.UsageError, 2),
    (errors.UsageError, 2),
    (errors.NotFound, 3),
    (errors.AccessDenied, 4),
    (errors.IntegrityError, 6),
    (errors.ObjectChanged, 8),
    (errors.SourceError, 5),
    (errors.TransferTimeout, 5),
    (errors.WorkerError, 1),
    (OSError, 7),
    (Exception, 1),
)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_HELP_ENDING = """\b
Examples:
  getm https://host/reads.bam reads.bam
  getm -x 16 'https://bucket.s3.amazonaws.com/reads.bam?X-Amz-Signature=...'

\b
Exit codes:
  0    the file is there and complete
  1    an error that is none of these
  2    wrong usage
  3    the object does not exist
  4    access refused, or the URL has expired
  5    the network or the server gave out
  6    the bytes are not those that were promised
  7    the file cannot be written, or is there already
  8    the object changed while it was copied
  129  stopped by SIGHUP, as when a terminal is closed
  130  stopped by Ctrl-C
  143  stopped by SIGTERM
"""


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    code = run(sys.argv[1:])
    for number in _SIGNALS:  # what is left to do is short, and does not change the outcome
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Do what *arguments* ask for; on failure write one line to stderr.

    Returns:
        The exit code.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        return _command.main(list(arguments), prog_name="getm", standalone_mode=False) or 0
    except _Stopped as stopped:
        message, code = f"stopped by {stopped.signal.name}", 128 + stopped.signal
    except Exception as error:  # noqa: BLE001  # whatever it is: one line and a code
        message, code = _message(error), next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    print(f"getm: {uri.printable(message)}", file=sys.stderr)
    return code


def _check_file(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and "://" in value:
        raise click.BadParameter("this is a URL; getm copies one object at a time")
    if value == "-":
        raise click.BadParameter("getm does not write to stdout; for a file of this name give ./-")
    return value


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_HELP_ENDING,
)
@click.argument("url")
@click.argument("file", required=False, callback=_check_file)
@click.option(
    "-x",
    "--concurrency",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Range requests at once, each in a background process.",
)
@click.option(
    "--progress/--no-progress", "show", default=None, help="Draw a bar on stderr.  [default: if stderr is a terminal]"
)
@click.option("-q", "--quiet", is_flag=True, help="Write nothing but errors.")
@click.option("-f", "--force", is_flag=True, help="Without FILE: replace a file that is there already.")
@click.version_option(package_name="getm", message="%(prog)s %(version)s")
def _command(url: str, file: str | None, concurrency: int, show: bool | None, quiet: bool, force: bool) -> None:
    """Copy the object behind URL to FILE.

    FILE is replaced, once all bytes are there. Without FILE the copy goes to the current folder, under the name that
    the server gives the object, or the last part of the URL's path; a file of that name is left alone and an error.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Line())
    handler.addFilter(_Once())
    logging.basicConfig(handlers=[handler], level=logging.ERROR if quiet else logging.WARNING)
    path = _remote_name(url, force) if file is None else file
    getm.copy(url, path, concurrency=concurrency, progress=not quiet and progress.wanted(show))


def _remote_name(url: str, force: bool) -> str:
    """Return the name that the server, or else the URL, gives the object.

    Raises:
        UsageError: neither does.
        FileExistsError: such a file is there, and *force* is not set.
    """
    name = getm.info(url).name
    if name != uri.name(url):  # the server's, or that of a redirect: not to be trusted with a hidden file
        name = name.lstrip(". ")
    if not name:
        raise errors.UsageError(f"neither {uri.redact(url)} nor its server name a file: give a FILE")
    if os.path.lexists(name) and not force:
        raise FileExistsError(errno.EEXIST, "exists already: give another FILE, or --force to replace it", name)
    return name


class _Line(logging.Formatter):
    """Writes what is logged as one line of this command's."""

    def format(self, record: logging.LogRecord) -> str:
        """Return that line."""
        return f"getm: {uri.printable(record.getMessage())}"


class _Once(logging.Filter):
    """Lets nothing by that was said before."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether this is new."""
        text = record.getMessage()
        is_new = text not in self._said
        self._said.add(text)
        return is_new


class _Stopped(BaseException):
    """A signal asked for the end; like KeyboardInterrupt, no business of `except Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave what is under way in good order; the same signal once more ends the process on the spot."""
    signal.signal(number, signal.SIG_DFL)
    raise _Stopped(number)


def _message(error: Exception) -> str:
    """Return one line that says what happened. Only texts known to be free of secrets are quoted."""
    if isinstance(error, click.ClickException):  # quotes the arguments
        return re.sub(
            r"[a-z0-9+.-]+://.*",
            lambda url: uri.redact(url[0]),
            error.format_message(),
            flags=re.IGNORECASE | re.DOTALL,
        )
    if isinstance(error, errors.GetmError | errors.UsageError | errors.MissingExtra):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.filename}, line {place.lineno}: a fault of getm, please report it"
