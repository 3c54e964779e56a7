"""A reader goes to another process as what to read, how, and which version of it."""

import copy
import pickle
import subprocess
import sys

import pytest

import getm
from tests.content import ramp
from tests.servers.fault import Fault

BLOCK = MIB = 2**20
SIZE = 3 * BLOCK + 5


@pytest.fixture
def url(server):
    return server.put("/a.bin", SIZE)


@pytest.mark.parametrize("concurrency", [None, 1, 4])
def test_position_options_and_version_are_kept(server, url, concurrency):
    with getm.open(url + "?key=1", concurrency=concurrency, headers={"X-Own": "7"}) as file:
        file.seek(2 * BLOCK)
        for again in (pickle.loads(pickle.dumps(file)), copy.copy(file)):
            with again:
                assert (file.url, file.etag, 2 * BLOCK) == (again.url, again.etag, again.tell())
                assert ramp(2 * BLOCK, SIZE) == again.read()
        assert ramp(2 * BLOCK, SIZE) == file.read()
    assert {("7", "key=1")} == {(request.headers["X-Own"], request.query) for request in server.log}


@pytest.mark.parametrize("size", [SIZE, 10])
def test_another_version_is_an_error(server, url, size):
    with getm.open(url) as file:
        pickled = pickle.dumps(file)
    server.put("/a.bin", size)
    with pytest.raises(getm.ObjectChanged, match=r"ETag|size"):
        pickle.loads(pickled)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_of_a_server_without_ranges(server, url, framing):
    server.fail(Fault(whole=True, framing=framing), times=None)
    with getm.open(url) as file:
        pickled = pickle.dumps(file)
    with pickle.loads(pickled) as again:
        assert ramp(0, SIZE) == again.read()
    server.put("/a.bin", SIZE)
    with pytest.raises(getm.ObjectChanged, match="ETag"):
        pickle.loads(pickled)


def test_dask_has_a_name_for_it_and_opens_nothing(server, url):
    with getm.open(url + "?key=1") as file, getm.open(url + "?key=1") as same, getm.open(url + "?key=2") as other:
        asked = len(server.log)
        assert file.__dask_tokenize__() == same.__dask_tokenize__()
        assert file.__dask_tokenize__() != other.__dask_tokenize__()
        same.seek(1)
        assert file.__dask_tokenize__() != same.__dask_tokenize__()
        assert asked == len(server.log)
        server.put("/a.bin", SIZE)
        with getm.open(url + "?key=1") as changed:
            assert file.__dask_tokenize__() != changed.__dask_tokenize__()


def test_between_two_lines_name_and_picture_tell_where_it_is(server):
    url = server.put("/lines", b"first\nsecond\nthird\n")
    with getm.open(url) as file, getm.open(url) as same:
        assert b"first\n" == next(iter(file))
        same.seek(6)
        assert file.__dask_tokenize__() == same.__dask_tokenize__()
        assert "at 6 of 19" in repr(file)


def test_a_closed_reader_is_refused(url):
    file = getm.open(url)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        pickle.dumps(file)


SCRIPT = """
import concurrent.futures, copy, multiprocessing, sys
import getm

def read(file):
    with file:
        return file.read(1000).hex()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    with getm.open(sys.argv[1]) as file, concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        readers = []
        for start in map(int, sys.argv[3:]):
            file.seek(start)
            readers.append(copy.copy(file))
        print(*pool.map(read, readers))
        for reader in readers:
            reader.close()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_processes_of_a_pool_read_by_themselves(url, tmp_path, method):
    (tmp_path / "script.py").write_text(SCRIPT)
    starts = [0, BLOCK - 500, 2 * BLOCK, SIZE - 1000]
    command = [sys.executable, tmp_path / "script.py", url, method, *map(str, starts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert [ramp(start, start + 1000).hex() for start in starts] == done.stdout.split()
    assert "" == done.stderr
