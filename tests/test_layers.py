"""A module imports only from the layers below its own, and a third-party package only in the file named for it."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import getm
import getm.api

PACKAGE = Path(__file__).parents[1] / "getm"

# From the bottom to the top.
LAYERS = [
    "errors",
    "ranges buffers uri config retry integrity sources.base",
    (
        "engine.messages engine.blocks engine.caller engine.planner engine.arena "
        "sources.answer sources.lowwater sources.response sources.connection sources.failures sources.sessions "
        "sources.place sources.spool sources.transport sources.http sources"
    ),
    "engine.pool engine.worker",
    "engine.feed",
    "engine.memory engine.inline engine.troubles",
    "engine.runs engine.targets",
    "engine.core",
    "engine.hub",
    "engine.fetching",
    "engine",
    "handout parquet",
    "reader stream progress part",
    "verifying about",
    "opening transfer manifest pipes",
    "batch",
    "report",
    "api",
    "getm",  # getm/__init__.py
    "options contrib contrib.fsspec contrib.htslib contrib.pysam",
    "cli",
    "__main__",
]

# What a module may import of its own layer.
SIDEWAYS = {
    "config": {"ranges"},
    "integrity": {"ranges", "uri"},
    "sources.base": {"config", "retry", "uri"},
    "engine.planner": {"engine.caller"},
    "sources.response": {"sources.lowwater"},
    "sources.connection": {"sources.response"},
    "sources.failures": {"sources.connection"},
    "sources.sessions": {"sources.connection", "sources.response"},
    "sources.place": {"sources.sessions"},
    "sources.transport": {
        *("sources.answer", "sources.connection", "sources.failures", "sources.response", "sources.sessions"),
        "sources.spool",
    },
    "sources.http": {
        *("sources.answer", "sources.place", "sources.response", "sources.sessions", "sources.spool", "sources.transport"),
    },
    "sources": {"sources.http", "sources.transport"},
    "contrib.pysam": {"contrib.htslib"},
}

# What a module may not import, though it is below.
APART = {
    "engine.pool": {"sources", "sources.http", "sources.place", "sources.transport"},
}

THIRD_PARTY = {
    "awscrt": "integrity",
    "cachetools": "engine.blocks",
    "certifi": "sources.connection",
    "click": "cli options",
    "fsspec": "contrib.fsspec",
    "pysam": "contrib.htslib",
    "requests": "sources.sessions",
    "tqdm": "progress",
    "urllib3": "sources.sessions",
}


def module_of(path: Path) -> str:
    """Name a file as the table does: ``engine/pool.py`` is engine.pool, ``engine/__init__.py`` engine."""
    *folders, name = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(folders if name == "__init__" else [*folders, name]) or "getm"


SOURCES = {module_of(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
LAYER_OF = {module: layer for layer, modules in enumerate(LAYERS) for module in modules.split()}


def imported(source: str) -> Iterator[str]:
    """Yield what a module imports, wherever in it. Ruff sees to it that no import is relative."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name.removeprefix("getm.") in LAYER_OF else node.module


def ours(source: str) -> set[str]:
    """Return the modules of getm that a module imports, named as in the table."""
    return {name.removeprefix("getm.") for name in imported(source) if name.partition(".")[0] == "getm"}


def others(source: str) -> set[str]:
    """Return the third-party packages that a module imports; _typeshed is one only to type checkers."""
    return {name.partition(".")[0] for name in imported(source)} - sys.stdlib_module_names - {"getm", "_typeshed"}


def test_every_file_has_a_layer():
    assert set() == SOURCES.keys() - LAYER_OF.keys()


@pytest.mark.parametrize("module", SOURCES)
def test_module_imports_from_below(module):
    below = {other for other, layer in LAYER_OF.items() if layer < LAYER_OF.get(module, 0)}
    assert set() == ours(SOURCES[module]) - below - SIDEWAYS.get(module, set())


@pytest.mark.parametrize("module", SOURCES)
def test_module_keeps_apart(module):
    assert set() == ours(SOURCES[module]) & APART.get(module, set())


def test_nobody_imports_the_worker():
    assert [] == [module for module, source in SOURCES.items() if "engine.worker" in ours(source)]


@pytest.mark.parametrize("module", SOURCES)
def test_third_party_package_has_one_door(module):
    assert set() == {package for package in others(SOURCES[module]) if module not in THIRD_PARTY.get(package, "").split()}


def test_no_module_imports_itself_by_way_of_others():
    TopologicalSorter({module: ours(source) for module, source in SOURCES.items()}).prepare()


def test_no_import_escapes():
    source = """
import getm.errors, os.path
from getm import config, open
if TYPE_CHECKING:
    from getm.engine import Engine, pool
    from getm.sources.http import HttpSource
def later():
    import numpy.linalg
    from requests.adapters import HTTPAdapter
"""
    assert {"errors", "config", "getm", "engine", "engine.pool", "sources.http"} == ours(source)
    assert {"numpy", "requests"} == others(source)


def test_the_package_has_the_public_names_and_no_others():
    everything = {}
    exec("from getm import *", everything)
    assert sorted(getm.api.__all__) == sorted(everything.keys() - {"__builtins__"})
    assert set(getm.api.__all__) <= set(dir(getm))
    assert getm.open is getm.opening.open
    with pytest.raises(AttributeError, match="'nonsense'"):
        _ = getm.nonsense


def test_importing_getm_starts_nothing_and_takes_nothing_optional():
    script = """
import json, sys, threading
import getm
with open(f"/proc/self/task/{threading.get_native_id()}/children") as children:
    print(json.dumps([sorted(sys.modules), threading.active_count(), children.read()]))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules, threads, children = json.loads(result.stdout)
    assert set() == {"click", "fsspec", "multiprocessing", "numpy", "requests", "tqdm"} & set(modules)
    assert (1, "") == (threads, children)


@pytest.mark.parametrize("arguments", [[], ["--verbose"]])
def test_copying_imports_nothing_that_it_can_do_without(server, tmp_path, arguments):
    url, file = server.put("/a.bin", 3 << 20), tmp_path / "a.bin"
    command = [sys.executable, "-W", "error", "-X", "importtime", "-m", "getm", *arguments, url, file]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "http.client" in lines
    dispensable = ("certifi", "charset_normalizer", "importlib.metadata", "requests", "tempfile", "urllib3")
    assert [] == [name for name in dispensable if f" {name}\n" in lines]
