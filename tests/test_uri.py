"""What getm reads, what it shows, and what a copy is called."""

from __future__ import annotations

import contextlib
import traceback
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from getm import errors, uri

SECRET = "hunter2"
PLAIN_NAMES = st.from_regex(r"[a-z0-9][a-zA-Z0-9_ é日.-]{0,40}[a-zA-Z0-9]", fullmatch=True)


class TestCheck:
    @pytest.mark.parametrize(
        "url",
        [
            "http://host",
            "https://host/path",
            "HTTPS://host:8443/path?query#fragment",
            "http://[::1]:80/",
            "http://user:password@127.0.0.1/a%20b",
            "https://host/a name with blanks",
        ],
    )
    def test_a_readable_url_comes_back_as_it_is(self, url: str) -> None:
        assert url == uri.check(url)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "file.csv",
            "/data/file.csv",
            "ftp://host/file",
            "s3://bucket/key",
            "http:///file",
            "http://",
            "https://:80/file",
            "https://host:port/file",
            "https://host:99999/file",
            "http://[::1/file",
            "https://host/file\n",
            " https://host/file",
            "https://ho\tst/file",
            "https://host/\udcff",
        ],
    )
    def test_anything_else_is_refused(self, url: str) -> None:
        with pytest.raises(errors.UsageError):
            uri.check(url)

    @pytest.mark.parametrize("url", [None, 7, b"https://host/file"])
    def test_what_is_not_a_str_is_refused_by_its_type(self, url: object) -> None:
        with pytest.raises(errors.UsageError, match=f"not {type(url).__name__}"):
            uri.check(url)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "url",
        [
            f"ftp://user:{SECRET}@host/file?key={SECRET}#{SECRET}",
            f"https://user:{SECRET}?@host/file",
            f"https://user:{SECRET}/@host/file",
            f"https://user:{SECRET}#@host/file",
            f"user:{SECRET}@host/file",
            f"https:/user:{SECRET}@host/file",
            f"https://host/file?key={SECRET}\n",
        ],
    )
    def test_the_refusal_keeps_secrets_to_itself_in_text_and_traceback(self, url: str) -> None:
        with pytest.raises(errors.UsageError) as caught:
            uri.check(url)
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    @given(st.text())
    def test_no_text_does_anything_but_pass_or_be_refused(self, text: str) -> None:
        with contextlib.suppress(errors.UsageError):
            assert text == uri.check(text)


class TestRedact:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("https://host/path", "https://host/path"),
            ("https://user:password@host:80/path?query#fragment", "https://host:80/path"),
            ("https://token@host", "https://host"),
            ("https://a@b@host/path", "https://host/path"),
            ("https://host/@scope/a@2x.png", "https://host/@scope/a@2x.png"),
            ("https://host/image:tag@1", "https://host/image:tag@1"),
            ("http://user@[::1]:80/path", "http://[::1]:80/path"),
            ("https://host?query/path", "https://host"),
            ("file:///etc/passwd", "file:///etc/passwd"),
            ("", ""),
            ("user:password@host/path", "host/path"),
            ("//user:password@host/path", "//host/path"),
            ("https:/user:password@host/path", "https:/host/path"),
            ("https://https://user:password@host/path", "https://https://host/path"),
            ("https://user:pass?word@host/path", "https://..."),
            ("https://user:pass/word@host/path", "https://..."),
            ("https://host/a\nb\x1b[31m", "https://host/a_b_[31m"),
        ],
    )
    def test_shows_what_is_no_secret(self, url: str, shown: str) -> None:
        assert shown == uri.redact(url)

    @given(st.text())
    def test_any_text_becomes_one_printable_line_without_a_query(self, text: str) -> None:
        shown = uri.redact(text)
        assert shown.isprintable()
        assert not set("?#") & set(shown)
        assert shown == uri.redact(shown)

    @given(st.text(), st.text(), st.sampled_from(["host", "host:80", "[::1]"]), PLAIN_NAMES, st.text())
    def test_of_a_well_formed_url_scheme_host_and_path_remain(
        self, user: str, password: str, host: str, path: str, query: str
    ) -> None:
        user, password = (quote(text.encode(errors="replace"), safe="") for text in (user, password))
        assert f"https://{host}/{path}" == uri.redact(f"https://{user}:{password}@{host}/{path}?{query}")


class TestName:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("https://host/folder/file.csv?key=a/b#c/d", "file.csv"),
            ("https://host/a%20b.csv", "a b.csv"),
            ("https://host/na%C3%AFve.csv", "naïve.csv"),
            ("https://host/bucket/o/folder%2Ffile.csv?alt=media", "file.csv"),
            ("https://host/.zattrs", ".zattrs"),
            ("https://host/a%00b%0Ac", "a_b_c"),
            ("https://host/C:%5Cfolder%5Cfile", "file"),
            ("https://host/%E2%80%AEtxt.exe", "_txt.exe"),
            ("https://host/%FF", "\N{REPLACEMENT CHARACTER}"),
            ("https://host/folder/", ""),
            ("https://host/", ""),
            ("https://host", ""),
            ("https://host?file", ""),
            ("https://host/..", ""),
            ("https://host/%2e%2E", ""),
            ("https://host/folder%2F", ""),
            ("https://host/%20", ""),
            ("nonsense", ""),
            ("", ""),
        ],
    )
    def test_is_the_last_segment_of_the_path(self, url: str, expected: str) -> None:
        assert expected == uri.name(url)

    def test_a_long_name_keeps_its_beginning_and_its_ending(self) -> None:
        assert "a" * 180 + "b" * 13 + ".vcf.gz" == uri.name(f"https://host/{'a' * 300}{'b' * 13}.vcf.gz")

    def test_a_long_name_is_not_cut_within_a_character(self) -> None:
        assert "日" * 60 + "日" * 6 == uri.name(f"https://host/{'日' * 100}")

    @given(st.text())
    def test_any_text_gives_a_base_name_or_nothing(self, text: str) -> None:
        for url in (text, f"https://host/{text}", f"https://host/{quote(text, errors='replace')}"):
            assert uri.name(url) == "" or is_tame(uri.name(url))

    @given(PLAIN_NAMES)
    def test_an_ordinary_name_survives(self, name: str) -> None:
        assert name == uri.name(f"https://host/folder/{quote(name)}?query")


class TestDispositionName:
    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ("attachment; filename=file.csv", "file.csv"),
            ('attachment; filename="a file.csv"', "a file.csv"),
            ("ATTACHMENT;FileName = file.csv ; size=3", "file.csv"),
            ("filename=file.csv", "file.csv"),
            ('attachment; filename="a;b=c.csv"', "a;b=c.csv"),
            (r'attachment; filename="a\"b.csv"', 'a"b.csv'),
            ('attachment; filename="unfinished.csv', "unfinished.csv"),
            ('attachment; name="; filename=wrong"; filename=right', "right"),
            ("attachment; filename=first; filename=second", "first"),
            ("attachment; filename*=UTF-8''na%C3%AFve%20file.csv", "naïve file.csv"),
            ("attachment; filename*=iso-8859-1'en'na%EFve.csv", "naïve.csv"),
            ("attachment; filename*=\"UTF-8''quoted.csv\"", "quoted.csv"),
            ("attachment; filename=plain.csv; filename*=UTF-8''extended.csv", "extended.csv"),
            ("attachment; filename*=UTF-8''extended.csv; filename=plain.csv", "extended.csv"),
            ("attachment; filename*=malformed; filename=plain.csv", "plain.csv"),
            ("attachment; filename*=UTF-8''; filename=plain.csv", "plain.csv"),
            ("attachment; filename*=no-such-charset''a%20b.csv", "a b.csv"),
            ('attachment; filename="na\u00efve.csv"', "naïve.csv"),
            ('attachment; filename="na\u00c3\u00afve.csv"', "naïve.csv"),
        ],
    )
    def test_is_what_the_server_calls_the_object(self, header: str, expected: str) -> None:
        assert expected == uri.disposition_name(header)

    @pytest.mark.parametrize(
        "header", ["", "inline", "attachment", "attachment; filename=", 'attachment; filename=""', ";;;="]
    )
    def test_is_none_where_the_server_gives_no_name(self, header: str) -> None:
        assert uri.disposition_name(header) is None

    @pytest.mark.parametrize(
        ("hostile", "expected"),
        [
            ("../../evil", "evil"),
            ("/etc/passwd", "passwd"),
            (r"C:\x", "x"),
            (r"..\..\evil", "evil"),
            (".bashrc", "bashrc"),
            (". .ssh", "ssh"),
            ("a\x00b\r\nc\x1b[2J", "a_b__c_[2J"),
            (".", None),
            ("..", None),
            ("../", None),
            ("   ", None),
        ],
    )
    def test_a_hostile_name_is_tamed_in_either_form(self, hostile: str, expected: str | None) -> None:
        assert expected == uri.disposition_name(f'attachment; filename="{hostile}"')
        assert expected == uri.disposition_name(f"attachment; filename*=UTF-8''{quote(hostile, safe='')}")

    @given(st.one_of(st.text(), st.text(alphabet="filename*=\"'\\;/.% UTF-8\0\n")))
    def test_any_text_gives_a_base_name_or_none(self, text: str) -> None:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        for header in (
            text,
            f"attachment; {text}",
            f'attachment; filename="{quoted}"',
            f"attachment; filename*=UTF-8''{text}",
        ):
            found = uri.disposition_name(header)
            assert found is None or (is_tame(found) and not found.startswith("."))

    @given(PLAIN_NAMES)
    def test_an_ordinary_name_survives_in_either_form(self, name: str) -> None:
        assert name == uri.disposition_name(f'attachment; filename="{name}"')
        assert name == uri.disposition_name(f"attachment; filename*=UTF-8''{quote(name)}")


def is_tame(name: str) -> bool:
    """Say whether *name* can be created in a folder, and nowhere else."""
    return (
        name not in ("", ".", "..")
        and not set("/\\") & set(name)
        and name.isprintable()
        and len(name.encode()) <= uri.LONGEST_NAME
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/o", "https://h/o"),
        ("https://h/o?id=1", "https://h/o?id=1"),
        ("https://h/o?versionId=3&X-Amz-Date=1&X-Amz-Expires=2&X-Amz-Signature=ab", "https://h/o?versionId=3"),
        ("https://h/o?X-Amz-Date=1", "https://h/o?X-Amz-Date=1"),
        ("https://h/o?X-Goog-Signature=ab&x-goog-date=1&generation=7", "https://h/o?generation=7"),
        ("https://h/o?Expires=1&Signature=a&AWSAccessKeyId=b", "https://h/o"),
        ("https://h/o?Expires=1&id=a", "https://h/o?Expires=1&id=a"),
        ("https://h/o?sv=1&se=2&sr=b&sp=r&sig=ab&snapshot=4", "https://h/o?snapshot=4"),
        ("https://h/o?X-Amz-Signature=ab&response-content-type=a", "https://h/o?response-content-type=a"),
    ],
)
def test_unsigned_leaves_out_what_signs_and_nothing_else(url, expected):
    assert expected == uri.unsigned(url)
