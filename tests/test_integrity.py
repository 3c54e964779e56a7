"""What is promised about an object, by whom, and whether its bytes keep it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import subprocess
import sys
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from getm import errors, integrity
from getm.integrity import Check, Promise

KIB, MIB = 1 << 10, 1 << 20
NINE = b"123456789"
# The check values of the CRC catalogue (reveng.sourceforge.io/crc-catalogue); the others are what coreutils say.
DIGESTS = {
    "md5": "25f9e794323b453885f5181f1b624d0b",
    "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
    "sha512": "d9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f1176d0c29169bc24e71c3f274a"
    "d27fcd5811b313d681f7e55ec02d73d499c95455b6b5bb503acf574fba8ffe85",
    "crc32": "cbf43926",
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
}
ETAG = DIGESTS["md5"]
AMAZON = {"server": "AmazonS3", "x-amz-request-id": "1"}
SPELLINGS = {name: name for name in integrity.ALGORITHMS} | {
    "sha": "sha1",
    "sha-1": "sha1",
    "sha-256": "sha256",
    "sha-512": "sha512",
    "gs_md5": "md5",
    "gs-md5": "md5",
    "gs_crc32c": "crc32c",
    "gs-crc32c": "crc32c",
    "s3_etag": "s3-etag",
}
HASHED = st.sampled_from(sorted(DIGESTS))


def in_base64(text):
    return base64.b64encode(bytes.fromhex(text)).decode()


def etag_of(data, part_size):
    parts = [data[start : start + part_size] for start in range(0, len(data), part_size)] or [b""]
    digests = [hashlib.md5(part).digest() for part in parts]
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(parts)}"


def check(checksum, data, step=MIB):
    checking = Check(integrity.parse(checksum), len(data))
    view = memoryview(data).toreadonly()
    for start in range(0, len(data), step):
        checking.update(view[start : start + step])
    return checking.finish()


def check_etag(etag, data, headers=AMAZON):
    promise = integrity.choose("auto", {**headers, "etag": f'"{etag}"'})
    checking = Check(promise, len(data))
    checking.update(data)
    return checking.finish()


def origins(headers):
    return [promise.origin for promise in integrity.promised(headers)]


class TestParse:
    @pytest.mark.parametrize("algorithm", DIGESTS)
    def test_takes_a_digest_in_every_form(self, algorithm):
        text = DIGESTS[algorithm]
        encoded = in_base64(text)
        safe = encoded.replace("+", "-").replace("/", "_")
        expected = Promise(algorithm, bytes.fromhex(text), "the caller")
        for digest in (text, text.upper(), f" {text}\n", encoded, encoded.rstrip("="), safe, safe.rstrip("=")):
            for mark in (":", "=", ": ", " = "):
                assert expected == integrity.parse(f"{algorithm}{mark}{digest}")
            assert expected == integrity.parse(digest, algorithm)
            assert expected == integrity.parse(digest, algorithm.upper())

    @pytest.mark.parametrize(("spelling", "algorithm"), SPELLINGS.items())
    def test_knows_other_spellings(self, spelling, algorithm):
        digest = DIGESTS.get(algorithm, ETAG)
        for name in (spelling, spelling.upper(), spelling.title()):
            assert algorithm == integrity.parse(f"{name}:{digest}").algorithm
            assert algorithm == integrity.parse(digest, name).algorithm

    @pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
    def test_tells_by_the_length_of_a_hexadecimal_digest(self, algorithm):
        assert integrity.parse(DIGESTS[algorithm], algorithm) == integrity.parse(DIGESTS[algorithm].upper())

    @given(HASHED, st.data())
    def test_reads_the_same_digest_in_hexadecimal_and_in_base64(self, algorithm, data):
        size = integrity.new(algorithm).digest_size
        digest = data.draw(st.binary(min_size=size, max_size=size))
        promise = Promise(algorithm, digest, "the caller")
        for text in (digest.hex(), base64.b64encode(digest).decode(), base64.urlsafe_b64encode(digest).decode().rstrip("=")):
            assert promise == integrity.parse(f"{algorithm}:{text}")
            assert promise == integrity.parse(text, algorithm)

    @pytest.mark.parametrize(
        ("text", "parts", "part_size"),
        [
            (f"s3-etag:{ETAG}", 0, None),
            (f's3-etag:"{ETAG}"', 0, None),
            (f'"{ETAG}"', 0, None),
            (f"{ETAG}-7", 7, None),
            (f"{ETAG.upper()}-7", 7, None),
            (f'"{ETAG}-7"', 7, None),
            (f"s3-etag:{ETAG}-10000", 10000, None),
            (f"s3-etag={ETAG}-7:8388608", 7, 8 * MIB),
            (f's3-etag:"{ETAG}-7":8MiB', 7, 8 * MIB),
            (f"{ETAG}-7:5120kib", 7, 5 * MIB),
            (f"s3-etag:{ETAG}:8MiB", 0, None),
        ],
    )
    def test_takes_an_etag(self, text, parts, part_size):
        assert Promise("s3-etag", bytes.fromhex(ETAG), "the caller", parts, part_size) == integrity.parse(text)

    def test_takes_the_etag_alone_where_the_algorithm_is_given(self):
        expected = Promise("s3-etag", bytes.fromhex(ETAG), "the caller", 2, 8 * MIB)
        assert expected == integrity.parse(f"{ETAG}-2:8MiB", "s3-etag")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ":",
            "md5",
            "md5:",
            "abc",
            "md5:abc",
            "blake3:" + DIGESTS["sha256"],
            "md5:" + DIGESTS["sha1"],
            "sha256:" + in_base64(DIGESTS["sha1"]),
            "md5:" + DIGESTS["md5"][:-1] + "g",
            "md5:" + DIGESTS["md5"][:16] + " " + DIGESTS["md5"][17:],
            "md5:md5:" + DIGESTS["md5"],
            "crc32c:e306928",
            "crc32c:" + "\u0661" * 8,
            "crc32c:4waSgw==-3",
            "é" * 32,
            in_base64(DIGESTS["md5"]),
            DIGESTS["crc64nvme"],
            f"W/{ETAG}",
            f'"{ETAG}',
            f"{ETAG}-0",
            f"{ETAG}-07",
            f"{ETAG}-1000000",
            f"{ETAG}-2:0",
            f"{ETAG}-2:8MB",
            f"{ETAG}-2:8:8",
            f"md5:{ETAG}-2",
        ],
    )
    def test_refuses_what_is_no_checksum(self, text):
        with pytest.raises(errors.UsageError):
            integrity.parse(text)

    def test_says_what_was_expected(self):
        with pytest.raises(
            errors.UsageError, match="'abc' is no sha1 digest: expected 40 hexadecimal digits, or 20 bytes in"
        ):
            integrity.parse("sha1:abc")
        with pytest.raises(errors.UsageError, match="'blake3' is no algorithm of a checksum: use one of md5, sha1"):
            integrity.parse("abc", "blake3")
        with pytest.raises(errors.UsageError, match="write ALGORITHM:DIGEST with one of md5, sha1"):
            integrity.parse("abc")

    def test_names_both_algorithms_that_eight_digits_may_be_of(self):
        with pytest.raises(errors.UsageError, match="may be crc32 or crc32c: write crc32:e3069283 or crc32c:e3069283"):
            integrity.parse("e3069283")

    @pytest.mark.parametrize("checksum", [None, True, 5, b"md5:" + ETAG.encode()])
    def test_refuses_what_is_no_str(self, checksum):
        with pytest.raises(errors.UsageError, match=f"not {type(checksum).__name__}"):
            integrity.parse(checksum)

    @given(st.text(), st.none() | st.sampled_from(integrity.ALGORITHMS) | st.text())
    @example("\x1b[31m" * 100, None)
    @example("\x1b[31m" * 100, "md5")
    def test_any_text_is_a_promise_or_refused_in_one_short_line(self, text, algorithm):
        refusal = ""
        try:
            assert "the caller" == integrity.parse(text, algorithm).origin
        except errors.UsageError as error:
            refusal = str(error)
        assert refusal.isprintable()
        assert len(refusal) < 300

    def test_text_is_the_digest_in_hexadecimal(self):
        assert DIGESTS["crc32c"] == integrity.parse("crc32c:4waSgw==").text
        assert ETAG == integrity.parse(f"s3-etag:{ETAG.upper()}").text
        assert f"{ETAG}-7" == integrity.parse(f'"{ETAG.upper()}-7":8MiB').text


class TestPromised:
    def test_by_nobody_is_nothing(self):
        assert [] == integrity.promised({"etag": f'"{ETAG}"', "content-type": "text/plain"})

    def test_by_all_comes_best_first(self):
        md5, sha1, sha256 = (in_base64(DIGESTS[name]) for name in ("md5", "sha1", "sha256"))
        headers = {
            **AMAZON,
            "etag": f'"{ETAG}"',
            "x-ms-blob-content-md5": md5,
            "content-md5": md5,
            "digest": f"MD5={md5},SHA-256={sha256},UNIXsum=30637,crc32c=e3069283",
            "repr-digest": f"md5=:{md5}:, sha-256=:{sha256}:;a=1, unknown=:AAAA:",
            "x-amz-checksum-sha256": sha256,
            "x-amz-checksum-sha1": sha1,
            "x-amz-checksum-crc32": "y/Q5Jg==",
            "x-amz-checksum-crc32c": "4waSgw==",
            "x-amz-checksum-crc64nvme": "rosUhgp5mIg=",
            "x-goog-hash": f"md5={md5}, crc32c=4waSgw==",
        }
        expected = [
            ("x-goog-hash", "crc32c"),
            ("x-goog-hash", "md5"),
            ("x-amz-checksum-crc64nvme", "crc64nvme"),
            ("x-amz-checksum-crc32c", "crc32c"),
            ("x-amz-checksum-crc32", "crc32"),
            ("x-amz-checksum-sha1", "sha1"),
            ("x-amz-checksum-sha256", "sha256"),
            ("Repr-Digest", "sha256"),
            ("Repr-Digest", "md5"),
            ("Digest", "sha256"),
            ("Digest", "md5"),
            ("Digest", "crc32c"),
            ("Content-MD5", "md5"),
            ("x-ms-blob-content-md5", "md5"),
            ("ETag", "s3-etag"),
        ]
        found = integrity.promised(headers)
        assert expected == [(promise.origin, promise.algorithm) for promise in found]
        for promise in found:
            assert DIGESTS.get(promise.algorithm, ETAG) == promise.text

    @pytest.mark.parametrize("value", ["crc32c=4waSgw==", "crc32c=4waSgw==,md5=malformed", "md5=,crc32c=4waSgw=="])
    def test_of_a_composite_object_google_has_only_a_crc(self, value):
        assert [Promise("crc32c", bytes.fromhex("e3069283"), "x-goog-hash")] == integrity.promised({"x-goog-hash": value})

    @pytest.mark.parametrize(
        ("stored", "sent", "expected"),
        [
            (None, None, ["x-goog-hash"]),
            (None, "gzip", ["x-goog-hash"]),
            ("identity", None, ["x-goog-hash"]),
            ("gzip", "gzip", ["x-goog-hash"]),
            ("gzip", None, []),
            ("gzip", "identity", []),
            ("identity", "gzip", []),
        ],
    )
    def test_of_stored_bytes_is_nothing_to_those_unpacked_on_the_way(self, stored, sent, expected):
        headers = {"x-goog-hash": "crc32c=4waSgw==", "x-goog-stored-content-encoding": stored, "content-encoding": sent}
        assert expected == origins({name: value for name, value in headers.items() if value is not None})

    @pytest.mark.parametrize(
        ("kind", "content_range", "is_taken"),
        [
            (None, None, True),
            ("FULL_OBJECT", None, True),
            ("COMPOSITE", None, False),
            ("FULL_OBJECT", "bytes 0-8/9", True),
            (None, "bytes 0-8/9", False),
            ("COMPOSITE", "bytes 0-8/9", False),
            ("FULL_OBJECT", "bytes 0-7/9", False),
            ("FULL_OBJECT", "bytes 1-8/9", False),
            ("FULL_OBJECT", "bytes 0-8/*", False),
            ("FULL_OBJECT", "malformed", False),
        ],
    )
    def test_by_amazon_is_of_the_whole_object_only_where_it_says_so(self, kind, content_range, is_taken):
        headers = {"x-amz-checksum-crc32c": "4waSgw==", "x-amz-checksum-type": kind, "content-range": content_range}
        found = origins({name: value for name, value in headers.items() if value is not None})
        assert (["x-amz-checksum-crc32c"] if is_taken else []) == found

    @pytest.mark.parametrize("algorithm", ["crc64nvme", "crc32c", "crc32", "sha1", "sha256"])
    def test_by_amazon_for_parts_is_nothing(self, algorithm):
        digest = in_base64(DIGESTS[algorithm])
        for parts in (1, 2, 33, 444, 10000):
            assert [] == integrity.promised({f"x-amz-checksum-{algorithm}": f"{digest}-{parts}"})
            assert [] == integrity.promised({f"x-amz-checksum-{algorithm}": f"{digest.rstrip('=')}-{parts}"})

    @pytest.mark.parametrize("origin", ["Repr-Digest", "Digest"])
    def test_of_the_representation_holds_for_a_range_too(self, origin):
        value = f"sha-512=:{in_base64(DIGESTS['sha512'])}:"
        assert [origin] == origins({origin.lower(): value, "content-range": "bytes 0-3/9"})

    def test_of_the_content_is_nothing(self):
        assert [] == integrity.promised({"content-digest": f"sha-256=:{in_base64(DIGESTS['sha256'])}:"})

    @pytest.mark.parametrize("digest", [DIGESTS["md5"], DIGESTS["md5"].upper(), in_base64(DIGESTS["md5"])])
    def test_of_the_message_holds_for_all_of_the_object(self, digest):
        expected = [Promise("md5", bytes.fromhex(DIGESTS["md5"]), "Content-MD5")]
        assert expected == integrity.promised({"content-md5": digest})
        assert expected == integrity.promised({"content-md5": digest, "content-range": "bytes 0-8/9"})

    @pytest.mark.parametrize("content_range", ["bytes 0-7/9", "bytes 1-8/9", "bytes 0-8/*", "bytes */9", "", "malformed"])
    def test_of_the_message_is_nothing_to_a_range(self, content_range):
        digest = in_base64(DIGESTS["md5"])
        headers = {"content-md5": digest, "x-ms-blob-content-md5": digest, "content-range": content_range}
        assert ["x-ms-blob-content-md5"] == origins(headers)

    @pytest.mark.parametrize("server", [{"server": "AmazonS3"}, {"server": "amazons3"}, {"x-amz-request-id": "1"}])
    @pytest.mark.parametrize("content_range", [{}, {"content-range": "bytes 0-3/9"}])
    def test_by_an_etag_is_an_s3s(self, server, content_range):
        for etag, parts in ((ETAG, 0), (f'"{ETAG}"', 0), (f'"{ETAG}-12"', 12)):
            expected = [Promise("s3-etag", bytes.fromhex(ETAG), "ETag", parts)]
            assert expected == integrity.promised({**server, **content_range, "etag": etag})

    @pytest.mark.parametrize(
        "etag", ["", '"', f'W/"{ETAG}"', f'"{ETAG}0"', f'"{ETAG}-"', f'"{ETAG}-0"', f'"{ETAG}-a"', f"{ETAG}-1-1"]
    )
    def test_by_an_etag_of_another_form_is_nothing(self, etag):
        assert [] == integrity.promised({**AMAZON, "etag": etag})

    @pytest.mark.parametrize(
        "headers",
        [
            {"server": "nginx"},
            {"server": "UploadServer", "x-goog-generation": "1"},
            {**AMAZON, "x-amz-server-side-encryption": "aws:kms"},
            {**AMAZON, "x-amz-server-side-encryption": "aws:kms:dsse"},
            {**AMAZON, "x-amz-server-side-encryption": "aws:fsx"},
            {**AMAZON, "x-amz-server-side-encryption-customer-algorithm": "AES256"},
            {**AMAZON, "x-amz-storage-class": "EXPRESS_ONEZONE"},
        ],
    )
    def test_by_an_etag_that_is_no_md5_is_nothing(self, headers):
        assert [] == integrity.promised({**headers, "etag": f'"{ETAG}"'})

    def test_by_an_etag_holds_where_s3_itself_encrypts(self):
        assert ["ETag"] == origins({**AMAZON, "etag": f'"{ETAG}"', "x-amz-server-side-encryption": "AES256"})

    def test_by_an_etag_of_one_part_is_an_amazons(self):
        assert ["ETag"] == origins({**AMAZON, "etag": f'"{ETAG}-1"'})
        assert [] == origins({"server": "MinIO", "x-amz-request-id": "1", "etag": f'"{ETAG}-1"'})
        assert ["ETag"] == origins({"server": "MinIO", "x-amz-request-id": "1", "etag": f'"{ETAG}-11"'})

    def test_at_great_length_is_nothing(self):
        digest = in_base64(DIGESTS["md5"])
        assert ["Digest"] == origins({"digest": "x=y," * 1000 + f"md5={digest}"})
        assert [] == origins({"digest": "x=y," * 10_000 + f"md5={digest}", "content-md5": " " * 10_000 + digest})

    @given(
        st.dictionaries(
            st.sampled_from(
                [
                    *("x-goog-hash", "x-goog-stored-content-encoding", "content-encoding", "content-range", "content-md5"),
                    *(f"x-amz-checksum-{name}" for name in ("type", "crc64nvme", "crc32c", "crc32", "sha1", "sha256")),
                    *("repr-digest", "digest", "x-ms-blob-content-md5", "etag", "server", "x-amz-request-id"),
                ]
            ),
            st.one_of(
                st.text(),
                st.text(alphabet='abcdef0123456789-="/:, +_'),
                st.from_regex(r"(md5|sha-256|crc32c|s3-etag)=:?[A-Za-z0-9+/]{5,44}={0,2}:?(;a=1)?(, ?\w*=?)*"),
                st.from_regex(r'"?[0-9a-f]{32}(-\d{1,6})?"?(:\d+)?'),
                st.sampled_from(["AmazonS3", "FULL_OBJECT", "identity", "bytes 0-8/9", in_base64(ETAG), "4waSgw=="]),
            ),
        )
    )
    def test_in_any_text_never_raises(self, headers):
        for promise in integrity.promised(headers):
            assert integrity.parse(promise.text, promise.algorithm).digest == promise.digest


class TestChoose:
    HEADERS = {"x-goog-hash": f"crc32c=4waSgw==,md5={in_base64(ETAG)}"}  # noqa: RUF012  # a constant

    @pytest.mark.parametrize("checksum", [None, "none", "null", "NULL", " none "])
    def test_nothing_is_verified_where_nothing_is_asked(self, checksum):
        assert integrity.choose(checksum, self.HEADERS) is None

    @pytest.mark.parametrize("checksum", ["auto", "Auto"])
    def test_auto_is_the_best_that_the_server_promises(self, checksum):
        assert Promise("crc32c", bytes.fromhex("e3069283"), "x-goog-hash") == integrity.choose(checksum, self.HEADERS)
        assert integrity.choose(checksum, {}) is None

    def test_the_caller_goes_before_the_server(self):
        assert integrity.parse(f"md5:{ETAG}") == integrity.choose(f"md5:{ETAG}", self.HEADERS)

    @pytest.mark.parametrize("checksum", ["", "automatic", "md5", True, 1])
    def test_anything_else_is_refused(self, checksum):
        with pytest.raises(errors.UsageError):
            integrity.choose(checksum, self.HEADERS)


class TestHash:
    @pytest.mark.parametrize("algorithm", DIGESTS)
    def test_agrees_with_known_values(self, algorithm):
        running = integrity.new(algorithm)
        assert (algorithm, len(DIGESTS[algorithm]) // 2) == (running.name, running.digest_size)
        running.update(NINE[:4])
        running.update(NINE[4:])
        assert DIGESTS[algorithm] == running.hexdigest() == running.digest().hex()

    @pytest.mark.parametrize("algorithm", DIGESTS)
    def test_takes_any_contiguous_buffer(self, algorithm):
        for buffer in (
            bytearray(NINE),
            memoryview(NINE),
            memoryview(b"0" + NINE)[1:],
            memoryview(bytearray(NINE)).toreadonly(),
        ):
            running = integrity.new(algorithm)
            running.update(buffer)
            assert DIGESTS[algorithm] == running.hexdigest()

    @pytest.mark.parametrize("algorithm", DIGESTS)
    def test_refuses_other_buffers_and_is_as_before(self, algorithm):
        running = integrity.new(algorithm)
        running.update(NINE)
        released = memoryview(NINE)
        released.release()
        for buffer in (released, memoryview(NINE)[::2]):
            with pytest.raises((ValueError, BufferError)):
                running.update(buffer)
        assert DIGESTS[algorithm] == running.hexdigest()

    @pytest.mark.parametrize("algorithm", ["crc32", "crc32c", "crc64nvme"])
    def test_keeps_leading_zeros(self, algorithm):
        running = integrity.new(algorithm)
        assert "00" * running.digest_size == running.hexdigest()

    @given(HASHED, st.lists(st.binary(max_size=64)))
    def test_is_the_same_however_the_bytes_are_split(self, algorithm, parts):
        running = integrity.new(algorithm)
        for part in parts:
            running.update(part)
        data = b"".join(parts)
        whole = integrity.new(algorithm)
        whole.update(data)
        assert whole.digest() == running.digest()
        if algorithm == "crc32":
            assert zlib.crc32(data).to_bytes(4, "big") == running.digest()
        elif not algorithm.startswith("crc"):
            assert hashlib.new(algorithm, data).digest() == running.digest()

    @pytest.mark.parametrize("algorithm", ["", "blake3", "s3-etag"])
    def test_is_made_for_no_other_algorithm(self, algorithm):
        with pytest.raises(errors.UsageError, match=r"use one of md5, .*crc64nvme$"):
            integrity.new(algorithm)

    def test_awscrt_is_imported_only_where_it_hashes(self):
        script = """
import sys
from getm import integrity
for algorithm in ("md5", "sha1", "sha256", "sha512", "crc32"):
    integrity.new(algorithm).update(b"")
integrity.Check(integrity.parse("crc32c:e3069283"), 9)
assert "awscrt" not in sys.modules
integrity.new("crc32c").update(b"")
assert "awscrt" in sys.modules
"""
        subprocess.run([sys.executable, "-c", script], check=True)


class TestCheck:
    @pytest.mark.parametrize("algorithm", DIGESTS)
    def test_right_bytes_are_verified(self, algorithm):
        assert check(f"{algorithm}:{DIGESTS[algorithm]}", NINE)
        assert check(f"{algorithm}:{DIGESTS[algorithm]}", NINE, step=2)

    @pytest.mark.parametrize("algorithm", ["crc32", "crc32c", "crc64nvme"])
    @given(data=st.binary(max_size=300), choice=st.randoms(use_true_random=False))
    def test_bytes_of_a_crc_come_in_any_order(self, algorithm, data, choice):
        running = integrity.new(algorithm)
        running.update(data)
        checking = Check(integrity.parse(f"{algorithm}:{running.hexdigest()}"), len(data))
        while checking.count < len(data):
            start, stop = choice.choice(checking.wanted([(0, len(data) // 2), (len(data) // 2, len(data))]))
            start = choice.randrange(start, stop)
            stop = choice.randint(start + 1, stop)
            checking.update(data[start:stop], start)
        assert [] == checking.wanted([(0, len(data))])
        assert checking.finish()

    def test_bytes_of_others_come_in_theirs(self):
        checking = Check(integrity.parse(f"md5:{DIGESTS['md5']}"), 9)
        assert [(0, 4)] == checking.wanted([(0, 4), (6, 9)])
        checking.update(NINE[:4], 0)
        assert [] == checking.wanted([(0, 4), (6, 9)])
        assert [(4, 9)] == checking.wanted([(2, 9)])

    @pytest.mark.parametrize("algorithm", DIGESTS)
    def test_of_others_it_says_what_was_promised_by_whom_and_what_came(self, algorithm):
        promised = "12" * (len(DIGESTS[algorithm]) // 2)
        with pytest.raises(errors.IntegrityError) as caught:
            check(f"{algorithm}:{promised.upper()}", NINE)
        assert f"{algorithm} is {DIGESTS[algorithm]}, the caller promised {promised}" == str(caught.value)
        facts = caught.value.algorithm, caught.value.expected, caught.value.actual
        assert (algorithm, promised, DIGESTS[algorithm]) == facts

    def test_names_the_header_that_promised(self):
        checking = Check(integrity.choose("auto", {"x-goog-hash": "crc32c=ESIzRA=="}), 9)
        checking.update(NINE)
        with pytest.raises(errors.IntegrityError, match="crc32c is e3069283, x-goog-hash promised 11223344"):
            checking.finish()

    def test_says_the_same_when_asked_again_and_takes_no_more(self):
        for digest, outcome in (("e3069283", contextlib.nullcontext()), ("e3069284", pytest.raises(errors.IntegrityError))):
            checking = Check(integrity.parse(f"crc32c:{digest}"), 9)
            checking.update(NINE)
            for _ in range(2):
                with outcome:
                    assert checking.finish()
            with pytest.raises(ValueError, match="after finish"):
                checking.update(b"")
            assert 9 == checking.count

    def test_wants_as_many_bytes_as_the_object_has(self):
        checking = Check(integrity.parse("crc32c:e3069283"), 9)
        checking.update(NINE[:5])
        assert 5 == checking.count
        with pytest.raises(ValueError, match="5 bytes of 9"):
            checking.finish()
        checking.update(NINE[5:])
        assert (True, 9) == (checking.finish(), checking.count)
        checking = Check(integrity.parse("crc32c:e3069283"), 8)
        checking.update(NINE)
        with pytest.raises(ValueError, match="9 bytes of 8"):
            checking.finish()

    def test_counts_bytes_not_items_and_keeps_no_view(self):
        data = bytearray(NINE + b"000")
        checking = Check(integrity.parse(f"md5:{hashlib.md5(data).hexdigest()}"), 12)
        checking.update(memoryview(data).cast("I"))
        data.append(0)  # which a view would forbid
        assert (12, True) == (checking.count, checking.finish())

    @pytest.mark.parametrize("checksum", [f"md5:{ETAG}", f"{ETAG}-3:4", f"{ETAG}-2"])
    def test_refuses_a_released_buffer_and_is_as_before(self, checksum):
        checking = Check(integrity.parse(checksum), 9)
        released = memoryview(NINE)
        released.release()
        with pytest.raises(ValueError):
            checking.update(released)
        assert 0 == checking.count

    def test_tells_what_it_was_made_of(self):
        promise = integrity.parse(f"md5:{ETAG}")
        checking = Check(promise, 9)
        assert (promise, 9, False) == (checking.promise, checking.size, checking.is_hopeless)

    @pytest.mark.parametrize("algorithm", DIGESTS)
    def test_an_empty_object_has_a_digest_too(self, algorithm):
        assert check(f"{algorithm}:{integrity.new(algorithm).hexdigest()}", b"")
        with pytest.raises(errors.IntegrityError):
            check(f"{algorithm}:{DIGESTS[algorithm]}", b"")


class TestEtag:
    def test_of_one_put_is_an_md5(self):
        assert check(f"s3-etag:{ETAG}", NINE)
        assert check_etag(ETAG, NINE)
        with pytest.raises(errors.IntegrityError, match=f"s3-etag is {ETAG}, ETag promised {'0' * 32}"):
            check_etag("0" * 32, NINE)

    def test_of_two_parts_is_the_md5_of_two_md5s(self):
        part = bytes.fromhex("5f363e0e58a95f06cbe9bbc662c5dfb6")  # of 5 MiB of zeros
        assert check_etag(f"{hashlib.md5(part * 2).hexdigest()}-2", bytes(10 * MIB))

    @given(st.binary(max_size=200), st.integers(1, 220), st.integers(1, 220))
    def test_with_the_size_of_the_parts_is_certain(self, data, part_size, step):
        etag = etag_of(data, part_size)
        assert check(f"{etag}:{part_size}", data, step)
        with pytest.raises(errors.IntegrityError) as caught:
            check(f"{'0' * 32}{etag[32:]}:{part_size}", data, step)
        assert etag == caught.value.actual

    @pytest.mark.parametrize(("part_size", "text"), [(4 * KIB, "4KiB"), (5000, "5000"), (MIB, "1MiB")])
    def test_takes_the_size_of_the_parts_as_text(self, part_size, text):
        data = bytes(9999)
        assert check(f"s3-etag:{etag_of(data, part_size)}:{text}", data)

    @pytest.mark.parametrize(("parts", "part_size"), [(2, 3), (4, 3), (3, 9), (1, 8), (2, 1)])
    def test_of_parts_that_do_not_fit_the_object_is_not_its(self, parts, part_size):
        with pytest.raises(
            errors.IntegrityError, match=f"s3-etag is of 9 bytes in parts of {part_size}, the caller promised"
        ):
            check(f"{ETAG}-{parts}:{part_size}", NINE)

    @pytest.mark.parametrize("part_size", [5_000_000, 5 * MIB, 8_000_000, 8 * MIB])
    @pytest.mark.parametrize("size", [10_000_000, 16 * MIB, 17_000_001])
    def test_of_usual_parts_is_found_out(self, part_size, size):
        data = bytes(size)
        assert check_etag(etag_of(data, part_size), data)

    @pytest.mark.parametrize("part_size", [6_123_456, 5 * MIB + 1])
    def test_of_unusual_parts_is_no_alarm(self, part_size):
        data = bytes(12_000_000)
        assert check_etag(etag_of(data, part_size), data) is False

    @given(st.integers(0, 3000), st.integers(2, 9))
    def test_of_unknown_parts_is_never_an_alarm(self, size, parts):
        checking = Check(integrity.parse(f"{ETAG}-{parts}"), size)
        assert checking.is_hopeless  # no usual part is so small
        checking.update(bytes(size))
        assert (False, False, size) == (checking.finish(), checking.finish(), checking.count)

    @given(st.integers(0, 1 << 60), st.integers(2, 10_000))
    def test_few_sizes_are_tried_and_all_of_them_fit(self, size, parts):
        promise = integrity.parse(f"{ETAG}-{parts}")
        tried = integrity._part_sizes(promise, size)
        assert len(set(tried)) == len(tried) <= integrity.GUESSES
        assert {parts} >= {-(-size // part_size) for part_size in tried}

    @pytest.mark.parametrize(
        ("size", "parts", "tried"),
        [
            (100 * MIB, 13, [8 * MIB]),
            (100 * MIB, 20, [5 * MIB]),
            (20_000 * 8 * MIB, 10_000, [16 * MIB]),
            (9_999 * 23 * MIB, 9_999, [23 * MIB]),
            (100_000_000, 20, [5 * MIB, 5_000_000]),
            (12 * MIB, 2, [8 * MIB, 10 * MIB, 8_000_000, 10_000_000]),
            (14 * MIB, 2, [8 * MIB, 10 * MIB, 8_000_000, 10_000_000]),
            (1 << 60, 2, [1 << 59, (1 << 59) + MIB, (1 << 59) + 2 * MIB, (1 << 59) + 3 * MIB]),
            (0, 2, []),
            (1, 2, []),
        ],
    )
    def test_usual_sizes_are_tried_first(self, size, parts, tried):
        assert tried == integrity._part_sizes(integrity.parse(f"{ETAG}-{parts}"), size)

    def test_of_one_part_is_certain_whatever_its_size(self):
        data = bytes(1000)
        etag = etag_of(data, 5000)
        assert check(etag, data)
        assert check_etag(etag, data)
        with pytest.raises(errors.IntegrityError):
            check_etag(f"{ETAG}-1", data)

    def test_of_an_empty_object(self):
        etag = etag_of(b"", 1)
        assert check(etag, b"")
        assert check(f"{etag}:8MiB", b"")
        assert check(f"s3-etag:{hashlib.md5(b'').hexdigest()}", b"")
