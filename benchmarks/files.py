"""How each peer gives a file: functions that import what they want, and return one that opens."""

import io
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.jobs import BUCKET, MIB, Job

Open: TypeAlias = Callable[[], AbstractContextManager[Any]]
MEMORY = {16: 256 * MIB, 32: 512 * MIB}  # bytes of blocks for an engine with so many connections, where not the default
CREDENTIALS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}


class Exact(io.RawIOBase):
    """A file each of whose reads is one request for just its bytes.

    Args:
        size: bytes of the object.
        fetch: returns the bytes of `[start, stop)`.
    """

    def __init__(self, size: int, fetch: Callable[[int, int], Any]) -> None:
        self._size = size
        self._fetch = fetch
        self._position = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be sought in."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> Any:  # noqa: ANN401  # whatever the peer returns, which is not copied for this
        """Fetch so many bytes, fewer only at the end."""
        stop = self._size if size is None or size < 0 else min(self._size, self._position + size)
        data = self._fetch(self._position, stop) if self._position < stop else b""
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  # any writable buffer
        """Fill the buffer, less only at the end."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _local(job: Job) -> Open:
    """Open the file that is served; nobody is measured by this, others are checked by it."""
    return lambda: Path(job.url).open("rb")


def _getm(job: Job) -> Open:
    """Open with so many connections, or none; an option that is no number is for the workload."""
    import getm.api  # all of it, before the clock starts

    @contextmanager
    def opened() -> Iterator[Any]:
        concurrency = int(job.option) if job.option.isdigit() else None
        options = {"concurrency": concurrency} if concurrency or job.option == "none" else {}
        memory = MEMORY.get(concurrency)
        if memory is None:
            with getm.open(job.url, **options) as file:
                yield file
        else:
            with closing(getm.Engine(memory=memory)) as engine, getm.open(job.url, engine=engine, **options) as file:
                yield file

    return opened


def _original(job: Job) -> Open:
    """Open by getm 0.0.5; it reads forwards only."""
    import getm

    return lambda: getm.urlopen(job.url, **({"concurrency": int(job.option)} if job.option else {}))


def _requests(job: Job) -> Open:
    """Open one answer, to be read forwards; or send a request for each read."""
    import requests

    @contextmanager
    def stream() -> Iterator[Any]:
        with requests.get(job.url, stream=True, timeout=30) as answer:
            yield answer.raw

    @contextmanager
    def stream_into() -> Iterator[Any]:
        with requests.get(job.url, stream=True, timeout=30) as answer:
            yield answer.raw._fp  # noqa: SLF001  # the quickest way that it has: into the caller's buffer

    @contextmanager
    def exact() -> Iterator[Any]:
        with requests.Session() as session:

            def fetch(start: int, stop: int) -> bytes:
                return session.get(job.url, headers={"Range": f"bytes={start}-{stop - 1}"}, timeout=30).content

            yield Exact(int(session.head(job.url).headers["Content-Length"]), fetch)

    return {"": stream, "readinto": stream_into, "ranges": exact}[job.option]


def _urllib3(job: Job) -> Open:
    import urllib3

    @contextmanager
    def opened() -> Iterator[Any]:
        with (
            urllib3.PoolManager(ca_certs=job.authority) as pool,
            closing(pool.request("GET", job.url, preload_content=False)) as answer,
        ):
            yield answer

    return opened


def _urllib(job: Job) -> Open:
    return lambda: urllib.request.urlopen(job.url)


def _fsspec(job: Job) -> Open:
    import fsspec
    import fsspec.implementations.http

    cache = {"default": {}, "readahead": {"cache_type": "readahead"}, "blockcache": {"cache_type": "blockcache"}}
    options = cache.get(job.option or "default", {"cache_type": job.option})
    return lambda: fsspec.filesystem("http").open(job.url, **options)


def _s3fs(job: Job) -> Open:
    import s3fs

    return lambda: s3fs.S3FileSystem(anon=True, endpoint_url=job.endpoint).open(f"{BUCKET}/{job.key}")


def _smart_open(job: Job) -> Open:
    import smart_open

    if job.option == "http":
        return lambda: smart_open.open(job.url, "rb")

    def opened() -> AbstractContextManager[Any]:
        return smart_open.open(f"s3://{BUCKET}/{job.key}", "rb", transport_params={"client": boto3_client(job)})

    import boto3  # noqa: F401  # before the clock starts

    return opened


def _remfile(job: Job) -> Open:
    import remfile

    return lambda: closing(remfile.File(job.url))


def boto3_client(job: Job) -> Any:  # noqa: ANN401  # boto3 makes its classes as it runs
    """Return a client of the server as an S3 store."""
    import boto3
    from botocore.config import Config

    config = Config(s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=job.endpoint, config=config, region_name="us-east-1", **CREDENTIALS)


def _boto3(job: Job) -> Open:
    """Open one answer; or have the whole object fetched into memory, in parallel."""
    import boto3  # noqa: F401  # before the clock starts

    @contextmanager
    def stream() -> Iterator[Any]:
        with closing(boto3_client(job).get_object(Bucket=BUCKET, Key=job.key)["Body"]) as body:
            yield body

    @contextmanager
    def download() -> Iterator[Any]:
        whole = io.BytesIO()
        boto3_client(job).download_fileobj(BUCKET, job.key, whole)
        whole.seek(0)
        yield whole

    return download if job.option == "download" else stream


def obstore_store(job: Job) -> Any:  # noqa: ANN401  # as the peer has it
    """Return the server as obstore's HTTP store."""
    import obstore.store

    options = {"allow_http": True, "timeout": "300s"}
    if job.authority:  # this store takes no authority of one's own
        options["allow_invalid_certificates"] = True
    return obstore.store.HTTPStore(job.bucket, client_options=options)


def _obstore(job: Job) -> Open:
    """Open its reader; or ask for each read's range."""
    import obstore

    @contextmanager
    def reader() -> Iterator[Any]:
        yield obstore.open_reader(obstore_store(job), job.key, buffer_size=8 * MIB if job.option == "reader 8M" else MIB)

    @contextmanager
    def exact() -> Iterator[Any]:
        store = obstore_store(job)

        def fetch(start: int, stop: int) -> memoryview:
            return memoryview(obstore.get_range(store, job.key, start=start, end=stop))

        yield Exact(obstore.head(store, job.key)["size"], fetch)

    return exact if job.option == "ranges" else reader


def pyarrow_store(job: Job) -> Any:  # noqa: ANN401  # as the peer has it
    """Return the server as pyarrow's own S3 store."""
    import pyarrow.fs

    address = job.endpoint.removeprefix("http://")
    return pyarrow.fs.S3FileSystem(anonymous=True, endpoint_override=address, scheme="http", region="us-east-1")


def _pyarrow(job: Job) -> Open:
    import pyarrow.fs  # noqa: F401  # before the clock starts

    def opened() -> AbstractContextManager[Any]:
        store = pyarrow_store(job)
        return (store.open_input_stream if job.option == "stream" else store.open_input_file)(f"{BUCKET}/{job.key}")

    return opened


def _megfile(job: Job) -> Open:
    """Open by its S3 or its HTTP door; the environment tells the endpoint."""
    import os

    os.environ |= {"AWS_ENDPOINT_URL_S3": job.endpoint, "OSS_ENDPOINT": job.endpoint, "AWS_S3_ADDRESSING_STYLE": "path"}
    import megfile

    where = job.url if job.option == "http" else f"s3://{BUCKET}/{job.key}"
    return lambda: megfile.smart_open(where, "rb")


def _cloudfiles(job: Job) -> Open:
    """Fetch the whole object into memory: it has no file."""
    import cloudfiles

    def opened() -> AbstractContextManager[Any]:
        return io.BytesIO(cloudfiles.CloudFiles(job.bucket, progress=False).get(job.key))

    return opened


OPENERS: dict[str, Callable[[Job], Open]] = {
    "local": _local,
    "getm": _getm,
    "original": _original,
    "requests": _requests,
    "urllib3": _urllib3,
    "urllib": _urllib,
    "fsspec": _fsspec,
    "s3fs": _s3fs,
    "smart_open": _smart_open,
    "remfile": _remfile,
    "boto3": _boto3,
    "obstore": _obstore,
    "pyarrow": _pyarrow,
    "megfile": _megfile,
    "cloudfiles": _cloudfiles,
}
