"""Each consumer reads from a URL what it reads from disk, and fetches little more."""

from concurrent.futures import ThreadPoolExecutor

import dask
import pytest

from tests.consumers.reading import assert_same, from_disk, from_url, logged
from tests.consumers.table import CONSUMERS

pytestmark = pytest.mark.servers

ONE = pytest.mark.parametrize("local", CONSUMERS, indirect=True, ids=lambda consumer: f"{consumer.code}-{consumer.sample}")
EVERYWHERE = pytest.mark.parametrize(
    "local", [consumer for consumer in CONSUMERS if consumer.everywhere], indirect=True, ids=lambda consumer: consumer.code
)


@pytest.fixture(scope="module")
def local(request, sample):
    """Read a local file as one consumer does; return that consumer, what it read, of how much, and whether it closed it.

    What packages begin to hold for good when they read their first file is held before the test: it has a wider scope.
    """
    consumer = request.param
    for module in consumer.imports.split():
        pytest.importorskip(module)
    path = sample(consumer.sample)
    expected, touched, is_closed = logged(consumer, path)
    assert_same(from_disk(consumer, path), expected)
    return consumer, expected, touched, is_closed


@pytest.fixture(autouse=True)
def threads():
    """Have dask use threads that end with the test."""
    with ThreadPoolExecutor(2) as executor, dask.config.set(pool=executor):
        yield


@pytest.fixture
def engine(new_engine):
    """Make an engine in which nothing is kept yet."""
    return new_engine()


@ONE
def test_reads_the_same_and_fetches_little_more(local, nginx, engine):
    consumer, expected, touched, is_closed = local
    actual, stats, is_ours_closed = from_url(consumer, nginx.url(consumer.sample), engine=engine)
    assert_same(expected, actual)
    assert stats.fetched <= consumer.ratio * touched
    assert stats.requests <= consumer.requests
    assert is_closed == is_ours_closed


@EVERYWHERE
@pytest.mark.parametrize(("profile", "concurrency"), [("raw", None), ("raw", 1), ("wan", 8)])
def test_does_so_at_any_concurrency_and_distance(local, nginx, engine, profile, concurrency):
    consumer, expected, touched, _ = local
    url = nginx.url(consumer.sample, profile)
    actual, stats, _ = from_url(consumer, url, engine=engine, concurrency=concurrency)
    assert_same(expected, actual)
    assert stats.fetched <= consumer.ratio * touched
    assert stats.requests <= consumer.requests
