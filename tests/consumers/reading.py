"""Read one file as a consumer does: from disk, from disk while it is logged, and from a URL."""

import importlib
from dataclasses import dataclass

import getm
from tests.consumers.logged import Logged
from tests.consumers.table import Consumer


@dataclass(frozen=True)
class Figures:
    """What reading took.

    Attributes:
        size: bytes of the file.
        touched: bytes of the 16 KiB pieces that are read of a local file.
        requests: sent for it.
        fetched: bytes received.
    """

    size: int
    touched: int
    requests: int
    fetched: int


def run(consumer: Consumer, file) -> object:
    """Return what a consumer reads of a file."""
    names = {"file": file}
    for module in consumer.imports.split():
        importlib.import_module(module)
        root = module.partition(".")[0]
        names[root] = importlib.import_module(root)
    return eval(consumer.code, names)


def from_disk(consumer: Consumer, path) -> object:
    """Return what a consumer reads of a local file."""
    with open(path, "rb") as file:
        return run(consumer, file)


def logged(consumer: Consumer, path) -> tuple[object, int]:
    """Return what a consumer reads of a logged local file, and of how many bytes."""
    with Logged(path) as file:
        return run(consumer, file), file.touched


def from_url(consumer: Consumer, url, **options) -> tuple[object, getm.Stats]:
    """Return what a consumer reads by getm, and what that took."""
    with getm.open(url, **options) as file:
        return run(consumer, file), file.stats


def assert_same(expected, actual):
    """Check that two values, of whatever type of whatever package, are equal."""
    assert type(expected) is type(actual)
    if isinstance(expected, dict):
        assert list(expected) == list(actual)
        assert_same(list(expected.values()), list(actual.values()))
    elif isinstance(expected, list | tuple):
        assert len(expected) == len(actual)
        for one, other in zip(expected, actual, strict=True):
            assert_same(one, other)
    elif hasattr(expected, "equals"):  # of pandas, pyarrow, polars and xarray
        assert expected.equals(actual)
    elif hasattr(expected, "dtype"):
        import numpy as np

        np.testing.assert_array_equal(expected, actual)
    else:
        assert expected == actual
