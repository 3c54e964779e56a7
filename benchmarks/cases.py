"""All that is measured, as a table."""

from collections.abc import Iterable

from benchmarks.case import GIB, KIB, MIB, Case, Target, quick
from benchmarks.data import Content

LARGE = Content("ramp", GIB)
SMALLER = Content("ramp", 256 * MIB)
WAN_READERS = (
    *("getm 8", "megfile", "megfile http", "boto3 download", "cloudfiles", "requests", "boto3", "obstore stream"),
    *("smart_open http", "smart_open s3", "fsspec readahead", "limit 8"),
)
RAW_READERS = (
    *("getm 1", "getm 8", "getm none", "requests", "requests readinto", "requests iter_content", "urllib3", "aiohttp"),
    *("obstore stream", "obstore reader", "obstore reader 8M", "fsspec default", "fsspec readahead", "fsspec blockcache"),
    *("fsspec background", "s3fs", "smart_open http", "smart_open s3", "remfile", "pyarrow", "pyarrow stream", "megfile"),
    *("megfile http", "boto3", "boto3 download", "cloudfiles", "original", "original 1", "original 4"),
    *("limit 1", "limit 8", "limit 8 fresh"),
)
STREAMERS = (
    *("getm 1", "getm iter_content", "getm iter_content 8", "getm urlopen", "getm urlopen 8"),
    *("original iter_content", "original iter_content 1", "original iter_content 4"),
    *("original urlopen", "original urlopen 1", "original urlopen 4"),
)
SECURE_READERS = ("getm 1", "getm 4", "urllib3", "requests", "aiohttp", "obstore stream", "limit 1", "limit 4")
OPENERS = (
    *("getm", "getm none", "requests", "requests ranges", "urllib3", "fsspec default", "obstore reader", "obstore ranges"),
    *("pyarrow", "remfile", "smart_open http", "smart_open s3", "s3fs", "boto3", "megfile", "megfile http"),
)
SEEKERS = (
    *("getm", "requests ranges", "obstore ranges", "obstore reader", "pyarrow", "remfile", "smart_open s3"),
    *("megfile", "fsspec default", "fsspec readahead", "fsspec blockcache"),
)
FORMAT_READERS = (
    *("getm", "requests ranges", "megfile", "smart_open http", "smart_open s3", "fsspec default", "fsspec readahead"),
    *("fsspec blockcache", "obstore reader"),
)
COPIERS = (
    *("getm -x1", "getm -x8", "getm -x16", "aria2c", "aria2c none", "axel", "curl", "wget", "rclone copyurl"),
    *("rclone copyto", "s5cmd"),
)
DOWNLOADERS = ("aria2c", "aria2c none", "curl", "wget", "rclone copyurl", "s5cmd")  # what pipelines call today
PARALLEL_COPIERS = ("getm -x8", "getm -x16", "getm -x16 crc32c", "aria2c", "axel", "rclone copyto", "s5cmd")
OTHERS = tuple(peer for peer in COPIERS if not peer.startswith("getm"))
SMALL_COPIERS = (
    *("getm", "getm crc32c", "getm md5", "aria2c", "aria2c none", "curl", "wget", "rclone copyurl", "rclone copy", "s5cmd"),
)

CASES = (
    Case(
        "first",
        "Import",
        "import",
        "raw",
        Content("ramp", MIB),
        ("getm", "requests", "urllib3", "obstore", "megfile"),
        "ms",
        (Target("getm", 1, ("requests",), "ms", plus=0.015),),
    ),
    *(
        Case(
            "first",
            "Open, and read 1 byte",
            "first",
            profile,
            SMALLER,
            OPENERS,
            "ms",
            (Target("getm", most, ("requests",), "ms", plus=plus),),
        )
        for profile, most, plus in (("wan", 1.05, 0.0), ("raw", 1, 0.001))
    ),
    Case(
        "random",
        "Read 64 KiB at 60 random places",
        "random",
        "wan",
        SMALLER,
        SEEKERS,
        "p50",
        (Target("getm", 1.05, ("obstore ranges",), "p50"), Target("getm", 1.1, ("obstore ranges",), "p95")),
    ),
    Case(
        "random",
        "Read 256 KiB and skip 4 MiB, 31 times",
        "skip",
        "wan",
        SMALLER,
        SEEKERS,
        targets=(Target("getm", 0.4, ("requests ranges",)),),
    ),
    Case(
        "read",
        "Read {size}",
        "sequential",
        "wan",
        SMALLER,
        (*WAN_READERS, "getm 16", "limit 16", "original 4", "remfile", "fsspec blockcache", "fsspec background", "pyarrow"),
        targets=(
            Target("getm 8", 1, ("megfile", "boto3 download")),
            Target("getm 16", 1, ("megfile", "boto3 download")),
        ),
    ),
    Case(
        "read",
        "Read {size}",
        "sequential",
        "wan",
        LARGE,
        ("getm 8", "getm 16", "megfile", "boto3 download", "limit 8", "limit 16"),
        targets=(
            Target("getm 8", 1, ("megfile", "boto3 download")),
            Target("getm 8", 1 / 0.85, connections=8),
            Target("getm 16", 1 / 0.8, connections=16),
            Target("getm 8", 1, figure="memory", floor=180 * MIB),
        ),
        looks=True,
    ),
    Case(
        "read",
        "Read {size}",
        "sequential",
        "uneven",
        SMALLER,
        ("getm 8", "getm 16", "megfile", "boto3 download", "cloudfiles"),
        targets=(Target("getm 8", 1, ("megfile", "boto3 download", "cloudfiles")),),
    ),
    Case(
        "read",
        "Read {size}",
        "sequential",
        "raw",
        LARGE,
        RAW_READERS,
        targets=(
            Target("getm 1", 1, ("obstore stream", "fsspec readahead", "megfile")),
            Target("getm 8", 1, ("obstore stream", "fsspec readahead", "megfile")),
            Target("getm 1", 1.3, ("limit 1",)),
            Target("getm 8", 1.3, ("limit 8",)),
            Target("getm none", 1.1, ("requests readinto",)),
            Target("getm 8", 1, figure="memory", floor=100 * MIB),
        ),
        looks=True,
    ),
    Case(
        "read",
        "Read {size} by iter_content and urlopen",
        "sequential",
        "raw",
        LARGE,
        STREAMERS,
        targets=(
            Target("getm iter_content", 1, tuple(peer for peer in STREAMERS if peer.startswith("original iter"))),
            Target("getm urlopen", 1, tuple(peer for peer in STREAMERS if peer.startswith("original url"))),
            Target("getm iter_content", 1, ("getm 1",), "CPU"),
            Target("getm urlopen", 1, ("getm 1",), "CPU"),
        ),
    ),
    *(
        Case(
            "https",
            f"Read {{size}}, {title}",
            "sequential",
            "https",
            LARGE,
            SECURE_READERS,
            targets=(Target("getm 1", most, ("urllib3",)), Target("getm 4", most, ("urllib3",))),
            compute=compute,
        )
        for title, compute, most in (("idle consumer", 0.0, 1.15), ("consumer computes 3 ms a MiB", 0.003, 1))
    ),
    Case(
        "formats",
        "Parquet: 2 of 30 columns of {size}",
        "parquet",
        "wan",
        Content("parquet", 200_000_000),
        (*FORMAT_READERS, "getm prefetch", "pyarrow", "s3fs"),
        targets=(
            Target("getm", 0.65, ("requests ranges",)),
            Target("getm prefetch", 1.15, ("pyarrow",)),
        ),
    ),
    Case(
        "formats",
        "CSV: all of {size}",
        "csv",
        "wan",
        Content("csv", 50_000_000),
        (*FORMAT_READERS, "remfile"),
    ),
    Case(
        "formats",
        "Zip: 30 of 500 members of {size}",
        "zip",
        "wan",
        Content("zip", 200_000_000),
        FORMAT_READERS,
        targets=(Target("getm", 0.5, ("requests ranges",)),),
    ),
    Case(
        "formats",
        "HDF5: 2 slices of an array of {size}",
        "hdf5",
        "wan",
        Content("hdf5", 200_000_000),
        (*FORMAT_READERS, "remfile"),  # pyarrow and zipfile do not take its files
        targets=(Target("getm", 0.75, ("requests ranges",)),),
    ),
    *(
        Case(
            "many",
            "Fetch 200 objects of 100 KiB, 16 at once",
            "many",
            profile,
            Content("ramp", 100 * KIB, 201),
            ("getm", "getm --manifest", "urllib3", "requests", "boto3", "obstore", "fsspec", "aiohttp"),
            targets=(Target("getm", 1.1, ("urllib3",)),),
        )
        for profile in ("wan", "raw")
    ),
    Case(
        "copy",
        "Copy {size}",
        "copy",
        "wan",
        SMALLER,
        (*COPIERS, "getm -x16 crc32c", "getm -x16 md5"),
        targets=(Target("getm -x16 crc32c", 1.1, ("aria2c",)), Target("getm -x16 md5", 1.5, ("aria2c",))),
        destination="tmpfs",
    ),
    Case(
        "copy",
        "Copy {size}",
        "copy",
        "uneven",
        SMALLER,
        PARALLEL_COPIERS,
        targets=(Target("getm -x16", 1, tuple(peer for peer in PARALLEL_COPIERS if not peer.startswith("getm"))),),
        destination="tmpfs",
    ),
    *(
        Case(
            "copy",
            "Copy {size}",
            "copy",
            "wan",
            LARGE,
            (*COPIERS, "getm -x16 crc32c", "getm -x16 md5"),
            targets=tuple(Target(peer, 1.1, OTHERS) for peer in ("getm -x16", "getm -x16 crc32c")),
            destination=destination,
        )
        for destination in ("tmpfs", "disk")
    ),
    *(
        Case(
            "copy",
            "Copy {size}",
            "copy",
            profile,
            LARGE,
            (*COPIERS, "getm -x8 crc32c"),
            targets=(Target("getm -x8", 1.05, OTHERS), Target("getm -x8 crc32c", 1.1, DOWNLOADERS)),
            destination=destination,
        )
        for profile in ("raw", "https")
        for destination in ("tmpfs", "disk")
    ),
    *(
        Case(
            "copy",
            "Copy {count} objects of 100 KiB",
            "copies",
            "raw",
            Content("ramp", 100 * KIB, 2000),
            SMALL_COPIERS,
            targets=(Target("getm", 1.1, ("aria2c", "rclone copyurl", "rclone copy")),),
            destination=destination,
        )
        for destination in ("tmpfs", "disk")
    ),
    Case(
        "cpu",
        "CPU seconds of reads of 1 and 4 GiB",
        "sequential",
        "raw",
        LARGE,
        ("getm 1", "getm 8", "getm none", "requests", "requests readinto", "obstore stream", "megfile", "limit 8"),
        "cpu of all",
        (Target("getm 8", 1, figure="slope", floor=0.5),),
        axis="MiB",
        points=(1024, 4096),
    ),
    Case(
        "growth",
        "Read {size} over more connections",
        "sequential",
        "wan",
        LARGE,
        ("getm", "limit"),
        targets=(Target("getm", 1.5, ("getm",), "CPU", point=32, against_point=8),),
        axis="connections",
        points=(1, 2, 4, 8, 16, 32),
    ),
    Case(
        "growth",
        "Read larger objects",
        "sequential",
        "raw",
        Content("sparse", 0),
        ("getm 8", "getm 1", "requests readinto", "limit 8"),
        axis="MiB",
        points=(1, 10, 100, 1024, 10240),
    ),
    Case(
        "growth",
        "Keep more readers open",
        "idle",
        "raw",
        SMALLER,
        ("getm",),
        "KiB a reader",
        (Target("getm", 1, figure="KiB a reader", floor=20, point=1000),),
        axis="readers",
        points=(1, 10, 100, 1000),
    ),
    Case(
        "growth",
        "Read 64 KiB at random places of one reader by more threads",
        "threads",
        "wan",
        SMALLER,
        ("getm",),
        "reads a second",
        axis="threads",
        points=(1, 2, 4, 8, 16),
    ),
    Case(
        "growth",
        "Read 4 KiB of what is there already",
        "hits",
        "raw",
        Content("ramp", 0),
        ("getm",),
        "us a read",
        (Target("getm", 1.25, ("getm",), "us a read", point=96, against_point=8),),
        axis="MiB",
        points=(2, 8, 32, 96),
    ),
)


def find(names: Iterable[str]) -> list[Case]:
    """Return the cases of these names, whole or quick, in their order."""
    wanted = set(names)
    known = {case.name: case for case in (*map(quick, CASES), *CASES)}
    return [known[name] for name in dict.fromkeys(case.name for case in (*CASES, *map(quick, CASES))) if name in wanted]
