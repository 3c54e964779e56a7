"""What an interrupted copy leaves beside its target, and what the next one asks the server for."""

import json
import os

import pytest

import getm
from getm.ranges import subtract
from tests.servers.fault import Fault

CUT = 600_000  # bytes that each request brings which is not for the first byte of an object


def broken(server, url, path, **options):
    """Leave an unfinished copy: all requests but those for the first byte are cut, and the copy gives up."""
    server.fail(Fault(reset=CUT), when=lambda request: request.start > 0, times=None)
    with pytest.raises(getm.GetmError):
        getm.copy(url, path, **{"concurrency": None, "retries": 0, **options})
    server.heal()
    assert not os.path.exists(path)
    return said(path)


def said(path):
    """Return the record of an unfinished copy."""
    with open(f"{path}.part.json", encoding="utf-8") as file:
        return json.load(file)


def say(path, **facts):
    """Change the record of an unfinished copy."""
    record = {**said(path), **facts}
    with open(f"{path}.part.json", "w", encoding="utf-8") as file:
        json.dump(record, file)


def missing(record):
    """Return the ranges that a record does not name, in order."""
    return subtract((0, record["size"]), [tuple(span) for span in record["finished"]])


def asked(log, size):
    """Return which bytes requests were for, in order."""
    rest = [(0, size)]
    for request in log:
        rest = [left for gap in rest for left in subtract(gap, [(request.start, request.stop)])]
    return subtract((0, size), rest)
