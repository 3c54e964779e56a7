"""What was measured is within the bounds, and what the README says."""

from tests.consumers.measure import README, rows, table
from tests.consumers.table import CONSUMERS


def test_each_consumer_has_figures_within_its_bounds():
    assert [(consumer.code, consumer.sample) for consumer in CONSUMERS] == [(code, sample) for code, sample, *_ in rows()]
    for consumer, (_, _, _, read, fetched, ratio, reason, requests, most) in zip(CONSUMERS, rows(), strict=True):
        assert (f"{consumer.ratio} x read", str(consumer.requests), consumer.reason) == (ratio, most, reason)
        assert int(fetched) <= consumer.ratio * int(read)
        assert int(requests) <= consumer.requests


def test_a_larger_bound_has_a_reason():
    assert [] == [consumer.code for consumer in CONSUMERS if (consumer.ratio > 1.2) != bool(consumer.reason)]


def test_the_readme_shows_them():
    assert table() in README.read_text()
