"""getm's reader behaves as the files everybody knows: one contract for io.BytesIO and for it."""

import io

import pytest

import getm
from tests.contract import FileContract, RandomOperationsContract, ReadOnlyFileContract


class TestBytesIO(FileContract, RandomOperationsContract):
    """The contract asks for nothing that is not so."""

    @pytest.fixture
    def make(self):
        return io.BytesIO


class TestReader(ReadOnlyFileContract):
    @pytest.fixture(params=[None, 1, 8], ids="concurrency-{}".format)
    def make(self, server, request):
        yield from opening(server, concurrency=request.param)


class TestReaderOfSmallBlocks(RandomOperationsContract):
    @pytest.fixture(params=[None, 1, 8], ids="concurrency-{}".format)
    def make(self, server, request):
        yield from opening(server, concurrency=request.param, block_size=65_536)


def opening(server, **options):
    """Yield what opens a reader on given bytes; close them all at the end."""
    opened = []

    def make(content):
        opened.append(getm.open(server.put(f"/{len(opened)}", content), **options))
        return opened[-1]

    yield make
    for file in opened:
        file.close()
