"""The files that consumers read, written when first asked for."""

import pytest

from tests.consumers.samples import SAMPLES


@pytest.fixture(scope="session")
def sample(nginx):
    """Return a function that returns the path of a sample, which nginx serves under its name."""

    def path(name):
        path = nginx.root / name
        if not path.exists():
            SAMPLES[name](path)
        return path

    return path
