"""Measure what each consumer fetches, and write it where it is kept: beside this file, and in the README.

.venv-consumers/bin/python -m tests.consumers.measure
"""

import importlib.util
import tempfile
import warnings
from pathlib import Path

import getm
from tests.consumers.reading import from_url, logged
from tests.consumers.samples import SAMPLES
from tests.consumers.table import CONSUMERS
from tests.servers.nginx import Nginx

FIGURES = Path(__file__).with_name("figures.tsv")
"""What was measured, beside its bounds: a header, and a line for each consumer in the order of the table."""
COLUMNS = ["code", "sample", "size", "read", "fetched", "at most", "because", "requests", "at most"]
README = Path(__file__).parents[2] / "README.md"
HEAD = "| one line | requests | fetched |\n|---|--:|--:|\n"


def main():
    """Measure, and write."""
    warnings.simplefilter("ignore")
    known = {tuple(row[:2]): row for row in rows()} if FIGURES.exists() else {}
    with tempfile.TemporaryDirectory() as folder, Nginx(Path(folder)) as nginx:
        found = [measured(consumer, nginx) or known[consumer.code, consumer.sample] for consumer in CONSUMERS]
    FIGURES.write_text("".join("\t".join(row) + "\n" for row in [COLUMNS, *found]))
    text = README.read_text()
    start = text.index(HEAD)
    stop = text.index("\n\n", start) + 1
    README.write_text(text[:start] + table() + text[stop:])


def measured(consumer, nginx):
    """Return a line of figures, the costliest of three; None where its package is missing."""
    if not all(importlib.util.find_spec(module.partition(".")[0]) for module in consumer.imports.split()):
        return None
    path = nginx.root / consumer.sample
    if not path.exists():
        SAMPLES[consumer.sample](path)
    touched = logged(consumer, path)[1]
    costs = []
    for _ in range(3):
        engine = getm.Engine()
        stats = from_url(consumer, nginx.url(consumer.sample), engine=engine)[1]
        engine.close()
        costs.append((stats.fetched, stats.requests))
    fetched, requests = max(costs)
    figures = [
        path.stat().st_size,
        touched,
        fetched,
        f"{consumer.ratio} x read",
        consumer.reason,
        requests,
        consumer.requests,
    ]
    return [consumer.code, consumer.sample, *map(str, figures)]


def rows():
    """Return the lines of figures."""
    return [line.split("\t") for line in FIGURES.read_text().splitlines()[1:]]


def table():
    """Return the README's table of those that it shows."""
    shown = {(consumer.code, consumer.sample) for consumer in CONSUMERS if consumer.shown}
    return HEAD + "".join(
        f"| `{code}` | {requests} | {_amount(fetched)} of {_amount(size)} |\n"
        for code, sample, size, _, fetched, _, _, requests, _ in rows()
        if (code, sample) in shown
    )


def _amount(text):
    count = int(text)
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


if __name__ == "__main__":
    main()
