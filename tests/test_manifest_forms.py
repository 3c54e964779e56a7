"""What a manifest says in each of its forms, where the copies go, and that no error tells what is secret in it."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getm import errors, manifest
from getm.manifest import Entry

SECRET = "hunter2"
A, B = f"https://host/a?key={SECRET}", f"https://host/folder/b,c;d?key={SECRET}#e"
MD5 = "d41d8cd98f00b204e9800998ecf8427e"

FULL = Entry(A, "x/a", f"md5:{MD5}", 7)
SHORT = Entry(B)


def array(*members: object) -> bytes:
    return json.dumps(members).encode()


def entry(**members: object) -> Entry:
    """Return the entry of an object with a URL and these members; `_` stands for `-`."""
    (found,) = manifest.read(array({"url": A, **{name.replace("_", "-"): value for name, value in members.items()}}))
    return found


def refused(data: bytes) -> str:
    """Return what is said about a manifest that cannot be read, and see that it says nothing secret."""
    with pytest.raises(errors.UsageError) as caught:
        manifest.read(data)
    assert_hides_secrets(caught.value)
    return str(caught.value)


def unplaced(*entries: Entry, folder: str = "/nowhere", allow_absolute: bool = False) -> str:
    """Return what is said about entries whose targets cannot be."""
    with pytest.raises(errors.UsageError) as caught:
        manifest.place(entries, folder, allow_absolute=allow_absolute)
    assert_hides_secrets(caught.value)
    return str(caught.value)


def assert_hides_secrets(error: BaseException) -> None:
    assert SECRET not in "".join(traceback.format_exception(error))
    for each in chain(error):
        assert SECRET not in repr((each.args, vars(each), getattr(each, "object", None), getattr(each, "doc", None)))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that led to it, also what `from None` only hides."""
    while error is not None:
        yield error
        yield from chain(error.__cause__)
        error = error.__context__


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with links to and fro, for many examples."""
    folder = tmp_path_factory.mktemp("place") / "folder"
    (folder / "a" / "b").mkdir(parents=True)
    for name, goal in (("in", "a/b"), ("out", "/"), ("up", ".."), ("a/up", ".."), ("a/out", "../..")):
        (folder / name).symlink_to(goal)
    return os.fspath(folder)


class TestForms:
    @pytest.mark.parametrize(
        "text",
        [
            json.dumps([{"url": A, "filepath": "x/a", "checksum": MD5, "checksum-algorithm": "md5", "size": 7}, {"url": B}]),
            json.dumps([{"url": A, "path": "x/a", "md5": MD5, "size": 7, "extra": [1]}, B], indent=4),
            f'{{"url": "{A}", "out": "x/a", "md5": "{MD5}", "size": 7}}\n\n  "{B}"\n',
            f'{{\n"url": "{A}",\n"out": "x/a",\n"md5": "{MD5}",\n"size": 7}}\n{{"url": "{B}"}}',
            f"\nurl\tfile_name\tmd5sum\tfile_size\n{A}\tx/a\t{MD5}\t7\n\n{B}\t\t\t\n",
            f'"MD5", "Path", "URL", "Size", "note"\n{MD5},x/a,{A},7,"a ""b"",\nc"\n,,"{B}",,\n,,,,\n',
            f'path;checksum;size;url\nx/a;md5:{MD5};7;{A}\n;;;"{B}"',
        ],
        ids=["original", "array", "json lines", "json objects", "tsv", "csv", "semicolons"],
    )
    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_every_form_says_the_same(self, text: str, line_end: str, encoding: str) -> None:
        assert [FULL, SHORT] == manifest.read(text.replace("\n", line_end).encode(encoding))

    @pytest.mark.parametrize(
        "text",
        [
            f"{A}\n{B}\n",
            f"# url, path\n\n  {A}  \n\n\t# {SECRET}\n{B}",
            json.dumps([A, B]),
            f'"{A}"\n"{B}"',
            f"url\n{A}\n{B}\n",
            f'"url"\n"{A}"\n{B}\n',
        ],
        ids=["list", "comments", "array", "json lines", "table", "quoted table"],
    )
    @pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["lf", "crlf"])
    def test_urls_alone_are_entries(self, text: str, line_end: str) -> None:
        assert [Entry(A), Entry(B)] == manifest.read(text.replace("\n", line_end).encode())

    @pytest.mark.parametrize("data", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf", b"[]", b"[ ]\n", b"# nothing\n", b"url\tpath\n"])
    def test_an_empty_manifest_has_no_entries(self, data: bytes) -> None:
        assert [] == manifest.read(data)

    @pytest.mark.parametrize("text", [f'{{"url": "{A}"}}', json.dumps({"url": A}, indent=2), f"{A}"])
    def test_one_entry_alone_is_a_manifest(self, text: str) -> None:
        assert [Entry(A)] == manifest.read(text.encode())

    def test_a_url_that_reads_like_a_header_is_a_url(self) -> None:
        assert [Entry("https://host/?a,url,b")] == manifest.read(b"https://host/?a,url,b")

    def test_members_of_an_array_have_numbers_as_places(self) -> None:
        assert ["entry 1", "entry 2"] == [each.place for each in manifest.read(array(A, {"url": B}))]

    @pytest.mark.parametrize(
        ("text", "lines"),
        [
            (f"# comment\n\n{A}\n{B}", [3, 4]),
            (f'\n{{"url": "{A}"}}\n\n{{"url":\n"{B}"}}\n"{A}"', [2, 4, 6]),
            (f'url,note\n{A},"two\nlines"\n\n{A},', [2, 5]),
        ],
        ids=["list", "json lines", "table"],
    )
    @pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["lf", "crlf"])
    def test_elsewhere_the_place_is_the_line(self, text: str, lines: list[int], line_end: str) -> None:
        found = manifest.read(text.replace("\n", line_end).encode())
        assert [f"line {number}" for number in lines] == [each.place for each in found]

    def test_a_line_separator_of_unicode_ends_no_line(self) -> None:
        (found,) = manifest.read('{"url": "https://host/a", "path": "a\u2028b"}'.encode())
        assert "a\u2028b" == found.path

    @pytest.mark.parametrize(
        ("data", "place"),
        [
            (A.encode("utf-16"), "line 1"),
            (f"{A}\n".encode() + b"\xff", "line 2"),
            (f"{A}\r\n\r\n{B}\0".encode(), "line 3"),
            (f'{{"url": "{A}"}}\r\n{{"url": "{B}"\r\n'.encode(), "line 3, column 1"),
            (f'[{{"url": "{A}"}},\n{{"url" "{B}"}}]'.encode(), "line 2, column 8"),
            (f'[{{"url": "{A}"}}]\n{{"url": "{B}"}}'.encode(), "line 2"),
            (f'["{A}"'.encode(), f"line 1, column {len(A) + 4}"),
            (f'"{A}'.encode(), "line 1, column 1"),
            (b'["%s", %s]' % (A.encode(), b"[" * 100_000), "line 1"),
            (b'{"url": "%s", "a": %s1%s}' % (A.encode(), b"[" * 100, b"]" * 100), "line 1"),
            (b'"%s"\n{"a":%s' % (A.encode(), b'{"a":' * 100_000), "line 2"),
            (b'"%s"\n{"url": "%s", "size": %s}' % (A.encode(), B.encode(), b"1" * 5000), "line 2"),
            (f'url,path\n{A},a\n"{B},b\n'.encode(), "line 3"),
            (f'url,path\n{A},"a" b\n'.encode(), "line 2"),
            (f"url,path\n{A},{'a' * 200_000}\n".encode(), "line 2"),
            (f"url,path\n{B},b\n".encode(), "line 2"),
            (f"url\tpath\n{A}\ta\n\n{B}".encode(), "line 4"),
            (f"url\tpath\n\tx{SECRET}\n".encode(), "line 2"),
            (f"{A}\nftp://user:{SECRET}@host/file?{SECRET}".encode(), "line 2"),
            (f"{A}\n{SECRET}".encode(), "line 2"),
            (f"{A}\n{B} {SECRET}".encode(), "line 2"),
            (f"{A}\t{B}".encode(), "line 1"),
            (f"path,md5\na,{SECRET}".encode(), "line 1"),
            (f"curl -H '{SECRET}' '{A}'".encode(), "line 1"),
            (f'null\n"{A}"'.encode(), "line 1"),
        ],
    )
    def test_what_cannot_be_read_is_refused_with_its_place_only(self, data: bytes, place: str) -> None:
        assert refused(data).startswith(f"{place}:")

    @pytest.mark.parametrize("option", [f" out={SECRET}", f"\theader=Authorization: {SECRET}", "  select-file=1"])
    def test_the_input_file_of_aria2_is_named_as_not_understood(self, option: str) -> None:
        assert "line 2: " in refused(f"{A}\n{option}\n".encode())
        assert "aria2" in refused(f"{A}\n{option}\n".encode())

    @given(st.binary())
    def test_any_bytes_are_entries_or_refused(self, data: bytes) -> None:
        with contextlib.suppress(errors.UsageError):
            assert all(isinstance(each, Entry) for each in manifest.read(data))

    @given(st.lists(st.sampled_from([*'[]{}":,;\t\n\r# \\0', A, "url", '"url":', "path", "null", "\ufeff", "\x1c"])))
    def test_any_text_that_looks_like_a_manifest_is_entries_or_refused(self, parts: list[str]) -> None:
        with contextlib.suppress(errors.UsageError):
            assert all(each.url.startswith(A) for each in manifest.read("".join(parts).encode()))


class TestMembers:
    @pytest.mark.parametrize("name", ["filepath", "path", "out", "file_name", "filename", "FilePath", "File-Name"])
    def test_each_name_of_the_path_is_known(self, name: str) -> None:
        assert [Entry(A, "x/a")] == manifest.read(array({"url": A, name: "x/a"}))

    def test_of_several_paths_that_of_the_original_holds(self) -> None:
        assert "right" == entry(filename="a", file_name="b", out="c", path="d", filepath="right").path

    @pytest.mark.parametrize(
        ("name", "algorithm"),
        [
            ("md5", "md5"),
            ("md5sum", "md5"),
            ("sha1", "sha1"),
            ("sha256", "sha256"),
            ("SHA512", "sha512"),
            ("crc32c", "crc32c"),
        ],
    )
    def test_a_digest_may_be_named_by_its_algorithm(self, name: str, algorithm: str) -> None:
        assert f"{algorithm}:ab12==" == entry(**{name: "ab12=="}).checksum

    def test_of_several_digests_the_strongest_holds(self) -> None:
        assert "sha256:c" == entry(md5="a", sha1="b", sha256="c", crc32c="d").checksum

    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            ({"checksum": "a", "checksum-algorithm": "gs_crc32c"}, "gs_crc32c:a"),
            ({"checksum": "a", "checksum_algorithm": "s3_etag"}, "s3_etag:a"),
            ({"checksum": "sha256:a"}, "sha256:a"),
            ({"checksum": "a", "md5": "b"}, "a"),
            ({"checksum": "a", "checksum-algorithm": ""}, "a"),
            ({"checksum": None, "checksum-algorithm": None}, "null"),
            ({"checksum-algorithm": "null"}, "null"),
            ({"checksum": "a", "checksum-algorithm": None}, "null"),
            ({"checksum": None}, None),
            ({"checksum": "", "md5": ""}, None),
            ({"etag": "a"}, None),
        ],
    )
    def test_the_checksum_names_its_algorithm_where_it_is_said(self, members: dict[str, object], expected: str) -> None:
        assert expected == entry(**members).checksum

    @pytest.mark.parametrize(
        ("members", "size"),
        [({"size": 0}, 0), ({"file_size": "12"}, 12), ({"size": None}, None), ({"size": "", "file-size": 3}, 3)],
    )
    def test_the_size_is_a_whole_number(self, members: dict[str, object], size: int | None) -> None:
        assert size == entry(**members).size

    def test_headers_are_strings_by_name(self) -> None:
        assert {"Authorization": "Bearer a"} == entry(headers={"Authorization": "Bearer a"}).headers

    @pytest.mark.parametrize(
        ("member", "problem"),
        [
            ({}, "no url"),
            ({"url": None}, "no url"),
            ({"url": ""}, "no url"),
            ({"url": 7}, "url must be a string, not int"),
            ({"url": [A]}, "url must be a string, not list"),
            ({"url": SECRET}, "url is not of the form"),
            ({"url": f"user:{SECRET}@host/a"}, "url is not of the form"),
            ({"url": f"s3://bucket/key?{SECRET}"}, "'s3://bucket/key' cannot be read"),
            ({"url": A + "\0"}, "control characters"),
            ({"url": A + "\udcff"}, "control characters"),
            ({"url": f"https://user:{SECRET}?@host/a"}, "no valid host"),
            ({"url": A, "path": [SECRET]}, "path must be a string, not list"),
            ({"url": A, "checksum": 7}, "checksum must be a string, not int"),
            ({"url": A, "md5": {SECRET: 1}}, "md5 must be a string, not dict"),
            ({"url": A, "checksum": "a", "checksum-algorithm": 1}, "checksum-algorithm must be a string"),
            ({"url": A, "checksum-algorithm": "md5"}, "checksum-algorithm without checksum"),
            ({"url": A, "size": -1}, "size must be a whole number"),
            ({"url": A, "size": True}, "size must be a whole number"),
            ({"url": A, "size": 7.0}, "size must be a whole number"),
            ({"url": A, "size": 1 << 63}, "size must be a whole number"),
            ({"url": A, "size": SECRET}, "size must be a whole number"),
            ({"url": A, "file_size": "\N{ARABIC-INDIC DIGIT ONE}"}, "file-size must be a whole number"),
            ({"url": A, "headers": SECRET}, "headers must be an object of strings"),
            ({"url": A, "headers": {SECRET: 1}}, "headers must be an object of strings"),
            (7, "an object or a URL is wanted, not int"),
            ([A], "an object or a URL is wanted, not list"),
            (None, "an object or a URL is wanted, not NoneType"),
        ],
    )
    def test_what_cannot_be_is_refused_with_place_and_name(self, member: object, problem: str) -> None:
        text = refused(array(A, member))
        assert text.startswith("entry 2: ")
        assert problem in text

    def test_a_table_holds_no_headers(self) -> None:
        assert "line 2: headers must" in refused(f"url\theaders\n{A}\t{SECRET}".encode())

    def test_the_text_of_an_entry_is_fit_for_logs(self) -> None:
        found = entry(headers={"Authorization": SECRET}, extra=SECRET)
        assert SECRET not in repr(found)
        assert "place='entry 1'" in repr(found)


class TestEntries:
    def test_a_program_gives_urls_objects_or_entries(self) -> None:
        found = manifest.entries([A, {"url": A, "filepath": "x/a", "md5": MD5, "size": 7}, SHORT])
        assert [Entry(A), FULL, SHORT] == found
        assert ["entry 1", "entry 2", ""] == [each.place for each in found]

    @pytest.mark.parametrize("given", [7, None, {}, {"url": SECRET}, SECRET])
    def test_what_is_none_is_refused_by_its_number(self, given: object) -> None:
        with pytest.raises(errors.UsageError, match=r"^entry 2: ") as caught:
            manifest.entries([A, given])
        assert_hides_secrets(caught.value)


class TestWrite:
    def test_members_that_getm_does_not_know_stay(self) -> None:
        member = {"url": A, "filepath": "x/a", "MD5": MD5, "object_id": {"a": [1, None, 2.5]}, "état": "\ud800"}
        assert [member] == json.loads(manifest.write(manifest.read(array(member))))

    def test_cells_of_a_table_keep_their_names(self) -> None:
        found = manifest.read(f"URL,Size,note\n{A},,x".encode())
        assert [{"URL": A, "Size": "", "note": "x"}] == json.loads(manifest.write(found))

    def test_it_is_an_array_that_ends_in_a_newline(self) -> None:
        assert f'[\n {{\n  "url": "{A}"\n }}\n]\n' == manifest.write([Entry(A)])
        assert "[]\n" == manifest.write([])

    def test_the_deepest_that_is_read_is_written(self) -> None:
        deep = b'[{"url": "https://host/a", "a": %s}]' % (b"[" * (manifest.DEEPEST - 2) + b"]" * (manifest.DEEPEST - 2))
        assert json.loads(deep) == json.loads(manifest.write(manifest.read(deep)))

    @given(
        st.lists(
            st.builds(
                Entry,
                st.sampled_from([A, B]),
                st.none() | st.text(min_size=1),
                st.none() | st.text(min_size=1),
                st.none() | st.integers(0, (1 << 63) - 1),
                st.dictionaries(st.text(), st.text()),
            )
        )
    )
    def test_entries_come_back_as_they_were(self, entries: list[Entry]) -> None:
        assert entries == manifest.read(manifest.write(entries).encode())

    JSON = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    )
    NAMES = st.sampled_from(["path", "filepath", "Out", "checksum", "checksum-algorithm", "md5", "SHA1", "size"])

    @given(st.dictionaries(NAMES, st.none() | st.sampled_from(["", "7", "null"])), st.dictionaries(st.text(), JSON))
    def test_objects_come_back_as_they_were(self, known: dict[str, object], others: dict[str, object]) -> None:
        with contextlib.suppress(errors.UsageError):
            once = manifest.read(array({**others, **known, "url": A}))
            again = manifest.read(manifest.write(once).encode())
            assert once == again
            assert [each.raw for each in once] == [each.raw for each in again]


class TestPlace:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        """Return a folder with links: `in` to its folder `real`, `self`, `file` to `real/file`; `out` and `up` leave it."""
        folder = tmp_path / "folder"
        (folder / "real").mkdir(parents=True)
        for name, goal in (
            ("in", "real"),
            ("self", "."),
            ("file", "real/file"),
            ("out", tmp_path),
            ("up", ".."),
            ("stray", "../stray"),
            ("loop", "loop"),
        ):
            (folder / name).symlink_to(goal)
        return os.fspath(folder)

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("a", "a"),
            ("x/y/a", "x/y/a"),
            ("a/./b", "a/b"),
            ("a//b", "a/b"),
            ("./a", "a"),
            ("a/x/../b", "a/b"),
            ("..a", "..a"),
            ("x/..a", "x/..a"),
            ("x/...", "x/..."),
            ("-", "-"),
            ("~/a", "~/a"),
            (r"x\a", r"x\a"),
            ("日 é", "日 é"),
            ("in/a", "in/a"),
            ("self/self/a", "self/self/a"),
            ("in/../out/../a", "a"),
            ("loop", "loop"),
        ],
    )
    def test_a_target_is_below_the_folder(self, folder: str, path: str, expected: str) -> None:
        assert [f"{folder}/{expected}"] == manifest.place([Entry(A, path)], folder)

    def test_without_path_the_target_is_named_by_the_url(self) -> None:
        entries = [Entry("https://host/x/a%20b?c"), Entry("https://host/"), Entry("https://host/x/"), Entry("https://host")]
        assert ["/nowhere/a b", None, None, None] == manifest.place(entries, "/nowhere")

    def test_a_relative_folder_is_below_the_current_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert [f"{tmp_path}/x/a"] == manifest.place([Entry(A, "a")], "x")
        assert [f"{tmp_path}/a"] == manifest.place([Entry(A, "a")], "")

    def test_the_root_is_a_folder_too(self) -> None:
        assert ["/a"] == manifest.place([Entry(A, "a")], "/")

    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("", "names a folder"),
            (".", "names a folder"),
            ("..", "names a folder"),
            ("a/", "names a folder"),
            ("a/.", "names a folder"),
            ("a/b/..", "names a folder"),
            ("/", "names a folder"),
            ("/a", "'/a' is absolute"),
            ("//a", "is absolute"),
            ("../a", "'../a' leads out"),
            ("a/../../b", "leads out"),
            ("../folder/a", "leads out"),
            ("a\0b", "'a_b' holds control"),
            ("a\nb", "'a_b' holds control"),
            ("a\x1b[2J", "holds control"),
            ("a\x85b", "holds control"),
            ("a\ud800", "holds control"),
            ("b\udcff", "holds control"),
            ("é" * 2048, "longer than 4095 bytes"),
            ("a/" * 1_000_000 + "b", "longer than 4095 bytes"),
            ("out/a", "by a link"),
            ("up/a", "by a link"),
            ("in/../up/folder2/a", "by a link"),
            ("self/out/x/y/a", "by a link"),
            ("stray", "by a link"),
            ("self", "by a link"),
            (f"/{A}", "'/https://host/a' is absolute"),
        ],
    )
    def test_a_path_of_no_file_in_the_folder_is_refused(self, folder: str, path: str, problem: str) -> None:
        text = unplaced(Entry(A, "fine"), Entry(A, path, place="line 7"), folder=folder)
        assert text.startswith("line 7: ")
        assert problem in text
        assert text.isprintable()

    def test_a_name_from_the_url_is_no_way_out_either(self, folder: str) -> None:
        assert "by a link" in unplaced(Entry("https://host/stray"), folder=folder)

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("a", "a"),
            ("a", "x/../a"),
            ("x/a", "./x//a"),
            ("in/a", "real/a"),
            ("file", "real/file"),
            ("self/a", "a"),
            ("a", "a.part"),
            ("a", "a.part.json"),
            ("a.part", "a.part.part"),
            ("real/file", "in/file.part"),
            ("file", "real/file.part"),
            ("a", "a/b"),
            ("a", "a/b/c/d"),
            ("a", "a.part/b"),
            ("a", "a.part.json/b"),
            ("in/x", "real/x/y"),
        ],
    )
    def test_two_entries_in_each_others_way_are_refused(self, folder: str, first: str, second: str) -> None:
        for one, other in ((first, second), (second, first)):
            text = unplaced(Entry(A, one, place="line 7"), Entry(B, "z"), Entry(A, other, place="line 9"), folder=folder)
            assert "line 7" in text
            assert "line 9" in text

    def test_a_name_from_a_url_may_be_in_the_way_too(self) -> None:
        assert "same target 'a'" in unplaced(Entry(A), Entry(B, "a"))

    @pytest.mark.parametrize(
        ("first", "second"), [("a", "ab"), ("a", "a.parts"), ("x/a", "x/b"), ("x/a", "a"), ("a/b", "a.x")]
    )
    def test_neighbours_are_not_in_each_others_way(self, first: str, second: str) -> None:
        assert [f"/nowhere/{first}", f"/nowhere/{second}"] == manifest.place([Entry(A, first), Entry(A, second)], "/nowhere")

    def test_entries_that_only_the_server_names_are_not_in_each_others_way(self) -> None:
        assert [None, None] == manifest.place([Entry("https://host/")] * 2, "/nowhere")

    def test_an_absolute_path_is_kept_where_it_is_allowed(self, folder: str) -> None:
        entries = [Entry(A, "/x/./y/../a"), Entry(A, "//x/b"), Entry(A, "c"), Entry(A, f"{folder}/up/d")]
        expected = ["/x/a", "/x/b", f"{folder}/c", f"{folder}/up/d"]
        assert expected == manifest.place(entries, folder, allow_absolute=True)

    @pytest.mark.parametrize("path", ["../a", "", "/", "/x/", "/x/..", "/a\nb", "out/a"])
    def test_the_other_rules_hold_for_absolute_paths_too(self, folder: str, path: str) -> None:
        assert unplaced(Entry(A, path), folder=folder, allow_absolute=True)

    @pytest.mark.parametrize("path", ["{}/a", "{}/x/../a", "{}/in/../a", "{}/up/folder/a", "{}/a.part", "{}/a/b", "{}"])
    def test_an_absolute_path_may_be_in_the_way_too(self, folder: str, path: str) -> None:
        assert unplaced(Entry(A, "a"), Entry(A, path.format(folder)), folder=folder, allow_absolute=True)

    SEGMENTS = st.lists(st.sampled_from(["a", "b", "a.part", "in", "out", "up", "..", ".", ""]), max_size=6)

    @given(st.lists(st.none() | st.text() | SEGMENTS.map("/".join), max_size=4))
    def test_no_target_leaves_the_folder_nor_is_in_anothers_way(self, shared_folder: str, paths: list[str | None]) -> None:
        with contextlib.suppress(errors.UsageError):
            targets = manifest.place([Entry(f"https://host/{path}", path) for path in paths], shared_folder)
            real = [os.path.realpath(target) for target in targets if target]
            assert all(path.startswith(f"{shared_folder}/") for path in real)
            written = [path + ending for path in real for ending in ("", ".part", ".part.json")]
            assert len(written) == len(set(written))
            assert [] == [(one, other) for one in written for other in written if other.startswith(f"{one}/")]
