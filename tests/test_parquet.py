"""Columns of Parquet files, which are fetched ahead once parts of three groups of rows were read."""

import io
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import getm
from getm.engine import planner
from getm.parquet import BYTES_AHEAD, DIRECTORY_MOST, GROUPS_LEAST, MAGIC, Columns
from tests.servers.fault import Fault

ROWS, COLUMNS, GROUPS = 20_000, 6, 12
EACH = ROWS // GROUPS + 1


def written(groups=GROUPS, columns=COLUMNS, rows=ROWS, **options):
    source = np.random.default_rng(1)
    table = pa.table({f"c{number}": source.random(rows).round(number + 1) for number in range(columns)})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, row_group_size=-(-rows // groups), **options)
    return file.getvalue(), table


DATA, TABLE = written()


def places(data):
    """Return where the parts are, by group and column, as pyarrow says."""
    about = pyarrow.parquet.ParquetFile(io.BytesIO(data)).metadata
    found = []
    for group in range(about.num_row_groups):
        row = []
        for number in range(about.num_columns):
            column = about.row_group(group).column(number)
            starts = (column.dictionary_page_offset, column.data_page_offset)
            start = min(place for place in starts if place is not None)
            row.append((start, start + column.total_compressed_size))
        found.append(row)
    return found


def known(data=DATA, tail=65536):
    columns = Columns(len(data))
    columns.look(max(0, len(data) - tail), memoryview(data)[-tail:])
    return columns


class TestColumns:
    @pytest.mark.parametrize(
        "options", [{}, {"compression": "none"}, {"use_dictionary": False}, {"write_statistics": False}]
    )
    @pytest.mark.parametrize("columns", [1, 6, 40])
    def test_are_foretold_where_they_are_once_three_groups_were_read(self, options, columns):
        data, _ = written(columns=columns, **options)
        parts, foresight = places(data), known(data, len(data))
        wanted = sorted({0, columns // 2, columns - 1})
        for group in range(GROUPS_LEAST - 1):
            for column in wanted:
                assert [] == foresight.foretell(*parts[group][column])
        found = foresight.foretell(*parts[GROUPS_LEAST - 1][wanted[0]])
        assert found == [parts[group][column] for group in range(3, 6) for column in wanted]
        assert [] == foresight.foretell(*parts[GROUPS_LEAST - 1][wanted[-1]])  # each once

    def test_go_on_with_the_next_groups(self):
        parts, foresight, found = places(DATA), known(), []
        for group in range(GROUPS):
            new = foresight.foretell(*parts[group][3])
            assert len(found) + len(new) <= 2 * group + 2  # no more than were read
            found += new
        assert found == [parts[group][3] for group in range(3, GROUPS)]

    def test_in_any_order_are_foretold_between_and_behind(self):
        parts, foresight = places(DATA), known()
        assert [] == foresight.foretell(*parts[5][2]) + foresight.foretell(*parts[7][2])
        assert [parts[group][2] for group in (3, 4, 6)] == foresight.foretell(*parts[2][2])

    def test_that_adjoin_are_read_at_once(self):
        parts, foresight = places(DATA), known()
        foresight.foretell(parts[0][1][0], parts[0][3][1])
        foresight.foretell(*parts[1][2])
        assert [parts[3][1], parts[3][2], parts[3][3]] == foresight.foretell(*parts[2][2])[:3]

    def test_of_groups_that_are_not_read_are_no_more_than_those_that_are(self):
        data, _ = written(groups=100)
        parts, foresight = places(data), known(data, len(data))
        told = sum(len(foresight.foretell(*parts[group][0])) for group in range(20, 100, 16))
        assert told == 5  # as many as were read

    @pytest.mark.parametrize("seed", range(5))
    def test_in_any_order_are_nearly_all_foretold(self, seed):
        data, _ = written(groups=100)
        parts, foresight = places(data), known(data, len(data))
        order, told, waited = np.random.default_rng(seed).permutation(100), set(), 0
        for group in order:
            waited += parts[group][0] not in told
            told.update(foresight.foretell(*parts[group][0]))
        assert waited < 40

    def test_are_not_foretold_by_reads_of_something_else(self):
        parts, foresight = places(DATA), known()
        for group in range(GROUPS):
            start, stop = parts[group][0]
            assert [] == foresight.foretell(start + 1, stop)

    def test_are_bounded_in_bytes(self):
        foresight = known()
        parts = [[(1 + group * BYTES_AHEAD // 2, 1 + (group + 1) * BYTES_AHEAD // 2)] for group in range(10)]
        foresight._content, foresight._groups = b"", parts
        foresight._starts = sorted((part[0], group, 0) for group, (part,) in enumerate(parts))
        foresight.foretell(*parts[0][0])
        foresight.foretell(*parts[1][0])
        assert 2 == len(foresight.foretell(*parts[2][0]))

    @pytest.mark.parametrize("tail", [8, 100])
    def test_are_known_by_a_directory_that_comes_later(self, tail):
        parts, foresight = places(DATA), known(tail=tail)
        length = int.from_bytes(DATA[-8:-4], "little")
        foresight.look(len(DATA) - 8 - length, memoryview(DATA)[-8 - length : -8])
        assert [] == foresight.foretell(*parts[0][0]) + foresight.foretell(*parts[1][0])
        assert foresight.foretell(*parts[2][0])

    def test_of_a_directory_that_is_too_long_are_left_alone(self):
        data, _ = written(groups=100, columns=60, rows=6_000)
        assert DIRECTORY_MOST < int.from_bytes(data[-8:-4], "little")
        parts, foresight = places(data), known(data, len(data))
        for group in range(5):
            assert [] == foresight.foretell(*parts[group][0])

    @given(st.data())
    def test_of_a_directory_that_is_none_are_left_alone(self, data):
        content = bytearray(DATA)
        length = int.from_bytes(DATA[-8:-4], "little")
        for _ in range(data.draw(st.integers(1, 5))):
            content[data.draw(st.integers(len(DATA) - 8 - length, len(DATA) - 5))] = data.draw(st.integers(0, 255))
        foresight = known(bytes(content))
        for group in places(DATA):
            for part in group:
                for start, stop in foresight.foretell(*part):
                    assert 0 < start <= stop <= len(DATA)

    @given(st.binary(max_size=500), st.integers(0, 600))
    def test_of_noise_are_none(self, noise, length):
        data = noise + length.to_bytes(4, "little") + MAGIC
        foresight = known(data)
        for start in range(0, len(data), 7):
            foresight.foretell(start, len(data))

    @pytest.mark.parametrize(
        "head", [b"\x19\xfc" + b"\xff" * 9 + b"\x01", b"\x1c" * 5000, b"\x49" * 5000, b"\x16" + b"\xff" * 5000]
    )
    def test_of_hostile_directories_cost_nothing(self, head):
        foresight = known(b"\0" * 100 + head + len(head).to_bytes(4, "little") + MAGIC)
        assert [] == foresight.foretell(0, 10)


class TestReader:
    @pytest.mark.parametrize("concurrency", [None, 1, 8])
    @pytest.mark.parametrize("columns", [["c1"], ["c1", "c4"], None])
    def test_hands_out_what_is_there(self, server, monkeypatch, concurrency, columns):
        monkeypatch.setattr(planner, "NEAR", 0.0)
        with getm.open(server.put("/a.parquet", DATA), concurrency=concurrency, block_size=16384) as file:
            assert pyarrow.parquet.read_table(file, columns=columns).equals(TABLE.select(columns or TABLE.column_names))

    def test_fetches_columns_of_later_groups_before_they_are_read(self, server, monkeypatch):
        monkeypatch.setattr(planner, "NEAR", 0.0)
        data, _ = written(rows=400_000, compression="none", use_dictionary=False)
        parts = places(data)
        url = server.put("/a.parquet", data)
        with getm.open(url, block_size=65536) as file:
            file.read_at(len(data) - 65536, 65536)
            for group in (0, 1, 2):
                file.read_at(parts[group][2][0], parts[group][2][1] - parts[group][2][0])
            server.wait_for(lambda log: all(any(r.covers(parts[g][2][0]) for r in log) for g in (3, 4, 5)))

    def test_of_a_group_alone_fetches_no_other(self, server):
        data, table = written(rows=400_000, compression="none", use_dictionary=False)
        url = server.put("/a.parquet", data)
        with getm.open(url, block_size=65536) as file:
            found = pyarrow.parquet.ParquetFile(file).read_row_group(3, columns=["c0", "c5"])
            assert found.equals(table.select(["c0", "c5"]).slice(3 * found.num_rows, found.num_rows))
            part = places(data)[3][0]
            assert file.stats.fetched < 65536 * 4 + 4 * (part[1] - part[0])

    def test_of_a_near_server_fetches_nothing_ahead(self, server, monkeypatch):
        monkeypatch.setattr(planner, "NEAR", math.inf)  # it is late in answering where this machine is busy
        data, _ = written(rows=400_000, compression="none", use_dictionary=False)
        with getm.open(server.put("/a.parquet", data), block_size=65536) as file:
            pyarrow.parquet.read_table(file, columns=["c3"])
            assert file.stats.hits == 0

    def test_that_is_closed_is_not_fetched_ahead(self, server, new_engine):
        engine = new_engine()
        with getm.open(server.put("/a.bin", 64 * 65536), block_size=65536, engine=engine) as file:
            feed = file._feed
        engine.announce(feed, [(0, 64 * 65536)])  # as another thread may that was about to read
        assert 1 == len(server.log)

    def test_that_fails_to_fetch_ahead_is_right_all_the_same(self, server, monkeypatch):
        monkeypatch.setattr(planner, "NEAR", 0.0)
        data, table = written(rows=400_000, compression="none", use_dictionary=False)
        url = server.put("/a.parquet", data)
        server.fail(Fault(cut=1000), when=lambda request: request.index % 3 == 2, times=10)
        with getm.open(url, block_size=65536) as file:
            assert pyarrow.parquet.read_table(file, columns=["c3"]).equals(table.select(["c3"]))
