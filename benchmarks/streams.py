"""How each peer hands out an object from its first byte to its last, where that is not by `read` of a file."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias

from benchmarks.files import obstore_store
from benchmarks.jobs import MIB, Job

Consume: TypeAlias = Callable[[Any], None]
Run: TypeAlias = Callable[[], None]


def _concurrency(job: Job) -> dict[str, int]:
    """Return the number that ends the peer's name as an option, if there is one."""
    last = job.peer.split()[-1]
    return {"concurrency": int(last)} if last.isdigit() else {}


def _iter_content(job: Job, consume: Consume) -> Run:
    """Iterate, as getm of today and of old both do."""
    from getm import iter_content

    def run() -> None:
        for part in iter_content(job.url, **_concurrency(job)):
            consume(part)

    return run


def _urlopen(job: Job, consume: Consume) -> Run:
    """Read by MiB, and release each part, as the original wants it."""
    from getm import urlopen

    def run() -> None:
        with urlopen(job.url, **_concurrency(job)) as stream:
            while len(part := stream.read(MIB)):
                consume(part)
                part.release()

    return run


def _requests(job: Job, consume: Consume) -> Run:
    import requests

    def run() -> None:
        with requests.get(job.url, stream=True, timeout=30) as answer:
            for part in answer.iter_content(MIB):
                consume(part)

    return run


def _obstore(job: Job, consume: Consume) -> Run:
    import obstore

    def run() -> None:
        for part in obstore.get(obstore_store(job), job.key).stream(min_chunk_size=MIB):
            consume(memoryview(part))

    return run


def _aiohttp(job: Job, consume: Consume) -> Run:
    import aiohttp

    context = ssl.create_default_context(cafile=job.authority) if job.authority else True

    async def read() -> None:
        async with aiohttp.ClientSession() as session, session.get(job.url, ssl=context) as answer:
            async for part in answer.content.iter_any():
                consume(part)

    return lambda: asyncio.run(read())


STREAMS: dict[str, Callable[[Job, Consume], Run]] = {
    "getm iter_content": _iter_content,
    "getm urlopen": _urlopen,
    "original iter_content": _iter_content,
    "original urlopen": _urlopen,
    "requests iter_content": _requests,
    "obstore stream": _obstore,
    "aiohttp": _aiohttp,
}
