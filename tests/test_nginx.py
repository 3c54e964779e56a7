"""The real server stands in for two networks, and tells what it was asked."""

import pytest
import requests

from tests.content import ramp, write_ramp

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("profile", ["raw", "wan"])
def test_range_is_served_and_logged(nginx, profile):
    name = f"{profile}.bin"
    write_ramp(nginx.root / name, 200_000)
    with requests.Session() as session:
        for start in (0, 100_000):
            answer = session.get(nginx.url(name, profile), headers={"Range": f"bytes={start}-{start + 99}"})
            assert 206 == answer.status_code
            assert ramp(start, start + 100) == answer.content
    first, second = nginx.requests(name, at_least=2)
    assert (profile, "GET", f"/{name}", "bytes=0-99", 206, 100, 1, True) == (
        first.profile,
        first.method,
        first.path,
        first.range,
        first.status,
        first.sent,
        first.connection_requests,
        first.is_complete,
    )
    assert (first.connection, 2) == (second.connection, second.connection_requests)
    assert first.finished <= second.finished


def test_wan_delays_each_answer_and_limits_its_rate(nginx):
    write_ramp(nginx.root / "slow.bin", 5 * 2**20)
    assert 5 * 2**20 == len(requests.get(nginx.url("slow.bin", "wan"), timeout=60).content)
    requests.get(nginx.url("slow.bin", "wan"), headers={"Range": "bytes=0-0"}, timeout=60)
    whole, byte = nginx.requests("slow.bin", at_least=2)
    assert byte.seconds >= 0.030
    assert whole.seconds >= 0.030 + 0.085
