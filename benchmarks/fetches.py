"""How each peer fetches many small objects, 16 at once."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from benchmarks.files import boto3_client, obstore_store
from benchmarks.jobs import BUCKET, Job

Fetch: TypeAlias = Callable[[str], bytes]
FetchAll: TypeAlias = Callable[[Sequence[str]], list[bytes]]
AT_ONCE = 16


def _by_threads(fetch: Fetch) -> FetchAll:
    pool = ThreadPoolExecutor(AT_ONCE)
    return lambda keys: list(pool.map(fetch, keys))


def _local(job: Job) -> FetchAll:
    return lambda keys: [Path(job.locate(key)).read_bytes() for key in keys]


def _getm(job: Job) -> FetchAll:
    import getm.api

    return _by_threads(lambda key: getm.read(job.locate(key)))


def _urllib3(job: Job) -> FetchAll:
    import urllib3

    pool = urllib3.PoolManager(maxsize=AT_ONCE)
    return _by_threads(lambda key: pool.request("GET", job.locate(key)).data)


def _requests(job: Job) -> FetchAll:
    import requests

    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=AT_ONCE))
    return _by_threads(lambda key: session.get(job.locate(key), timeout=30).content)


def _boto3(job: Job) -> FetchAll:
    client = boto3_client(job)
    return _by_threads(lambda key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def _obstore(job: Job) -> FetchAll:
    import obstore

    store = obstore_store(job)
    return _by_threads(lambda key: bytes(obstore.get(store, key).bytes()))


def _fsspec(job: Job) -> FetchAll:
    import fsspec
    import fsspec.implementations.http

    system = fsspec.filesystem("http")

    def fetch_all(keys: Iterable[str]) -> list[bytes]:
        urls = [job.locate(key) for key in keys]
        found = system.cat(urls, batch_size=AT_ONCE)
        return [found[url] for url in urls] if isinstance(found, dict) else [found]

    return fetch_all


def _aiohttp(job: Job) -> FetchAll:
    import aiohttp

    loop = asyncio.new_event_loop()

    async def start() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE))

    session = loop.run_until_complete(start())

    async def fetch(key: str) -> bytes:
        async with session.get(job.locate(key)) as answer:
            return await answer.read()

    async def fetch_all(keys: Sequence[str]) -> list[bytes]:
        return await asyncio.gather(*map(fetch, keys))

    return lambda keys: loop.run_until_complete(fetch_all(keys))


FETCHES: dict[str, Callable[[Job], FetchAll]] = {
    "local": _local,
    "getm": _getm,
    "urllib3": _urllib3,
    "requests": _requests,
    "boto3": _boto3,
    "obstore": _obstore,
    "fsspec": _fsspec,
    "aiohttp": _aiohttp,
}
