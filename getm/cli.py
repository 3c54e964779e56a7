"""The command `getm`: copies, one line of text for an error, one exit code for its kind.

This file alone prints, exits and handles signals. What it says of results and errors is in `report.py`.
"""

from __future__ import annotations

import atexit
import errno
import io
import json
import logging
import math
import os
import re
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, NoReturn

import click

import getm
from getm import batch, config, errors, manifest, options, progress, report, uri
from getm.about import look
from getm.batch import Batch, Result
from getm.engine import Engine
from getm.transfer import Copied, Copy, Terms

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LINES_HELD = 1000
_OPPOSITES = (("force", "no_clobber"), ("fail_fast", "continue_after_error"), ("info", "dry_run"))
_URL_IN_TEXT = re.compile(r"[a-z0-9+.-]+://.*", re.IGNORECASE | re.DOTALL)


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    for descriptor in range(3):  # else a file of ours might take the number of one that is closed, and get what others print
        with suppress(OSError):
            os.fstat(descriptor)
            continue
        os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:], forks=True)
    for number in _SIGNALS:  # what is left to do is short, and does not change the outcome
        signal.signal(number, signal.SIG_IGN)
    _exit(code)


def _exit(code: int) -> NoReturn:
    """Exit as `sys.exit` does, but without taking all modules apart, which is a tenth of the time of a small copy."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed
                stream.flush()
    except (OSError, ValueError):
        sys.exit(code)  # which tells of it
    atexit._run_exitfuncs()  # noqa: SLF001
    os._exit(code)


def run(arguments: Sequence[str], *, forks: bool = False) -> int:
    """Do what *arguments* ask for; on failure write one line to stderr.

    Args:
        arguments: of the command line.
        forks: whether background processes may be forked from this one.

    Returns:
        The exit code.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    engine = Engine(forks=forks)
    try:
        return _COMMAND.main(list(arguments), prog_name="getm", standalone_mode=False, obj=engine) or 0
    except _Stopped as stopped:
        message, code = f"stopped by {stopped.signal.name}", 128 + stopped.signal
    except click.ClickException as error:  # quotes the arguments
        message, code = _URL_IN_TEXT.sub(lambda url: uri.redact(url[0]), error.format_message()), error.exit_code
    except Exception as error:  # noqa: BLE001  # whatever it is: one line and a code
        message, code = report.message(error), report.exit_code(error)
    finally:
        engine.close()
    _say(message)
    return code


@dataclass(frozen=True)
class _Wish:
    """How the user wants to be told what happens.

    Attributes:
        show: whether to draw bars.
        summary: whether to end with a line of what was done.
        as_json: whether to print a JSON object for each file.
        is_compatible: whether errors are to look as the original getm's.
    """

    show: bool
    summary: bool
    as_json: bool
    is_compatible: bool


def _begin(context: click.Context, /, **given: Any) -> int:  # noqa: ANN401  # one parameter each would be thirty
    """Copy the object behind URL to FILE; - for stdout.

    FILE is replaced, once all bytes are there and verified; one that has the --checksum already is left alone. Without FILE
    the copy goes to the current folder, under the name that the server gives the object, or the last part of the URL's
    path; a file of that name is left alone, and an error if its size or time are others.
    """
    if context.args:  # perhaps the rest of a header that lacks quotes; click would quote it
        raise click.UsageError("too many arguments: give a URL and one FILE, and what holds blanks in quotes")
    is_quiet, verbosity = given["quiet"] or given["compat"], given["verbose"]
    is_shown = not is_quiet and progress.wanted(given["show"])
    wish = _Wish(
        show=is_shown and (verbosity < 2 or given["show"] is not None),
        summary=is_shown or (verbosity > 0 and not is_quiet),
        as_json=given["as_json"],
        is_compatible=given["compat"],
    )
    _set_up_logging(is_quiet, verbosity, is_held=wish.show)
    given["engine"] = context.obj
    try:
        return _do(given, wish)
    except BrokenPipeError:  # click would exit with 1
        _forget_stdout()
        return 128 + signal.SIGPIPE


def _do(given: dict[str, Any], wish: _Wish) -> int:
    """Find out what is to be done, and do it.

    Raises:
        click.UsageError: what is given makes no sense together.
    """
    file = given["output"] if given["file"] is None else given["file"]
    for one, other in _OPPOSITES:
        if given[one] and given[other]:
            names = (f"--{name}".replace("_", "-") for name in (one, other))
            raise click.UsageError(f"{' and '.join(names)} exclude each other")
    if given["listed"] is not None:
        if given["url"] or file is not None or given["checksum"] or given["info"]:
            raise click.UsageError("with a --manifest there is no URL, FILE, --checksum or --info: it names them")
        return _copy_listed(given, wish)
    if not given["url"] or None not in (given["file"], given["output"]):
        raise click.UsageError("give a URL, and one FILE if any; or a --manifest")
    if given["failed"] is not None or given["fail_fast"]:
        raise click.UsageError("--failed and --fail-fast are for a --manifest")
    if given["info"]:
        return _show_info(given, wish)
    if file == "-":
        if given["as_json"]:
            raise click.UsageError("--json and a copy to stdout exclude each other")
        return _pour(given, wish)
    return _copy_one(given, file, wish)


def _copy_one(given: dict[str, Any], file: str | None, wish: _Wish) -> int:
    """Copy one object."""
    settings, terms, url, folder = options.settings(given), options.terms(given), given["url"], given["folder"] or ""
    uri.check(url)
    path = None if file is None else os.path.join(folder, file)
    copied = error = None
    try:
        if path is None:
            path = batch.remote_target(url, folder, settings, force=given["force"])
        if given["no_clobber"]:
            batch.check_absent(path)
        if not given["dry_run"]:
            if folder and path.startswith(folder):
                os.makedirs(folder, exist_ok=True)
            watcher = progress.watcher(wish.show, uri.printable(os.path.basename(path)))
            copied = Copy(url, path, settings, terms, given["engine"], watcher).run()
    except Exception as failed:  # noqa: BLE001  # it is told below, in the form that was wished for
        error = failed
    if given["dry_run"] and error is None:
        _announce(url, path, wish)
        return 0
    return _conclude(Result(uri.redact(url), path, copied, error), wish)


def _pour(given: dict[str, Any], wish: _Wish) -> int:
    """Copy one object to stdout, in order."""
    settings, terms, url = options.settings(given), options.terms(given), given["url"]
    uri.check(url)
    if given["dry_run"]:
        _announce(url, "-", wish)
        return 0
    began = time.monotonic()
    try:
        size, verified = _write_out(given["engine"], url, settings, terms, wish)
        result = Result(uri.redact(url), "stdout", Copied("-", size, time.monotonic() - began, verified=verified))
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  # as above
        result = Result(uri.redact(url), "stdout", error=error)
    return _conclude(result, wish)


def _write_out(engine: Engine, url: str, settings: config.Settings, terms: Terms, wish: _Wish) -> tuple[int, str | None]:
    """Write an object to stdout; return its size, and who promised the digest that it has."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "is closed", "stdout")
    if terms.require_checksum and terms.checksum == "auto" and not look(url, settings).digests:
        raise errors.IntegrityError(f"{uri.redact(url)}: the server promises no digest, and none was given")
    common = {name: getattr(settings, name) for name in ("headers", "timeout", "retries", "deadline", "verify", "proxies")}
    began, rate = time.monotonic(), terms.limit_rate or math.inf
    length = config.paced_length(rate)
    watcher = progress.watcher(wish.show and not sys.stdout.isatty(), uri.printable(uri.name(url)))
    with getm.urlopen(url, concurrency=settings.concurrency, checksum=terms.checksum, engine=engine, **common) as stream:
        try:
            watcher.to(0, stream.size)
            while stream.tell() < stream.size:
                with stream.read(length) as part:
                    _write_all(sys.stdout.fileno(), part)
                watcher.to(stream.tell(), stream.size)
                time.sleep(max(0.0, began + stream.tell() / rate - time.monotonic()))
        finally:
            watcher.close()
        if terms.is_demanding and stream.verified is None:
            raise errors.IntegrityError(f"{uri.redact(url)}: its digest could not be verified")
        return stream.size, stream.verified


def _write_all(descriptor: int, part: memoryview) -> None:
    """Write bytes to a descriptor, also where whoever shares it has made it one that does not wait."""
    written = 0
    while written < len(part):
        try:
            written += os.write(descriptor, part[written:])
        except BlockingIOError:
            select.select([], [descriptor], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), "stdout") from error


def _copy_listed(given: dict[str, Any], wish: _Wish) -> int:
    """Copy all that a manifest lists."""
    entries = manifest.read(_contents(given["listed"]))
    folder, jobs, failed = given["folder"] or ".", given["jobs"], given["failed"]
    settings, terms = options.settings(given), options.terms(given)
    may_leave = given["allow_absolute"] or given["compat"]
    tasks = batch.plan(entries, folder, settings, terms, jobs=jobs, allow_absolute=may_leave)
    if given["dry_run"]:
        for task in tasks:
            _announce(task.entry.url, task.target, wish)
        return 0
    if failed is not None:
        _check_writable(failed)
        own = os.path.realpath(failed)
        if any(own in (task.target, f"{task.target}.part", f"{task.target}.part.json") for task in tasks):
            raise click.UsageError("--failed names a file that the manifest names, too")
    began = time.monotonic()
    board = progress.Board("all files") if wish.show else None
    work = Batch(tasks, folder, given["engine"], board, keeps_files=given["no_clobber"])
    try:
        work.run(jobs, lambda result: _print_facts(report.facts(result), wish), fail_fast=given["fail_fast"])
    finally:
        if board is not None:
            board.close()
        for result in work.results:
            _tell(result, wish)
        if failed is not None:
            _write_manifest(failed, work.unfinished)
    if wish.summary:
        _say(report.summary_of_all(work.results, len(entries), time.monotonic() - began))
    return max((report.exit_code(result.error) for result in work.results), default=0)


def _contents(path: str) -> bytes:
    """Return what a file holds, or stdin."""
    if path != "-":
        with open(path, "rb") as file:
            return file.read()
    if sys.stdin is None:
        raise OSError(errno.EBADF, "is closed", "stdin")
    return sys.stdin.buffer.read()


def _check_writable(path: str) -> None:
    """Find out, before hours are spent, that a file could not be written afterwards."""
    if path in ("", "-"):
        raise click.UsageError(f"--failed takes the path of a file, not {path!r}; for one of the name - give ./-")
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    folder = os.path.dirname(path) or "."
    os.stat(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)


def _write_manifest(path: str, entries: Sequence[manifest.Entry]) -> None:
    """Write a manifest, whole or not at all; it holds the URLs as they were given, so it is nobody else's."""
    text = manifest.write(entries)
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return
    import tempfile  # noqa: PLC0415  # takes 3 ms

    target = os.path.realpath(path)
    try:
        descriptor, fresh = tempfile.mkstemp(prefix=".getm-failed-", dir=os.path.dirname(target))
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(fresh, target)
        except BaseException:
            os.unlink(fresh)
            raise
    except OSError as error:
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)}: what has failed is not listed there", path) from error


def _show_info(given: dict[str, Any], wish: _Wish) -> int:
    """Print what the server says of an object."""
    if given["file"] is not None or given["output"] is not None:
        raise click.UsageError("with --info there is no FILE")
    url, settings = given["url"], options.settings(given)
    uri.check(url)
    try:
        facts = asdict(look(url, settings))
    except Exception as error:  # noqa: BLE001  # as above
        return _conclude(Result(uri.redact(url), None, error=error), wish)
    if given["as_json"]:
        _print(json.dumps(facts))
        return 0
    for name, value in facts.items():
        shown = ", ".join(f"{key}:{text}" for key, text in value.items()) if isinstance(value, dict) else value
        _print(f"{name + ':':15}{'unknown' if shown in (None, '') else uri.printable(str(shown))}")
    return 0


def _announce(url: str, path: str | None, wish: _Wish) -> None:
    """Print what would be copied where."""
    if wish.as_json:
        _print_facts({"url": uri.redact(url), "path": path}, wish)
    else:
        _print(f"{uri.redact(url)} -> {'(the name that the server gives)' if path is None else uri.printable(path)}")


def _conclude(result: Result, wish: _Wish) -> int:
    """Say what became of one copy, and return what to exit with."""
    _print_facts(report.facts(result), wish)
    _tell(result, wish)
    if wish.summary and result.copied is not None:
        _say(report.summary(os.path.basename(result.path or ""), result.copied))
    return report.exit_code(result.error)


def _tell(result: Result, wish: _Wish) -> None:
    """Say why a file could not be had, if it could not."""
    if result.error is None:
        return
    if wish.is_compatible:
        _print_error(report.failure_of_original(result, result.error))
    else:
        _say(report.failure(result, result.error))


def _set_up_logging(is_quiet: bool, verbosity: int, *, is_held: bool) -> None:
    """Have what getm logs written as lines of this command; held back for as long as bars are drawn, if *is_held*.

    What other packages log may tell secrets.
    """
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(_Line())
    if is_held:
        from logging.handlers import MemoryHandler  # noqa: PLC0415  # takes 6 ms

        handler = MemoryHandler(_LINES_HELD, flushLevel=logging.CRITICAL + 1, target=handler)
    handler.addFilter(_Once())
    logger = logging.getLogger("getm")
    logger.handlers[:] = [handler]
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logger.setLevel(logging.ERROR if is_quiet else levels[min(verbosity, 2)])


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


_COMMAND = options.take(_begin)


class _Stopped(BaseException):
    """A signal asked for the end; like KeyboardInterrupt, no business of `except Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave what is under way in good order; the same signal once more ends the process on the spot."""
    signal.signal(number, signal.SIG_DFL)
    raise _Stopped(number)


def _print_facts(facts: dict[str, object], wish: _Wish) -> None:
    if wish.as_json:
        _print(json.dumps(facts))


def _print(line: str) -> None:
    """Write a line to stdout, now."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "is closed", "stdout")
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget_stdout()
        raise OSError(error.errno, os.strerror(error.errno or 0), "stdout") from error


def _forget_stdout() -> None:
    """Have the interpreter not complain, when it ends, of a stdout that takes nothing."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _say(message: str) -> None:
    _print_error(f"getm: {uri.printable(message)}")


def _print_error(line: str) -> None:
    """Write a line to stderr, below what was held back."""
    for handler in logging.getLogger("getm").handlers:
        handler.flush()
    if sys.stderr is not None:
        with suppress(OSError):  # as when the terminal was closed; the exit code still tells
            print(line, file=sys.stderr)
