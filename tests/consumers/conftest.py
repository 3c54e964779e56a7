"""The files that consumers read, and the warnings that are theirs."""

import pytest

from tests.consumers.samples import SAMPLES

IGNORED = [
    # Whoever drops a TextIOWrapper over a local file closes it; files warn of that.
    r"ignore:unclosed file <_io\.TextIOWrapper name='[^']*/genome\.fasta':ResourceWarning",
    # fastparquet asks pandas for an option that is going away.
    "ignore:The 'future.infer_string' option is deprecated",
]


def pytest_collection_modifyitems(items):
    for item in items:
        for ignored in IGNORED:
            item.add_marker(pytest.mark.filterwarnings(ignored))


@pytest.fixture(scope="session")
def sample(nginx):
    """Return a function that returns the path of a sample, which nginx serves under its name."""

    def path(name):
        path = nginx.root / name
        if not path.exists():
            SAMPLES[name](path)
        return path

    return path
