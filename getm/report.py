"""What the command says of results and errors: lines for people, facts for programs, exit codes. Prints nothing."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence

from getm import errors
from getm.batch import Result
from getm.transfer import Copied

# What a failure exits with: that of the first class it is an instance of.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
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


def exit_code(error: BaseException | None) -> int:
    """Return what a failure exits with, 0 for None."""
    return 0 if error is None else next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def message(error: Exception) -> str:
    """Return one line that says what happened. Only texts known to be free of secrets are quoted."""
    if isinstance(error, errors.GetmError | errors.UsageError | errors.MissingExtra):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.filename}, line {place.lineno}: a fault of getm, please report it"


def failure(result: Result, error: Exception) -> str:
    """Return one line that says which file could not be had, and why; URLs alone may be alike without their queries."""
    place = "" if result.entry is None else f"{result.entry.place}: "
    return place + message(error)


def failure_of_original(result: Result, error: Exception) -> str:
    """Return the line that pipelines look for which were made for getm 0.0.5."""
    if isinstance(error, errors.IntegrityError):
        return "AssertionError: Checksum failed!"
    facts = {"message": message(error), "url": result.url, "status_code": getattr(error, "status", None)}
    return f"ERROR:getm.cli:{json.dumps(facts)}"


def facts(result: Result) -> dict[str, object]:
    """Return what became of one file, for JSON."""
    error, copied = result.error, result.copied
    found: dict[str, object] = {"url": result.url, "path": result.path}
    if copied is not None:
        found |= {name: getattr(copied, name) for name in ("size", "seconds", "resumed", "verified")}
        found |= {"digests": dict(copied.digests), "skipped": copied.is_skipped}
    if error is not None:
        found |= {"error": message(error), "kind": type(error).__name__, "status_code": getattr(error, "status", None)}
    return found


def summary(name: str, copied: Copied) -> str:
    """Return what was done, in one line."""
    if copied.is_skipped:
        text = f"{name}: is there already, {_bytes(copied.size)}"
    else:
        rate = (copied.size - copied.resumed) / max(copied.seconds, 1e-6)
        text = f"{name}: {_bytes(copied.size)} in {copied.seconds:.2f} s, {_bytes(rate)}/s"
    if copied.resumed:
        text += f", {_bytes(copied.resumed)} of it from before"
    if copied.verified is None:
        return f"{text}, not verified"
    return f"{text}, verified by {', '.join(copied.digests) or 'a digest'} of {copied.verified}"


def summary_of_all(results: Sequence[Result], total: int, seconds: float) -> str:
    """Return what was done of a manifest of *total* entries, in one line."""
    brought = [result.copied for result in results if result.copied is not None]
    size = sum(copied.size - copied.resumed for copied in brought if not copied.is_skipped)
    parts = {
        "copied": sum(not copied.is_skipped for copied in brought),
        "there already": sum(copied.is_skipped for copied in brought),
        "failed": sum(result.error is not None for result in results),
        "not begun": total - len(results),
        "verified": sum(copied.verified is not None for copied in brought),
    }
    counts = ", ".join(f"{count} {name}" for name, count in parts.items() if count or name in ("copied", "verified"))
    return f"{total} files: {counts}; {_bytes(size)} in {seconds:.2f} s, {_bytes(size / max(seconds, 1e-6))}/s"


def _bytes(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
