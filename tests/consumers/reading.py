"""Read one file as a consumer does: from disk, from disk while it is logged, and from a URL."""

import importlib

import numpy as np

import getm
from tests.consumers.logged import Logged


def run(consumer, file):
    """Return what a consumer reads of a file."""
    names = {"file": file}
    for module in consumer.imports.split():
        importlib.import_module(module)
        package = module.partition(".")[0]
        names[package] = importlib.import_module(package)
    return eval(consumer.code, names)


def from_disk(consumer, path):
    """Return what a consumer reads of a local file."""
    with open(path, "rb") as file:
        return run(consumer, file)


def logged(consumer, path):
    """Return what a consumer reads of a logged local file, the bytes of all pieces of it, and whether it closes the file."""
    with Logged(path) as file:
        return run(consumer, file), file.touched, file.closed


def from_url(consumer, url, **options):
    """Return what a consumer reads by getm, what that took, and whether it closes the file."""
    with getm.open(url, **options) as file:
        return run(consumer, file), file.stats, file.closed


def assert_same(expected, actual):
    """Check that two values, of whatever type of whatever package, are equal."""
    assert type(expected) is type(actual)
    if isinstance(expected, dict):
        assert list(expected) == list(actual)
        assert_same(list(expected.values()), list(actual.values()))
    elif isinstance(expected, list | tuple):
        for one, other in zip(expected, actual, strict=True):
            assert_same(one, other)
    elif hasattr(expected, "equals"):  # of pandas, pyarrow, polars and xarray
        assert expected.equals(actual)
    elif hasattr(expected, "dtype"):
        np.testing.assert_array_equal(expected, actual)
    else:
        assert expected == actual
