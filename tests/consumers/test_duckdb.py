"""DuckDB reads one file from many threads without a lock: `seek` by each of them, then `read` by each of them."""

import threading

import duckdb
import pytest

import getm.engine
from getm.contrib.fsspec import GetmFileSystem

pytestmark = pytest.mark.servers

THREADS = 6


class Watched(GetmFileSystem):
    """A file system that knows which threads read."""

    cachable = False

    def __init__(self):
        super().__init__()
        self.threads = set()

    def _open(self, path, mode="rb", **options):
        file = super()._open(path, mode, **options)
        read = file.read

        def watched(size=-1):
            self.threads.add(threading.get_ident())
            return read(size)

        file.read = watched
        return file


@pytest.fixture
def files():
    return Watched()


@pytest.fixture
def connection(files):
    with duckdb.connect(config={"threads": THREADS}) as connection:
        connection.register_filesystem(files)
        yield connection


@pytest.mark.parametrize("profile", ["raw", "wan"])
def test_reads_row_groups_from_six_threads(connection, files, sample, nginx, profile):
    query = "SELECT * FROM read_parquet('{}') ORDER BY position"
    expected = duckdb.sql(query.format(sample("groups.parquet"))).df()
    for _ in range(15):
        files.threads.clear()
        found = connection.sql(query.format("getm+" + nginx.url("groups.parquet", profile))).df()
        assert expected.equals(found)
        assert len(files.threads) >= THREADS - 1  # one may come late, and find nothing left to do
        getm.engine.close_default()  # the next one fetches anew


def test_reads_one_column(connection, sample, nginx):
    path = sample("groups.parquet")
    url = nginx.url(path.name)
    ((expected,),) = duckdb.sql(f"SELECT sum(noise) FROM read_parquet('{path}')").fetchall()
    ((found,),) = connection.sql(f"SELECT sum(noise) FROM read_parquet('getm+{url}')").fetchall()
    assert expected == found


def test_reads_csv(connection, sample, nginx):
    query = "SELECT * FROM read_csv('{}')"
    expected = duckdb.sql(query.format(sample("table.csv"))).df()
    assert expected.equals(connection.sql(query.format("getm+" + nginx.url("table.csv"))).df())
