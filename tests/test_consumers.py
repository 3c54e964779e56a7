"""Programs that take a file take getm's, from a real server; many more do in tests/consumers."""

import gc
import io
import pickle
import random
import zipfile

import numpy as np
import pytest

import getm
from tests.content import assert_ramp, ramp, write_ramp

pytestmark = pytest.mark.servers

KIB = 2**10
MIB = 2**20
PROFILES = pytest.mark.parametrize("profile", ["raw", "wan"])
EVERY = pytest.mark.parametrize("concurrency", [None, 1, 8], ids="concurrency-{}".format)


@pytest.fixture(scope="module")
def pandas():
    pytest.importorskip("pyarrow")
    return pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def table(pandas, nginx):
    """Write a table of some MiB as CSV and Parquet, and return it."""
    chance = np.random.default_rng(1)
    rows = 120_000
    table = pandas.DataFrame(
        {
            "position": np.arange(rows),
            "value": chance.random(rows),
            "name": [f"variant-{number}" for number in range(rows)],
            "noise": chance.integers(0, 2**60, rows),
        }
    )
    table.to_csv(nginx.root / "table.csv", index=False)
    table.to_parquet(nginx.root / "table.parquet", row_group_size=20_000, compression=None)
    return table


@pytest.fixture(scope="module")
def members(nginx):
    """Write a zip of 500 stored members of 300 to 800 KB; return where each begins in the content, and its length."""
    chance = random.Random(2)
    members, start = {}, 0
    with zipfile.ZipFile(nginx.root / "members.zip", "w", zipfile.ZIP_STORED) as archive:
        for number in range(500):
            length = chance.randrange(300_000, 800_000)
            archive.writestr(f"folder/member-{number:03}.bin", ramp(start, start + length))
            members[f"folder/member-{number:03}.bin"] = start, length
            start += length
    yield members
    (nginx.root / "members.zip").unlink()


class TestPandas:
    @EVERY
    def test_reads_csv(self, pandas, nginx, table, concurrency):
        with getm.open(nginx.url("table.csv"), concurrency=concurrency) as file:
            pandas.testing.assert_frame_equal(table, pandas.read_csv(file))
            assert file.stats.fetched <= file.size

    @EVERY
    @PROFILES
    def test_reads_parquet(self, pandas, nginx, table, concurrency, profile):
        with getm.open(nginx.url("table.parquet", profile), concurrency=concurrency) as file:
            pandas.testing.assert_frame_equal(table, pandas.read_parquet(file))


class TestZip:
    @PROFILES
    @pytest.mark.parametrize("concurrency", [1, 8])
    def test_reads_members_for_little_more_than_their_bytes(self, nginx, members, concurrency, profile, new_engine):
        names = random.Random(3).sample(sorted(members), 30)
        engine = new_engine()
        with getm.open(nginx.url("members.zip", profile), concurrency=concurrency, engine=engine) as file:
            with zipfile.ZipFile(file) as archive:
                assert sorted(members) == sorted(archive.namelist())
                listed = file.stats.fetched
                directory = sum(46 + len(name) for name in members) + 22
                assert listed <= directory + 2 * 64 * KIB
                for name in names:
                    start, length = members[name]
                    content = archive.read(name)
                    assert length == len(content)
                    assert_ramp(content, start)
            wanted = sum(members[name][1] for name in names)
            assert file.stats.fetched <= directory + wanted + 64 * KIB * (len(names) + 1)

    def test_extracts_a_member_in_parts(self, nginx, members, tmp_path):
        with getm.open(nginx.url("members.zip")) as file, zipfile.ZipFile(file) as archive:
            name = archive.extract("folder/member-077.bin", tmp_path)
            with open(name, "rb") as extracted:
                assert_ramp(extracted.read(), members["folder/member-077.bin"][0])
            with archive.open("folder/member-200.bin") as member:
                member.seek(100_000)
                assert_ramp(member.read(1000), members["folder/member-200.bin"][0] + 100_000)


class TestOpen:
    TEXT = "erste Zeile\r\nzweite: äöü\n\ndritte €" * 20_000

    @pytest.fixture
    def text(self, nginx):
        (nginx.root / "text.txt").write_bytes(self.TEXT.encode("utf-16"))
        (nginx.root / "latin.txt").write_bytes("äöü\nß".encode("latin-1"))
        return nginx.url("text.txt")

    @pytest.mark.parametrize("newline", [None, "", "\n", "\r\n"], ids=repr)
    def test_text_is_that_of_the_builtin(self, nginx, text, newline):
        options = {"encoding": "utf-16", "newline": newline}
        with getm.open(text, "rt", **options) as lines, open(nginx.root / "text.txt", **options) as expected:
            assert isinstance(lines, io.TextIOWrapper)
            assert expected.read() == lines.read()
            lines.seek(0)
            expected.seek(0)
            assert list(expected) == list(lines)
            assert [False] * 3 == [file.closed for file in (lines, lines.buffer, lines.buffer.raw)]
        assert [True] * 3 == [file.closed for file in (lines, lines.buffer, lines.buffer.raw)]
        for read in (lines.readline, lines.buffer.read, lambda: next(lines)):
            with pytest.raises(ValueError, match="closed file"):
                read()
        lines.close()

    def test_errors_of_text_are_those_of_the_builtin(self, nginx, text):
        latin = nginx.url("latin.txt")
        with getm.open(latin, "r", encoding="utf-8") as lines, pytest.raises(UnicodeDecodeError):
            lines.read()
        with getm.open(latin, "r", encoding="utf-8", errors="replace") as lines:
            assert "���\n�" == lines.read()

    @pytest.mark.parametrize("buffering", [-1, 2, 100, 3 * MIB])
    def test_buffering_gives_a_buffered_reader(self, nginx, buffering):
        write_ramp(nginx.root / "buffered.bin", 3 * MIB)
        with getm.open(nginx.url("buffered.bin"), buffering=buffering) as file:
            assert isinstance(file, io.BufferedReader)
            assert isinstance(file.raw, getm.Reader)
            assert ramp(0, 10) == file.read(10)
            assert ramp(10, 11) == file.peek(1)[:1]
            file.seek(-100, io.SEEK_END)
            assert ramp(3 * MIB - 100, 3 * MIB) == file.read()
            file.seek(0)
            assert_ramp(file.read(), 0)
        assert file.raw.closed

    @pytest.mark.parametrize(
        "options",
        [
            *[{"mode": mode} for mode in ("w", "wb", "a", "r+b", "x", "b", "", "rbt", "br")],
            *[{"encoding": "utf-8"}, {"newline": ""}, {"errors": "strict"}],
            *[{"concurrency": 0}, {"concurrency": "8"}, {"concurrency": True}, {"block_size": 1000}, {"retries": -1}],
            *[{"timeout": 0}, {"timeout": (1,)}, {"deadline": -1}],
        ],
        ids=str,
    )
    def test_what_cannot_be_is_refused(self, nginx, text, options):
        with pytest.raises(getm.UsageError):
            getm.open(text, **options)

    def test_unknown_option_is_a_type_error(self, text):
        with pytest.raises(TypeError, match="colour"):
            getm.open(text, colour="red")

    def test_text_of_an_unknown_encoding_leaves_nothing_open(self, text):
        with pytest.raises(LookupError):
            getm.open(text, "r", encoding="klingon")

    def test_buffered_readers_are_not_pickled_as_those_of_files_are_not(self, text):
        with getm.open(text, buffering=-1) as file, pytest.raises(TypeError, match="pickle"):
            pickle.dumps(file)

    def test_a_reader_dropped_open_warns_and_is_closed(self, nginx, text):
        file = getm.open(text + "?token=SECRET")
        file.read(1)
        with pytest.warns(ResourceWarning, match=r"unclosed <getm\.Reader") as warned:  # noqa: PT031
            del file
            gc.collect()
        assert "SECRET" not in str(warned[0].message)
        assert [] == getm.engine.default(8)._hub.feeds

    def test_fileno_and_writing_are_refused(self, text):
        with getm.open(text) as file:
            for refused in (file.fileno, lambda: file.write(b""), file.truncate):
                with pytest.raises(io.UnsupportedOperation):
                    refused()
