"""Read a little of a large file in a format that is made for that."""

import random
import time
import zipfile
import zlib
from typing import Any

from benchmarks.files import OPENERS, pyarrow_store
from benchmarks.jobs import BUCKET, Job, Outcome, Work

COLUMNS = ["column07", "column21"]
MEMBERS = 30  # read of a zip file


def parquet(job: Job) -> Work:
    """Read two columns of thirty."""
    import pyarrow.parquet

    opener = OPENERS[job.name](job) if job.peer != "pyarrow" else None

    def table() -> Any:  # noqa: ANN401  # a table of pyarrow
        if opener is None:
            return pyarrow.parquet.read_table(f"{BUCKET}/{job.key}", columns=COLUMNS, filesystem=pyarrow_store(job))
        with opener() as file:
            if job.option.endswith("prefetch"):
                file.prefetch(_chunks(pyarrow.parquet.ParquetFile(file).metadata))
            return pyarrow.parquet.read_table(file, columns=COLUMNS)

    def work() -> Outcome:
        began = time.perf_counter()
        columns = table()
        seconds = time.perf_counter() - began
        check = 0
        for chunk in (chunk for column in columns.columns for chunk in column.chunks):
            check = zlib.crc32(chunk.to_numpy(), check)
        return Outcome(seconds, check, columns.nbytes)

    return work


def _chunks(metadata: Any) -> list[tuple[int, int]]:  # noqa: ANN401  # as pyarrow has it
    """Return where the columns are that are read: `[start, stop)` of each of their chunks."""
    ranges = []
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        for column in (group.column(number) for number in range(group.num_columns)):
            if column.path_in_schema in COLUMNS:
                start = min(place for place in (column.dictionary_page_offset, column.data_page_offset) if place is not None)
                ranges.append((start, start + column.total_compressed_size))
    return ranges


def rows(job: Job) -> Work:
    """Read a table as text."""
    import pandas as pd

    opener = OPENERS[job.name](job)

    def work() -> Outcome:
        began = time.perf_counter()
        with opener() as file:
            table = pd.read_csv(file)
        seconds = time.perf_counter() - began
        check = zlib.crc32(table.to_numpy().tobytes())
        return Outcome(seconds, check, int(table.memory_usage().sum()))

    return work


def members(job: Job) -> Work:
    """Read some members of a zip file."""
    opener = OPENERS[job.name](job)

    def work() -> Outcome:
        check, size = 0, 0
        began = time.perf_counter()
        with opener() as file, zipfile.ZipFile(file) as archive:
            for name in random.Random(2).sample(archive.namelist(), MEMBERS):
                data = archive.read(name)
                check, size = zlib.crc32(data, check), size + len(data)
            seconds = time.perf_counter() - began
        return Outcome(seconds, check, size)

    return work


def slices(job: Job) -> Work:
    """Read rows, and columns, of an array in a HDF5 file."""
    import h5py

    opener = OPENERS[job.name](job)

    def work() -> Outcome:
        began = time.perf_counter()
        with opener() as file, h5py.File(file, "r") as archive:
            found = [archive["array"][500:510, :], archive["array"][:, 2500:2510]]
        seconds = time.perf_counter() - began
        check = 0
        for array in found:
            check = zlib.crc32(array.tobytes(), check)
        return Outcome(seconds, check, sum(array.nbytes for array in found))

    return work
