"""Each consumer reads from a URL what it reads from disk, and fetches little more."""

import pytest

from tests.consumers.reading import assert_same, from_disk, from_url, logged
from tests.consumers.table import CONSUMERS

pytestmark = pytest.mark.servers


@pytest.fixture
def engine(new_engine):
    """Make an engine in which nothing is kept yet."""
    return new_engine()


@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda consumer: consumer.code)
def test_reads_the_same_and_fetches_little_more(consumer, sample, nginx, engine):
    for module in consumer.imports.split():
        pytest.importorskip(module)
    path = sample(consumer.sample)
    expected = from_disk(consumer, path)
    again, touched = logged(consumer, path)
    actual, stats = from_url(consumer, nginx.url(consumer.sample), engine=engine)
    assert_same(expected, again)
    assert_same(expected, actual)
    assert stats.fetched <= consumer.ratio * touched
    assert stats.requests <= consumer.requests
