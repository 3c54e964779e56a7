"""The objects that are read: made when they are wanted, the same in every run."""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.content import ramp, write_ramp

MIB = 1 << 20
COLUMNS = 30
MEMBERS = 500


@dataclass(frozen=True)
class Content:
    """What is behind the URLs of one case.

    Attributes:
        kind: how it is made, a name in `KINDS`.
        size: bytes of each object; of a file in a format, about so many.
        count: how many objects there are.
    """

    kind: str
    size: int
    count: int = 1

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the objects."""
        stem = f"{self.kind}-{self.size}"
        return (stem,) if self.count == 1 else tuple(f"{stem}-{number:06}" for number in range(self.count))

    @property
    def total(self) -> int:
        """Bytes of all objects, as far as they take memory."""
        return 0 if self.kind == "sparse" else self.size * self.count

    def make(self, folder: Path) -> None:
        """Write the objects that are not there."""
        for seed, key in enumerate(self.keys):
            if not (folder / key).exists():
                KINDS[self.kind](folder / key, self.size, seed)

    def remove(self, folder: Path) -> None:
        """Remove the objects."""
        for key in self.keys:
            (folder / key).unlink(missing_ok=True)


def _sparse(path: Path, size: int, _seed: int) -> None:
    """Make a file of zeros that takes no memory."""
    with path.open("wb") as file:
        file.truncate(size)


def _parquet(path: Path, size: int, seed: int) -> None:
    """Write columns of random numbers, in ten groups of rows."""
    import pyarrow as pa
    import pyarrow.parquet

    source, rows = np.random.default_rng(seed), size // 8 // COLUMNS
    table = pa.table({f"column{number:02}": source.random(rows) for number in range(COLUMNS)})
    pyarrow.parquet.write_table(table, path, row_group_size=-(-rows // 10), compression="none", use_dictionary=False)


def _csv(path: Path, size: int, seed: int) -> None:
    """Write eight columns of random numbers as text."""
    import pandas as pd

    table = np.random.default_rng(seed).integers(0, 10**9, (size // 80, 8))
    pd.DataFrame(table, columns=[f"column{number}" for number in range(8)]).to_csv(path, index=False)


def _zip(path: Path, size: int, seed: int) -> None:
    """Write members that are stored as they are."""
    each = size // MEMBERS
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(MEMBERS):
            archive.writestr(f"member{number:03}", ramp(number * each, (number + 1) * each, seed))


def _hdf5(path: Path, size: int, seed: int) -> None:
    """Write an array of 5,000 columns in chunks of about 1 MiB."""
    import h5py

    with h5py.File(path, "w") as archive:
        shape = (size // 8 // 5000, 5000)
        array = np.random.default_rng(seed).random(shape)
        archive.create_dataset("array", data=array, chunks=(min(250, shape[0]), 500))


KINDS: dict[str, Callable[[Path, int, int], None]] = {
    "ramp": write_ramp,
    "sparse": _sparse,
    "parquet": _parquet,
    "csv": _csv,
    "zip": _zip,
    "hdf5": _hdf5,
}
