"""By getm+http:// URLs, whatever opens files by fsspec reads with getm."""

import gc
import io
import os
import pickle
import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta

import fsspec
import pytest
from fsspec.registry import known_implementations

import getm
from getm.contrib.fsspec import GetmFileSystem
from tests.consumers.reading import assert_same
from tests.consumers.samples import noise
from tests.content import ramp
from tests.servers.fault import Fault

SIZE = 3_000_000


@pytest.fixture
def url(server):
    return "getm+" + server.put("/a.bin", SIZE)


@pytest.fixture
def files():
    return fsspec.filesystem("getm+http", skip_instance_cache=True)


class TestFileSystem:
    @pytest.mark.parametrize("scheme", ["getm+http", "getm+https"])
    def test_is_registered(self, scheme):
        assert GetmFileSystem is fsspec.get_filesystem_class(scheme)

    def test_is_registered_for_nothing_else(self):
        assert ["getm+http", "getm+https"] == [name for name in fsspec.available_protocols() if "getm" in name]
        assert {"fsspec.implementations.http.HTTPFileSystem"} == {
            known_implementations[scheme]["class"] for scheme in ("http", "https")
        }

    def test_opens_a_reader(self, files, url):
        with files.open(url) as file:
            assert isinstance(file, getm.Reader)
            assert ramp(0, SIZE) == file.read()

    def test_options_are_those_of_open(self, server, url):
        with fsspec.open(url, headers={"X-Own": "7"}, concurrency=None) as file:
            assert ramp(0, 10) == file.read(10)
        assert ["7"] == [request.headers["X-Own"] for request in server.log]

    def test_an_unknown_option_is_a_type_error(self, url):
        with pytest.raises(TypeError, match="colour"):
            fsspec.open(url, colour="red")

    @pytest.mark.parametrize("mode", ["wb", "ab", "r+b", "xb"])
    def test_writing_is_refused(self, files, url, mode):
        with pytest.raises(getm.UsageError, match=mode):
            files.open(url, mode)

    def test_tells_of_an_object(self, files, url):
        assert SIZE == files.size(url)
        assert files.exists(url)
        assert files.isfile(url)
        assert not files.isdir(url)
        assert [url] == files.ls(url, detail=False) == files.glob(url)
        assert ("file", url) == (files.ls(url)[0]["type"], files.info(url)["name"])
        assert ramp(5, 10) == files.cat_file(url, 5, 10)
        assert url == files.unstrip_protocol(files._strip_protocol(url))

    def test_tells_when_it_was_modified(self, files, server, url):
        server.fail(Fault(headers={"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}), times=1)
        assert datetime(2015, 10, 21, 7, 28, tzinfo=UTC) == files.modified(url)

    def test_what_nobody_knows_to_be_old_is_new(self, files, server, url):
        server.fail(Fault(headers={"Last-Modified": None}), times=1)
        assert abs(datetime.now(UTC) - files.modified(url)) < timedelta(seconds=30)

    @pytest.mark.parametrize("path", ["getm+http://127.0.0.1:{port}/none", "test", "/tmp/file"])
    def test_what_is_not_there(self, files, url, path):
        path = path.format(port=url.split(":")[2].split("/")[0])
        assert not files.exists(path)
        with pytest.raises(FileNotFoundError):
            files.open(path)

    def test_what_is_not_there_keeps_its_secret(self, url):
        secret = "SIGNATURE".lower()  # the text of this line is in the traceback
        with pytest.raises(getm.BadStatus, match="404") as raised:
            fsspec.open(f"{url}-none?X-Amz-Signature={secret}").open()
        assert secret not in "".join(traceback.format_exception(raised.value))

    def test_whether_it_is_there_is_not_guessed(self, files, server, url):
        server.fail(Fault(status=403), times=None)
        with pytest.raises(getm.AccessDenied):
            files.exists(url)

    def test_the_query_is_no_pattern(self, url):
        with fsspec.open(url + "?X-Signature=[1*2]") as file:
            assert ramp(0, 10) == file.read(10)
        assert "1*2" not in str(file)

    def test_goes_to_another_process_with_its_options(self, url):
        files = fsspec.filesystem("getm+http", headers={"X-Own": "7"})
        again = pickle.loads(pickle.dumps(files))
        assert files == again
        assert {"headers": {"X-Own": "7"}} == again._options

    def test_a_file_that_is_dropped_is_closed_without_a_word(self, files, url):
        file = files.open(url)
        file.read(1)
        del file
        gc.collect()
        assert [] == getm.engine.default(8)._hub.feeds

    @pytest.mark.parametrize(("mode", "first"), [("rb", b"position"), ("rt", "position")])
    def test_infers_compression(self, nginx, sample, mode, first):
        sample("table.csv.gz")
        with fsspec.open("getm+" + nginx.url("table.csv.gz"), mode, compression="infer") as file:
            assert first == file.read(8)


class TestCaches:
    """fsspec's caches of whole files on disk."""

    WHOLE = pytest.mark.parametrize("cache", ["simplecache", "filecache"])

    @WHOLE
    def test_the_second_time_it_is_read_from_disk(self, server, url, tmp_path, cache):
        open_one = fsspec.open(f"{cache}::{url}", **{cache: {"cache_storage": str(tmp_path)}})
        asked = []
        for _ in range(2):
            with open_one as file:
                file.seek(SIZE // 2)
                assert ramp(SIZE // 2, SIZE) == file.read()
            asked.append(len(server.log))
        assert asked[0] == asked[1]

    @WHOLE
    def test_many_files(self, server, tmp_path, cache):
        urls = [f"{cache}::getm+" + server.put(f"/{number}.bin", 1000 + number) for number in range(3)]
        with fsspec.open_files(urls, **{cache: {"cache_storage": str(tmp_path)}}) as files:
            assert [ramp(0, 1000 + number) for number in range(3)] == [file.read() for file in files]

    @WHOLE
    def test_what_did_not_come_whole_is_not_kept(self, server, url, tmp_path, cache):
        open_one = fsspec.open(f"{cache}::{url}", **{cache: {"cache_storage": str(tmp_path)}})
        server.fail(Fault(status=404), when=lambda request: request.start > 0, times=None)
        for _ in range(2):
            with pytest.raises(getm.NotFound), open_one:
                raise AssertionError("opened")
        server.heal()
        with open_one as file:
            assert ramp(0, SIZE) == file.read()

    @pytest.mark.parametrize("cache", ["blockcache", "cached"])
    def test_one_of_blocks_is_refused(self, server, url, cache):
        with pytest.raises(getm.UsageError, match="simplecache"):
            fsspec.open(f"{cache}::{url}").open()

    def test_what_is_no_file_is_written_to(self, files, url):
        sink = io.BytesIO()
        files.get_file(url, sink)
        files.get_file(url, os.devnull)
        assert ramp(0, SIZE) == sink.getvalue()
        assert not os.path.isfile(os.devnull)


class TestByUrl:
    """Packages that take a URL take getm's."""

    @pytest.fixture(autouse=True)
    def collect(self):
        """Close what a package has dropped before it is looked for."""
        yield
        gc.collect()

    @pytest.fixture
    def url(self, nginx, sample):
        return lambda name: "getm+" + nginx.url(sample(name).name)

    @pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
    def test_pandas_reads_csv(self, url, sample, name):
        import pandas as pd

        found = pd.read_csv(url(name), storage_options={"concurrency": 2, "headers": {"X-Own": "7"}})
        assert_same(pd.read_csv(sample(name)), found)

    @pytest.mark.parametrize("columns", [None, ["noise"]])
    def test_pandas_reads_parquet(self, url, sample, columns):
        import pandas as pd

        found = pd.read_parquet(url("table.parquet"), columns=columns, storage_options={"concurrency": 2})
        assert_same(pd.read_parquet(sample("table.parquet"), columns=columns), found)

    def test_pyarrow_reads_a_data_set(self, url, sample, files):
        import pyarrow.dataset

        found = pyarrow.dataset.dataset(url("table.parquet"), filesystem=files).to_table(columns=["noise"])
        assert_same(pyarrow.dataset.dataset(sample("table.parquet")).to_table(columns=["noise"]), found)

    def test_zarr_reads_a_chunk_of_an_archive(self, url, nginx):
        """In an interpreter of its own, because zarr starts threads that stay, one after the other."""
        where = url("climate.zarr.zip")
        script = f"import zarr; print(zarr.open('zip::{where}', mode='r')[3].tobytes().hex())"
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        assert noise(40, 512, 512)[3].tobytes().hex() == found.strip()
        others = nginx.requests("climate.zarr.zip")  # in the order in which they ended
        (first,) = [request for request in others if request.range == "bytes=0-1048575"]
        others.remove(first)
        assert sum(request.sent for request in others) <= 512 * 512 + 4 * 64 * 1024

    @pytest.mark.filterwarnings("ignore:Dataset has no geotransform")  # nor has the local one
    def test_rasterio_reads_a_window(self, url, sample, files, nginx):
        import rasterio

        window = ((512, 1024), (512, 1024))
        with rasterio.open(sample("tiles.tif")) as expected, rasterio.open(url("tiles.tif"), opener=files) as found:
            assert_same(expected.read(1, window=window), found.read(1, window=window))
        assert sum(request.sent for request in nginx.requests("tiles.tif") if "=0-" not in request.range) <= 7 * 64 * 1024
