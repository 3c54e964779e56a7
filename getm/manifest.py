"""Manifests: lists of objects to copy, read and written in their several forms, and where each copy goes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from getm import uri
from getm.errors import UsageError

LONGEST_PATH = 4096
"""Linux takes no longer path; and what is done with one may take the square of its length."""
DEEPEST = 100
"""Levels of JSON within JSON: no manifest has ten, and Python writes fewer than a thousand."""

# Beside the target: what has come so far, and what is known about it.
_ENDINGS = ("", ".part", ".part.json")
_PATHS = ("filepath", "path", "out", "file-name", "filename")
_DIGESTS = ("sha512", "sha256", "sha1", "md5", "md5sum", "crc32c")
_SIZES = ("size", "file-size")

_DECODER = json.JSONDecoder()  # to make one takes longer than to read a line

_NOT_TEXT = re.compile("[\0\udc80-\udcff]")  # as decoded with surrogateescape
_NOT_BLANK = re.compile(r"[^ \t\n]")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE | re.ASCII)
_ARIA2_OPTION = re.compile(r"[ \t]+[a-z][a-z0-9-]*=")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,19}")
_NEVER_IN_A_PATH = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Entry:
    """One object of a manifest. Two are equal if they ask for the same.

    Attributes:
        url: http or https.
        path: of the file, relative to the folder of the copies; None for the name that URL or server give it.
        checksum: `algorithm:digest`, or the digest alone, or `null` for no verification; None if nothing is said.
        size: in bytes; None if nothing is said.
        headers: sent with every request for it.
        place: where in the manifest it stands: `entry 3` of an array, otherwise `line 7`.
        raw: what was said, with what getm does not know; None for a URL alone.
    """

    url: str = field(repr=False)
    path: str | None = None
    checksum: str | None = None
    size: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    place: str = field(default="", compare=False)
    raw: Mapping[str, object] | None = field(default=None, repr=False, compare=False)


def read(data: bytes) -> list[Entry]:
    """Return the entries of a manifest, whose form is known by its content.

    It is UTF-8 text, and a JSON array of objects or URLs; or such objects or URLs in JSON one after another, each on
    its line; or a table, separated by tabs, commas or semicolons, whose header has a `url`; or a list of URLs, one a
    line, with comments after `#`. Names of members and columns are those of the original getm (`url`, `filepath`,
    `checksum`, `checksum-algorithm`) and of Gen3, GDC and aria2, in upper or lower case, with `-` or `_`. Others are
    left alone. Where several name the path, the first in `_PATHS` holds; of several digests, the strongest.

    Raises:
        UsageError: it is no manifest; the text says where and what, and quotes nothing but redacted URLs.
    """
    text = _text(data)
    header = next((line for line in text.split("\n") if line.strip()), "")
    first, delimiter = header.lstrip()[:1], _delimiter(header)
    if not first:
        return []
    given: Iterable[tuple[str, object]]
    if first in "[{" or (first == '"' and delimiter is None):
        given = _from_json(text)
    elif delimiter is not None:
        given = _from_table(text, delimiter)
    else:
        given = _from_list(text)
    return [_entry(where, value) for where, value in given]


def entries(given: Iterable[object]) -> list[Entry]:
    """Return the entries that a program gives: URLs, objects as in a manifest, or entries.

    Raises:
        UsageError: one of them cannot be used; the text says which.
    """
    return [
        value
        if isinstance(value, Entry)
        else _entry(f"entry {number}", dict(value) if isinstance(value, Mapping) else value)
        for number, value in enumerate(given, 1)
    ]


def place(entries: Iterable[Entry], folder: str, *, allow_absolute: bool = False) -> list[str | None]:
    """Return the absolute path of each entry's target, None where only the server can name it.

    What matters of links and files is what is there now. A folder that is not there yet is no error.

    Args:
        entries: of one manifest.
        folder: which no target leaves, not even by a link.
        allow_absolute: whether a path may begin with `/`, and then lead anywhere.

    Raises:
        UsageError: a path cannot be that of a file in *folder*, or two entries are in each other's way: as one file, as
            file and folder, or as a file and the `.part` or `.part.json` beside another.
    """
    root = os.path.realpath(folder)
    targets: list[str | None] = []
    files: dict[str, str] = {}  # what is written, links resolved: the entry's place
    folders: dict[str, str] = {}  # what must be a folder for that
    for entry in entries:
        path = _path(entry, allow_absolute=allow_absolute)
        target = os.path.join(root, path) if path else None
        targets.append(target)
        if target is None:
            continue
        real = os.path.realpath(target)
        if not path.startswith("/") and not real.startswith(os.path.join(root, "")):
            raise UsageError(f"{entry.place}: {_shown(path)} leads out of the folder by a link")
        if real in files:
            raise UsageError(f"{files[real]} and {entry.place} have the same target {_shown(path)}")
        files[real] = entry.place
        parent = os.path.dirname(real)
        while parent not in folders:
            folders[parent] = entry.place
            parent = os.path.dirname(parent)
    for real, where in files.items():
        for ending in _ENDINGS:
            taken = real + ending
            other = folders.get(taken, files.get(taken) if ending else None)
            if other is not None:
                raise UsageError(f"{where} and {other} are in each other's way: both need {_shown(taken)}")
    return targets


def write(entries: Iterable[Entry]) -> str:
    """Return a manifest, a JSON array, that `read` reads back to equal entries; it holds what their *raw* holds."""
    return json.dumps([_member(entry) for entry in entries], indent=1) + "\n"


def _member(entry: Entry) -> dict[str, object]:
    if entry.raw is not None:
        return dict(entry.raw)
    said: dict[str, object] = {"url": entry.url, "path": entry.path, "checksum": entry.checksum, "size": entry.size}
    said["headers"] = dict(entry.headers)
    return {name: value for name, value in said.items() if value not in (None, {})}


def _text(data: bytes) -> str:
    """Return the text of a manifest, its lines ended by a line feed."""
    text = data.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    wrong = _NOT_TEXT.search(text)
    if wrong:
        number = text.count("\n", 0, wrong.start()) + 1
        raise UsageError(f"line {number}: a manifest is text in UTF-8, but this is binary or in another encoding")
    return text


def _delimiter(header: str) -> str | None:
    """Return what separates the cells of a table with that header, None if it is none."""
    if header.lstrip().startswith("#") or "://" in header:
        return None
    for delimiter in "\t,;":
        try:
            cells = next(csv.reader([header], delimiter=delimiter, strict=True, skipinitialspace=True))
        except csv.Error:
            continue
        if "url" in map(_name, cells):
            return delimiter
    return None


def _from_json(text: str) -> list[tuple[str, object]]:
    """Return the members of an array, or else the values that follow one another, with their places."""
    values = list(_values(text))
    array = values[0][1]
    if not isinstance(array, list):
        return values
    if len(values) > 1:
        raise UsageError(f"{values[1][0]}: something follows the end of the array")
    return [(f"entry {number}", value) for number, value in enumerate(array, 1)]


def _values(text: str) -> Iterator[tuple[str, object]]:
    stop, line = 0, 1
    while found := _NOT_BLANK.search(text, stop):
        start = found.start()
        line += text.count("\n", stop, start)
        value, stop = _value(text, start, f"line {line}")
        yield f"line {line}", value
        line += text.count("\n", start, stop)


def _value(text: str, start: int, where: str) -> tuple[object, int]:
    """Return the JSON value at *start*, and where it stops."""
    try:
        value, stop = _DECODER.raw_decode(text, start)
        problem = f"{where}: JSON of more than {DEEPEST} levels" if _is_too_deep(value) else ""
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: not valid JSON"
    except RecursionError:
        problem = f"{where}: JSON of too many levels"
    except ValueError:
        problem = f"{where}: JSON with a number of too many digits"
    if problem:  # not above: the decoder's error has the whole text, and would be the context of this one
        raise UsageError(problem)
    return value, stop


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        if not level:
            return False
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _from_table(text: str, delimiter: str) -> Iterator[tuple[str, object]]:
    """Yield the rows below the header as objects, with their places."""
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True, skipinitialspace=True)
    names: list[str] = []
    while True:
        where = f"line {rows.line_num + 1}"
        try:
            row = next(rows, None)
        except csv.Error:
            raise UsageError(f"{where}: a quote is not closed or stands within a cell, or a cell is too long") from None
        if row is None:
            return
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if not names:
            names = cells
        elif len(cells) == len(names):
            yield where, dict(zip(names, cells, strict=True))
        else:
            raise UsageError(
                f"{where}: {len(cells)} cells, and {len(names)} in the header: put cells that hold a separator in quotes"
            )


def _from_list(text: str) -> Iterator[tuple[str, object]]:
    """Yield the URLs of a list with their places."""
    for number, line in enumerate(text.split("\n"), 1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        if _ARIA2_OPTION.match(line):
            raise UsageError(f"line {number}: this looks like an input file of aria2, a form not understood yet")
        if not _URL.match(url):
            raise UsageError(
                f"line {number}: not a URL: a manifest is a JSON array, JSON lines, a table with a column `url`, "
                "or a list of URLs"
            )
        if url.split() != [url]:
            raise UsageError(f"line {number}: more than a URL: a list has one a line; a blank within it is written %20")
        yield f"line {number}", url


def _entry(where: str, given: object) -> Entry:
    """Return what an object or a URL asks for."""
    if isinstance(given, str):
        return Entry(_url(where, given), place=where)
    if not isinstance(given, dict):
        raise UsageError(f"{where}: an object or a URL is wanted, not {type(given).__name__}")
    said = {_name(name): value for name, value in given.items()}
    url = _string(where, said, "url")
    if url is None:
        raise UsageError(f"{where}: no url")
    return Entry(
        url=_url(where, url),
        path=_string(where, said, *_PATHS),
        checksum=_checksum(where, said),
        size=_size(where, said),
        headers=_headers(where, said),
        place=where,
        raw=given,
    )


def _name(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _first(said: Mapping[str, object], *names: str) -> tuple[str, object]:
    """Return the first of *names* that says something, and what; ("", None) if none does."""
    return next(((name, said[name]) for name in names if said.get(name) not in (None, "")), ("", None))


def _string(where: str, said: Mapping[str, object], *names: str) -> str | None:
    name, value = _first(said, *names)
    if value is None or isinstance(value, str):
        return value
    raise UsageError(f"{where}: {name} must be a string, not {type(value).__name__}")


def _url(where: str, url: str) -> str:
    if not _URL.match(url):  # whatever it is, it may be secret
        raise UsageError(f"{where}: its url is not of the form https://host/path")
    try:
        return uri.check(url)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _checksum(where: str, said: Mapping[str, object]) -> str | None:
    if said.get("checksum-algorithm", "") in (None, "null"):
        return "null"
    algorithm = _string(where, said, "checksum-algorithm")
    checksum = _string(where, said, "checksum")
    if algorithm is not None:
        if checksum is None:
            raise UsageError(f"{where}: a checksum-algorithm without checksum")
        return f"{algorithm}:{checksum}"
    name, _ = _first(said, *_DIGESTS)
    return checksum if checksum or not name else f"{name.removesuffix('sum')}:{_string(where, said, name)}"


def _size(where: str, said: Mapping[str, object]) -> int | None:
    name, value = _first(said, *_SIZES)
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63):
        return value
    raise UsageError(f"{where}: {name} must be a whole number of bytes")


def _headers(where: str, said: Mapping[str, object]) -> dict[str, str]:
    _, value = _first(said, "headers")
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return dict(value)
    raise UsageError(f"{where}: headers must be an object of strings, which a table cannot hold")


def _path(entry: Entry, *, allow_absolute: bool) -> str:
    """Return the normalised path of an entry, "" if it has none."""
    path = uri.name(entry.url) if entry.path is None else entry.path
    if entry.path is None and not path:
        return ""
    if _NEVER_IN_A_PATH.search(path):
        raise UsageError(f"{entry.place}: {_shown(path)} holds control characters or broken ones")
    if len(path.encode()) >= LONGEST_PATH:
        raise UsageError(f"{entry.place}: its path is longer than {LONGEST_PATH - 1} bytes")
    if os.path.basename(path) in ("", ".", ".."):
        raise UsageError(f"{entry.place}: {_shown(path)} names a folder: give the path of a file")
    if path.startswith("/"):
        if not allow_absolute:
            raise UsageError(f"{entry.place}: {_shown(path)} is absolute: give a path below the folder")
        return "/" + os.path.normpath(path).lstrip("/")  # POSIX lets two slashes stand, Linux does not tell them from one
    path = os.path.normpath(path)
    if path.startswith("../"):
        raise UsageError(f"{entry.place}: {_shown(path)} leads out of the folder")
    return path


def _shown(path: str) -> str:
    """Return *path* as errors quote it; a URL put in the wrong column stays secret."""
    return repr(uri.redact(path) if "://" in path else uri.printable(path))
