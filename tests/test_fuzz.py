"""Whatever servers, URLs and headers say, it is understood or refused as documented, and what is understood holds."""

import base64
import contextlib
import math
import string
from urllib.parse import quote

import pytest
import requests
import urllib3.util
from hypothesis import example, given, settings
from hypothesis import strategies as st

from getm import uri
from getm.config import Settings
from getm.engine.messages import PACKET_MOST, Ended, Fetch, decode_from_worker, decode_to_worker, encode
from getm.errors import GetmError, UsageError
from getm.ranges import parse_content_range
from getm.retry import RETRY_AFTER_MOST, Failure, RequestFailed, Trouble, parse_retry_after, pause
from getm.sources.answer import Redirected, check
from getm.sources.base import UNTOLD, Request, Version
from getm.sources.http import HttpSource
from getm.sources.place import _CLEAN_URL, place_of, redirected, request_for, words

NOW = 1_800_000_000.0
SECRET = "hunter2"
OWN = {SECRET, "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()}  # authorizations by it
LATIN = st.text(st.characters(max_codepoint=255))
WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            [*'-019/*,;=:?#@[]\\"', "bytes ", "9" * 20, "W/", '"a"', '""', "gzip", "identity", "chunked", "GMT", "+0000"]
        ),
        st.sampled_from(
            ["Mon, ", " Jan ", "2024", "00:00:00", "http://", "https://", "//", "..", "%00", "%2f", "localhost", "host"]
        ),
        st.sampled_from([":80", "[::1]", "user:pw", "ftp:", "\n", "\r\n"]),
        st.text(max_size=3),
        st.just(" "),
    ),
    max_size=8,
).map("".join)
TEXTS = st.one_of(st.text(), WORDS)
NUMBERS = st.one_of(st.integers(0, 30), st.integers(0, 10**20), st.just("1" + "0" * 5000)).map(str)
SPANS = st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda pair: (pair[0], sum(pair)))
ETAGS = st.none() | st.sampled_from(['"a"', '"b"', 'W/"a"', 'W/"b"', "a", ""])
DATES = st.none() | st.sampled_from(["Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT", "never"])
VERSIONS = st.builds(Version, st.integers(0, 30), ETAGS, DATES)
CONTENT_RANGES = st.one_of(
    WORDS,
    st.builds("bytes {}-{}/{}".format, NUMBERS, NUMBERS, NUMBERS | st.just("*")),
    st.builds("bytes */{}".format, NUMBERS),
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-range": CONTENT_RANGES,
        "content-length": NUMBERS | WORDS,
        "etag": ETAGS.filter(lambda text: text is not None) | WORDS,
        "last-modified": DATES.filter(lambda text: text is not None) | WORDS,
        "location": WORDS,
        "retry-after": NUMBERS | WORDS,
    },
)


def request(span, version=None):
    return Request("http://host/a", {}, *span, version, 1.0, 1.0)


def outcome(call, *arguments):
    """Return what a call returns, and the documented error that it raises instead; any other leaves the test."""
    try:
        return call(*arguments), None
    except (RequestFailed, UsageError) as error:
        return None, error


def check_answer(asked, status, headers):
    """Check that an answer is used only where it can be used for what was asked."""
    answer, failed = outcome(check, asked, status, headers, NOW)
    if failed is not None:
        assert isinstance(failed.failure.error("http://host/a", asked.start, asked.stop, 1), GetmError)
        assert not isinstance(failed, Redirected) or ("location" in headers and status in {301, 302, 303, 307, 308})
        return
    size = answer.version.size
    assert status in {200, 206, 416}
    etag = headers.get("etag", "")
    assert (etag if etag.strip() else None) == answer.version.etag
    if asked.version is not None and not answer.is_whole:
        assert asked.version.difference(answer.version) is None
        assert size == asked.version.size
    if answer.is_whole:
        assert asked.version is None
        assert (0, size if size >= 0 else UNTOLD) == (answer.start, answer.stop)
    elif status == 416:
        assert asked.start == answer.start == answer.stop >= size
    else:
        assert asked.start <= answer.start <= answer.stop <= min(asked.stop, size)
        assert asked.start == answer.start
    assert answer.skipped in {0, asked.start}


class TestAnswers:
    @given(SPANS, st.none() | VERSIONS, st.sampled_from([200, 206, 301, 400, 404, 416, 503]), HEADERS)
    def test_are_used_for_what_was_asked_or_fail_as_documented(self, span, version, status, headers):
        if len(headers.get("content-length", "")) < 4300:  # the test below
            check_answer(request(span, version), status, headers)

    def test_are_so_with_a_length_of_any_length(self):
        check_answer(request((0, 10)), 200, {"content-length": "9" * 4301})

    @given(SPANS, st.integers(0, 30), st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 3))
    def test_that_are_right_are_used(self, span, size, shift, longer, shorter):
        start, stop = span[0] + shift, max(span[0] + shift + 1, span[1] - shorter + longer)
        is_right = shift == 0 and stop <= span[1] and stop <= size
        headers = {"content-range": f"bytes {start}-{stop - 1}/{size}", "content-length": str(stop - start)}
        if is_right:
            answer = check(request(span), 206, headers, NOW)
            assert (start, stop, size) == (answer.start, answer.stop, answer.version.size)
        else:
            with pytest.raises(RequestFailed):
                check(request(span), 206, headers, NOW)

    @given(st.one_of(LATIN, CONTENT_RANGES))
    def test_say_a_range_that_can_be_or_none(self, text):
        said = parse_content_range(text)
        if said is not None and said.start is not None:
            assert 0 <= said.start < said.stop <= (said.size if said.size is not None else math.inf)
            again = f"bytes {said.start}-{said.stop - 1}/{'*' if said.size is None else said.size}"
            assert said == parse_content_range(again)


class TestVersions:
    @given(VERSIONS, VERSIONS)
    def test_differ_both_ways_or_not_at_all(self, one, other):
        assert one.difference(one) is None
        assert (one.difference(other) is None) == (other.difference(one) is None)
        if one.size != other.size:
            assert one.difference(other) is not None

    @given(VERSIONS, VERSIONS)
    def test_of_two_names_are_two(self, one, other):
        if one.is_strong and other.is_strong and one.etag != other.etag:
            assert one.difference(other) is not None
        if not one.is_strong and None not in (one.last_modified, other.last_modified):
            assert one.last_modified == other.last_modified or one.difference(other) is not None

    @given(VERSIONS)
    def test_are_named_by_what_names_them(self, version):
        assert version.validator in (version.etag, version.last_modified)
        assert not (version.validator or "").startswith("W/")

    @pytest.mark.parametrize("etag", ["", " "])
    def test_are_not_named_by_nothing(self, etag):
        assert not Version(5, etag).is_strong
        assert Version(5, etag, "Mon").difference(Version(5, etag, "Tue")) is not None


class TestRetryAfter:
    @given(st.one_of(LATIN, WORDS, NUMBERS, st.datetimes().map(lambda when: when.strftime("%a, %d %b %Y %H:%M:%S GMT"))))
    @example("Mon, 01 Jan 0000 00:00:00 GMT")
    @example("Mon, 01 Jan 2024 00:00:00 +9999")
    @example("Mon, 01 Jan 9999999999 00:00:00 GMT")
    @example("1" * 5000)
    def test_is_a_pause_that_can_be_made_or_nothing(self, text):
        seconds = parse_retry_after(text, NOW)
        assert seconds is None or 0 <= seconds < math.inf
        assert 0 <= pause(2, seconds, 0.5) <= RETRY_AFTER_MOST

    @given(st.integers(0, 10**6))
    def test_of_seconds_and_dates_is_what_they_say(self, seconds):
        assert seconds == parse_retry_after(f" {seconds} ", NOW)

    @given(st.integers(2, 10**6), st.none() | st.floats(allow_nan=False), st.floats(0, 1, exclude_max=True))
    def test_bounds_a_pause(self, attempt, seconds, chance):
        assert 0 <= pause(attempt, seconds, chance) <= RETRY_AFTER_MOST


PIECES = st.text(st.sampled_from(string.ascii_lowercase + string.digits + "-._~%!$&'()*+,;=:@ \\|^é日\"<>`{}"), max_size=8)
PLAIN = st.text(st.sampled_from(string.ascii_lowercase + string.digits), min_size=1, max_size=6)
HOSTS = st.sampled_from(["host", "host:80", "127.0.0.1", "[::1]:8080", "a.b.c"])


PATHS = st.lists(
    st.sampled_from([*"/.-_~aZ9%:@!$&'()*+,;=|", "%2F", "%2f", "%41", "%7E", "%C3%A9", "%5B", "%5b", "//", "..", "é", '"']),
    max_size=8,
).map("".join)


class TestUrls:
    @given(
        st.sampled_from(["http", "https", "HTTP"]),
        st.sampled_from(["host", "a.b-c", "h.", "h-", "a..b", "Host", "127.0.0.1", "[::1]", "user@host", "-a", "xn--a"]),
        st.sampled_from(["", ":80", ":8080", ":080", ":", ":99999"]),
        PATHS,
        PATHS,
        st.sampled_from(["", "?", "?a=b", "?a%2Fb=%7E", "?a=%2f", "#f", "?a#f", "?a?b/c", "?[a]"]),
    )
    @example("https", "host", "", "/a%2Fb", "", "?X-Amz-Signature=0a&b=%2B")
    def test_that_are_sent_as_they_are_would_be_by_requests(self, scheme, host, port, path, more, query):
        url = f"{scheme}://{host}{port}/{path}{query}{more}"
        if not _CLEAN_URL.fullmatch(url):
            return
        prepared = requests.Request("GET", url).prepare()
        assert url == prepared.url
        parsed = urllib3.util.parse_url(url)
        default = {"http": 80, "https": 443}[scheme]
        assert ((scheme, parsed.host, parsed.port or default), parsed.request_uri) == uri.address(url)

    @given(st.dictionaries(TEXTS, TEXTS))
    @example({"range": "bytes=1-2", "ACCEPT": "a", "x-a": "b c"})
    @example({"x-a": "b", "X-A": "c"})
    def test_come_with_headers_as_they_would_by_requests(self, headers):
        sent, sent_by_requests = (
            outcome(words, place_of(f"http://host/{name}", Settings(headers=headers)), 1, 5)[0] for name in ("a", "%7e")
        )
        assert (sent is None) == (sent_by_requests is None)
        if sent is not None:
            assert sent[1] == sent_by_requests[1]
            assert "bytes=1-4" == sent[1]["Range"]

    @given(TEXTS)
    def test_are_opened_or_refused(self, text):
        with contextlib.suppress(UsageError):
            source = HttpSource(text, Settings())
            request = source.request(0, 10)
            assert "bytes=0-9" == request.headers["Range"]
            assert source.name == uri.redact(text)

    @given(TEXTS)
    @example("http://.a/")
    @example("HTTP://0:@0")  # it comes with an authorization of its own
    @example("//hosts/a")
    def test_in_redirects_are_followed_or_refused(self, text):
        for headers in ({"Authorization": SECRET}, {}):
            settings = Settings(headers=headers)
            place, failed = outcome(redirected, place_of(f"http://user:{SECRET}@host:80/a?b", settings), text, settings)
            if failed is not None:
                assert failed.failure.trouble is Trouble.PROTOCOL
                return
            try:
                request = request_for(place, 0, 10)
            except requests.exceptions.InvalidURL:
                return  # which it should not be: test_security has a test for it, and says so
            if request.headers.get("Authorization") in OWN:
                assert ("http", "host", 80) == uri.address(request.url)[0]

    @given(
        PIECES, PIECES, PIECES, PIECES, HOSTS, PLAIN, TEXTS, TEXTS, st.sampled_from(["http", "https", "HTTPS", "ftp", "s3"])
    )
    def test_show_nothing_of_what_may_be_secret(self, user, before, after, more, host, path, query, fragment, scheme):
        query, fragment = f"{query}{SECRET}{more}", f"{fragment}{SECRET}"
        for url in (
            f"{scheme}://{user}:{before}{SECRET}{after}@{host}/{path}?{query}#{fragment}",
            f"{scheme}://{before}{SECRET}{after}@{host}/{path}",
            f"{scheme}://{host}/{path}#{fragment}",
            f"{scheme}://{host}?{query}",
            f"//{user}:{SECRET}{after}@{host}/{path}",
            f"{user}:{SECRET}{after}@{host}/{path}?{query}",
            f"{scheme}:/{user}:{SECRET}{after}@{host}/{path}",
        ):
            assert SECRET not in uri.redact(url)
            assert SECRET not in uri.name(url)
            assert SECRET not in str(outcome(uri.check, url)[1])

    @given(TEXTS)
    def test_without_a_signature_are_themselves_again(self, text):
        short = uri.unsigned(text)
        assert short == uri.unsigned(short)
        assert len(short) <= len(text)
        assert short.startswith(text.partition("?")[0])

    @given(PLAIN, st.lists(st.tuples(PLAIN, PLAIN)), st.randoms())
    def test_that_are_signed_anew_name_the_same_object(self, path, parameters, chance):
        own = [f"{name}={value}" for name, value in parameters]
        for proof in (
            "X-Amz-Signature X-Amz-Date X-Amz-Expires X-Amz-Credential X-Amz-Algorithm X-Amz-SignedHeaders",
            "X-Goog-Signature X-Goog-Date X-Goog-Expires X-Goog-Credential X-Goog-Algorithm X-Goog-SignedHeaders",
            "sig se sv sp sr",
        ):
            signed = []
            for salt in "12":
                mixed = [*own]
                for name in proof.split():  # the order of the others stays
                    mixed.insert(chance.randrange(len(mixed) + 1), f"{name}={salt}{chance.random()}")
                signed.append(uri.unsigned(f"https://host/{path}?{'&'.join(mixed)}"))
            if not {name for name, _ in parameters} & {"sig", "se", "sv", "sp", "sr", "st", "si"}:
                assert signed[0] == signed[1] == f"https://host/{path}" + ("?" + "&".join(own) if own else "")

    @given(
        st.sampled_from(
            [
                "X-Amz-Signature=a&X-Amz-Date={}&X-Amz-Expires={}",
                "Signature=a&Expires={}{}",
                "sig=a&se={}{}&sv=1",
                "se={}&sig={}",
            ]
        ),
        st.one_of(
            WORDS, st.integers().map(str), st.sampled_from(["20260101T000000Z", "2026-01-01", "0001-01-01T00:00:00+14:00"])
        ),
        st.one_of(WORDS, st.integers().map(str), st.just("")),
    )
    def test_expire_at_a_time_or_never(self, query, one, other):
        expiry = uri.expiry(f"https://host/a?{query.format(quote(one), quote(other))}")
        assert expiry is None or math.isfinite(expiry)

    @pytest.mark.parametrize("expiry", [-(10**20), -(10**300)], ids=["20", "300"])
    def test_that_expired_before_all_time_are_explained(self, expiry):
        source = HttpSource(f"http://host/a?Signature=a&AWSAccessKeyId=b&Expires={expiry}", Settings())
        assert "refused" in source.explain(Failure(Trouble.STATUS, "refused", 403)).message

    @given(st.floats(-1e10, NOW - 1e9), st.sampled_from([401, 403, 404]))
    def test_that_expired_are_explained(self, expiry, status):
        source = HttpSource(f"http://host/a?Signature=a&AWSAccessKeyId=b&Expires={int(expiry)}", Settings())
        said = source.explain(Failure(Trouble.STATUS, "refused", status)).message
        assert said.startswith("refused")
        assert ("expired" in said) == (status != 404)


class TestNames:
    @given(
        TEXTS,
        st.sampled_from(["", "attachment; ", "inline;", 'x; name="'] * 2),
        st.sampled_from(["filename", "filename*", "name"]),
    )
    def test_of_a_header_are_those_of_a_file_in_this_folder(self, text, before, parameter):
        name = uri.disposition_name(f"{before}{parameter}={text}")
        assert name is None or (name.isprintable() and not set("/\\\0") & set(name) and not name.startswith((".", " ")))
        assert name is None or 0 < len(name.encode()) <= uri.LONGEST_NAME

    @given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters='/\\".'), min_size=1, max_size=30))
    def test_that_are_well_formed_come_back(self, name):
        assert name == uri.disposition_name(f"attachment; filename*=UTF-8''{quote(name, safe='')}")


STRANGE = st.text(max_size=20)
FAILURES = st.builds(
    Failure,
    st.sampled_from(Trouble),
    STRANGE,
    st.none() | st.integers(100, 599),
    st.none() | st.floats(0, 1e9),
    st.none() | st.integers(1, 40),
)


class TestMessages:
    @given(st.integers(0), st.integers(0), st.floats(0, 1e9), st.none() | FAILURES)
    def test_of_workers_come_as_they_were_sent(self, run, position, seconds, failure):
        message = Ended(run, position, seconds, failure)
        assert message == decode_from_worker(encode(message))

    @given(st.integers(0), STRANGE, st.dictionaries(STRANGE, STRANGE, max_size=4), SPANS, st.none() | VERSIONS)
    def test_to_workers_come_as_they_were_sent(self, run, url, headers, span, version):
        message = Fetch(run, Request(url, headers, *span, version, 1.0, 2.0))
        assert message == decode_to_worker(encode(message))

    LONG = "\u00e9" * 65_000  # a line of a head is at most 65,536 bytes; as UTF-8 it is twice that

    def test_fit_a_packet_with_the_longest_names_of_a_version(self):
        version = check(
            request((0, 10)), 206, {"content-range": "bytes 0-9/10", "etag": self.LONG, "last-modified": self.LONG[1:]}, NOW
        ).version
        assert len(encode(Fetch(1, request((0, 10), version)))) <= PACKET_MOST

    def test_fit_a_packet_with_what_the_longest_names_make_of_a_failure(self):
        known = request((0, 10), Version(10, self.LONG + "x"))
        with pytest.raises(RequestFailed) as caught:
            check(known, 206, {"content-range": "bytes 0-9/10", "etag": self.LONG}, NOW)
        assert len(encode(Ended(1, 0, 0.0, caught.value.failure))) <= PACKET_MOST

    @settings(max_examples=20)
    @given(
        st.integers(100, 599), st.dictionaries(st.sampled_from(["location", "content-range", "retry-after"]), st.just(LONG))
    )
    def test_of_failures_fit_a_packet_whatever_the_server_says(self, status, headers):
        _, failed = outcome(check, request((0, 10)), status, headers, NOW)
        if failed is not None:
            assert len(encode(Ended(1, 0, 0.0, failed.failure))) <= PACKET_MOST
