"""Who reads files: one line of code each, and what it may cost to read so from a URL."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Consumer:
    """One way to read a file.

    Attributes:
        code: an expression of `file` and the packages *imports* that tells what was read.
        sample: name of the file.
        imports: modules that are imported for it.
        requests: how many it may take.
        ratio: bytes that may be fetched for each that it reads of a local file, in pieces.
        reason: why *ratio* is more than 1.2.
    """

    code: str
    sample: str
    imports: str
    requests: int
    ratio: float = 1.2
    reason: str = ""


CONSUMERS = [
    Consumer("pandas.read_csv(file)", "table.csv", "pandas", 12),
    Consumer("pandas.read_parquet(file)", "table.parquet", "pandas", 12),
    Consumer("pandas.read_parquet(file, columns=['noise'])", "table.parquet", "pandas", 12),
]
