"""A reader goes to other processes as dask, executors and data loaders send it there."""

import hashlib
import multiprocessing
import multiprocessing.resource_tracker
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

import getm
from tests.consumers.reading import assert_same
from tests.content import ramp

pytestmark = pytest.mark.servers

PARTS = range(0, 5_000_000, 1_000_000)


def digest(file, start):
    """Read a part, in another process."""
    with file:
        file.seek(start)
        return hashlib.sha256(file.read(1_000_000)).hexdigest()


@pytest.fixture(scope="session")
def tracker():
    """Start the process that multiprocessing keeps for good beside those it spawns."""
    multiprocessing.resource_tracker.ensure_running()


@pytest.fixture
def spawned(tracker):
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.mark.parametrize("concurrency", [None, 1, 8])
def test_spawned_workers_read_parts(nginx, sample, spawned, concurrency):
    sample("content.bin")
    with getm.open(nginx.url("content.bin"), concurrency=concurrency) as file:
        found = list(spawned.map(digest, [file] * len(PARTS), PARTS))
    assert [hashlib.sha256(ramp(start, start + 1_000_000)).hexdigest() for start in PARTS] == found


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_dask_computes_a_chunked_data_set(nginx, sample, spawned, scheduler):
    import dask
    import xarray

    with xarray.open_dataset(sample("climate.nc"), engine="h5netcdf") as data:
        expected = data.max("time").load()
    with (
        ThreadPoolExecutor(2) as threads,
        getm.open(nginx.url("climate.nc")) as file,
        xarray.open_dataset(file, engine="h5netcdf", chunks={"time": 5}) as data,
        dask.config.set(scheduler=scheduler, pool=spawned if scheduler == "processes" else threads),
    ):
        assert_same(expected, data.max("time").compute())


class Parts:
    """A data set of torch: the parts of a file."""

    def __init__(self, file):
        self.file = file

    def __len__(self):
        return len(PARTS)

    def __getitem__(self, number):
        return hashlib.sha256(self.file.read_at(PARTS[number], 1_000_000)).hexdigest()


def test_torch_loads_data_by_workers(nginx, sample, tracker):
    torch = pytest.importorskip("torch")
    sample("content.bin")
    with getm.open(nginx.url("content.bin")) as file:
        found = list(torch.utils.data.DataLoader(Parts(file), None, num_workers=2, multiprocessing_context="spawn"))
    assert [hashlib.sha256(ramp(start, start + 1_000_000)).hexdigest() for start in PARTS] == found
