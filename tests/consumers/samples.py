"""The files that are read, each of several blocks of getm, and how they are written."""

import functools

SAMPLES = {}
"""How to write each file, by its name."""


def sample(name):
    """Register a function that writes the file of that name to the path that it is given."""

    def register(write):
        SAMPLES[name] = write
        return write

    return register


@functools.cache
def table():
    """Return a table of 200,000 rows: a number that counts, two that are random, and a text."""
    import numpy as np
    import pandas as pd

    chance = np.random.default_rng(1)
    rows = 200_000
    return pd.DataFrame(
        {
            "position": np.arange(rows),
            "value": chance.random(rows),
            "name": [f"variant-{number}" for number in range(rows)],
            "noise": chance.integers(0, 2**60, rows),
        }
    )


@sample("table.csv")
def _(path):
    table().to_csv(path, index=False)


@sample("table.parquet")
def _(path):
    table().to_parquet(path, row_group_size=50_000)
