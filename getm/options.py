"""What the command line takes: names, forms and help of its arguments and options, and what they mean together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import click

import getm
from getm import config
from getm.transfer import Terms

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_CONNECTIONS = 8
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]+")

HELP_ENDING = """\b
Examples:
  getm https://host/reads.bam reads.bam
  getm -x 16 'https://bucket.s3.amazonaws.com/reads.bam?X-Amz-Signature=...'
  getm --checksum sha256:9f86d0...0a08 https://host/a.csv a.csv
  getm --manifest files.tsv --dir data --jobs 16 --failed again.json
  getm https://host/reads.vcf.gz - | zcat | head

\b
A manifest is a JSON array or JSON lines of objects with "url" and, if need
be, "filepath", "checksum", "checksum-algorithm", "size", "headers"; a table
with such a header, separated by tabs or commas; or a list of URLs. What is
there already and right is not copied again, failures are listed at the end.

\b
Checksums are ALGORITHM:DIGEST, in hexadecimal or base64. Algorithms: md5,
sha1, sha256, sha512, crc32, crc32c, crc64nvme, s3-etag (s3-etag:HEX-N:8MiB
where the size of the parts is known); null for none. Without one, what the
server promises is verified.

\b
Exit codes; of several files the largest:
  0    the files are there and complete
  1    an error that is none of these
  2    wrong usage
  3    the object does not exist
  4    access refused, or the URL has expired
  5    the network or the server gave out
  6    the bytes are not those that were promised
  7    the file cannot be written, or is there already
  8    the object changed while it was copied
  129  stopped by SIGHUP, as when a terminal is closed
  130  stopped by Ctrl-C
  141  nobody reads stdout any more
  143  stopped by SIGTERM

\b
What a stopped copy has brought stays in FILE.part, and the same command goes
on with it. Completion for bash: eval "$(_GETM_COMPLETE=bash_source getm)"
"""


def take(function: Callable[..., int]) -> click.Command:
    """Return the command that calls *function* with all that is given, by name, and its context."""
    command: Any = click.pass_context(function)
    for option in reversed(_OPTIONS):
        command = option(command)
    settings = {"help_option_names": ["-h", "--help"], "allow_extra_args": True}
    return click.command(context_settings=settings, epilog=HELP_ENDING)(command)


def settings(given: dict[str, Any]) -> config.Settings:
    """Return how objects are to be read."""
    proxies = None if given["proxy"] is None else {"http": given["proxy"], "https": given["proxy"]}
    return config.Settings(
        concurrency=given["connections"] or (1 if given["limit_rate"] else _CONNECTIONS),
        headers=given["headers"],
        timeout=(given["connect"], 30.0),
        retries=given["retries"],
        deadline=given["deadline"],
        verify=given["cacert"],
        proxies=proxies,
    )


def terms(given: dict[str, Any]) -> Terms:
    """Return how objects are to be copied.

    Raises:
        click.UsageError: what is said of checksums makes no sense together.
        UsageError: the checksum is none.
    """
    checksum = "null" if given["no_verify"] else "auto"
    if given["algorithm"] == "null":  # so the original said it
        checksum = "null"
    elif given["checksum"] is not None:  # of an empty one, as of a variable that is not set, `Terms` says so
        checksum = f"{given['algorithm']}:{given['checksum']}" if given["algorithm"] else given["checksum"]
    elif given["algorithm"]:
        raise click.UsageError("--checksum-algorithm is for a --checksum")
    if given["require_checksum"] and checksum == "null" and given["listed"] is None:
        raise click.UsageError("--require-checksum excludes --no-verify, and the algorithm null")
    # A FILE that was named is asked about only if that costs no request, which a digest of the caller's own does not.
    is_named = given["listed"] is None and (given["file"], given["output"]) != (None, None)
    return Terms(
        checksum=checksum,
        require_checksum=given["require_checksum"],
        resume=not given["no_resume"],
        keep_time=not given["no_mtime"],
        fsync=given["fsync"],
        limit_rate=given["limit_rate"],
        skip=not given["force"] and (not is_named or bool(given["checksum"])),
    )


def _check_file(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and "://" in value:
        raise click.BadParameter("this is a URL; for several, give a --manifest, which may be a list of URLs")
    if value == "":
        raise click.BadParameter("this is empty, as of a variable that is not set")
    return value


def _parse_rate(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d*)?)([kmg]?)(?:i?b)?(?:/s)?", value.lower())
    rate = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not config.KIB <= rate < math.inf:
        raise click.BadParameter("give bytes a second, as in 500K or 10M, and at least 1K")
    return rate


def _parse_headers(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for value in values:
        name, _, text = (part.strip() for part in value.partition(":"))
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(text)):
            raise click.BadParameter("give 'NAME: VALUE', in quotes")
        if name.lower() in map(str.lower, headers):
            raise click.BadParameter("each name may be given once; several values are often one, with commas between")
        headers[name] = text
    return headers


_FOLDER = click.Path(file_okay=False)
_SECONDS = click.FloatRange(min=0, min_open=True)


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("url", required=False),
    click.argument("file", required=False, callback=_check_file),
    click.option(
        "-o", "-O", "--output", "--filepath", "output", callback=_check_file, metavar="FILE", help="The same as FILE."
    ),
    click.option(
        "-d", "-P", "--dir", "folder", type=_FOLDER, help="Folder for FILE, the remote name, or a manifest's files."
    ),
    click.option("-m", "-i", "--manifest", "listed", metavar="FILE", help="Copy all that this file lists; - for stdin."),
    click.option("-f", "--force", is_flag=True, help="Copy also what is there already, and replace any file."),
    click.option("-n", "--no-clobber", is_flag=True, help="Leave a file that is there alone; that is an error."),
    click.option("--no-resume", is_flag=True, help="Begin anew, and leave nothing behind when stopped."),
    click.option("-cs", "--checksum", metavar="SUM", help="ALGORITHM:DIGEST that the file must have."),
    click.option("-ca", "--checksum-algorithm", "algorithm", metavar="NAME", help="Algorithm of a SUM without one."),
    click.option("--require-checksum", is_flag=True, help="Fail where nobody promises a checksum."),
    click.option("--no-verify", is_flag=True, help="Do not verify what the server promises."),
    click.option(
        "-x",
        "--connections",
        type=click.IntRange(min=1),
        metavar="N",
        help="Range requests at once, each in a background process.  [default: 8; 1 with --limit-rate]",
    ),
    click.option(
        "-j",
        "--jobs",
        "--concurrency",
        "jobs",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        metavar="N",
        help="Files of a manifest at once.",
    ),
    click.option(
        "-c", "--continue-after-error", is_flag=True, help="Go on with other files after an error; so it does anyway."
    ),
    click.option("--fail-fast", is_flag=True, help="Stop after the first file that fails."),
    click.option(
        "--failed",
        "failed",
        metavar="FILE",
        help="Write what is not copied of a manifest there, as a manifest; [] if nothing.",
    ),
    click.option("--allow-absolute", is_flag=True, help="Let a manifest name files by paths that begin with /."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each file on stdout."),
    click.option("--info", is_flag=True, help="Print what the server says of URL, and copy nothing."),
    click.option("--dry-run", is_flag=True, help="Print what would be copied where, and copy nothing."),
    click.option(
        "-H",
        "--header",
        "headers",
        multiple=True,
        callback=_parse_headers,
        metavar="'NAME: VALUE'",
        help="Send this with every request; again for others.",
    ),
    click.option(
        "--retry",
        "retries",
        type=click.IntRange(min=0),
        default=7,
        show_default=True,
        metavar="N",
        help="Attempts after the first.",
    ),
    click.option(
        "--retry-max-time",
        "deadline",
        type=_SECONDS,
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="Give up after so long without a byte.",
    ),
    click.option(
        "--connect-timeout",
        "connect",
        type=_SECONDS,
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="Wait so long for a connection.",
    ),
    click.option(
        "--limit-rate",
        callback=_parse_rate,
        metavar="RATE",
        help="Bytes a second at most, of all files together, as in 500K or 10M.",
    ),
    click.option("--proxy", metavar="URL", help="Proxy for http and https."),
    click.option("--cacert", metavar="FILE", help="CA certificates to trust."),
    click.option("--fsync", is_flag=True, help="Have the file on the disk before exiting."),
    click.option(
        "--no-mtime",
        is_flag=True,
        help="Do not give the file the server's Last-Modified as its time, by which a manifest would know it again.",
    ),
    click.option("--progress/--no-progress", "show", default=None, help="Draw a bar on stderr.  [default: on a terminal]"),
    click.option("-q", "--quiet", is_flag=True, help="Write nothing but errors, whatever else is asked for."),
    click.option("-v", "--verbose", count=True, help="Say what was done; -vv also what was tried in vain."),
    click.option("--compat", is_flag=True, help="As getm 0.0.5: errors in its words, -q, --allow-absolute."),
    click.option("--multipart-threshold", hidden=True, type=int),
    click.version_option(getm.__version__, message="%(prog)s %(version)s"),
)
