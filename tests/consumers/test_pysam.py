"""pysam reads the same through getm as from a local file, and never takes a failure for the end."""

import contextlib
import gc
import itertools
import os
import random
import subprocess
import sys
import threading
import traceback

import pytest

import getm
from tests.commands import SECRET
from tests.servers.fault import Fault

pysam = pytest.importorskip("pysam")

from getm.contrib import htslib  # noqa: E402  needs pysam
from getm.contrib.pysam import AlignmentFile, VariantFile  # noqa: E402

KIB, MIB = 2**10, 2**20
LENGTHS = {"chr1": 600_000, "chr2": 300_000, "chr3": 1000}
READS = 6000  # of each of the first two
LENGTH = 400
SPACING = 10  # between variants
ALIGNMENTS = {"a.bam": "a.bam.bai", "c.cram": "c.cram.crai"}
VARIANTS = {"v.vcf.gz": "v.vcf.gz.tbi", "w.vcf.gz": "w.vcf.gz.csi", "b.bcf": "b.bcf.csi"}
CRAM_WARNS = pytest.mark.filterwarnings("ignore:multiple_iterators not implemented for CRAM")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write the same reads as BAM and CRAM, and the same variants as VCF and BCF, with their indexes."""
    folder = tmp_path_factory.mktemp("genome")
    chance = random.Random(1)
    genome = {name: "".join(chance.choices("ACGT", k=length)) for name, length in LENGTHS.items()}
    (folder / "ref.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in genome.items()))
    pysam.faidx(str(folder / "ref.fa"))
    reads = pysam.AlignmentHeader.from_references(list(LENGTHS), list(LENGTHS.values()))
    with (
        pysam.AlignmentFile(folder / "a.bam", "wb", header=reads) as bam,
        pysam.AlignmentFile(folder / "c.cram", "wc", header=reads, reference_filename=str(folder / "ref.fa")) as cram,
    ):
        for reference, name in enumerate(["chr1", "chr2"]):
            starts = sorted(chance.randrange(LENGTHS[name] - LENGTH) for _ in range(READS))
            for number, start in enumerate(starts):
                read = pysam.AlignedSegment(reads)
                read.query_name = f"{name}-{number}"
                read.reference_id, read.reference_start, read.mapping_quality, read.cigarstring = (
                    reference,
                    start,
                    60,
                    f"{LENGTH}M",
                )
                read.query_sequence = genome[name][start : start + LENGTH]
                read.query_qualities = chance.choices(range(40), k=LENGTH)
                bam.write(read)
                cram.write(read)
    pysam.index(str(folder / "a.bam"))
    pysam.index(str(folder / "c.cram"))
    variants = pysam.VariantHeader()
    for name, length in LENGTHS.items():
        variants.contigs.add(name, length=length)
    variants.info.add("DP", 1, "Integer", "depth")
    for name, mode in {"v.vcf.gz": "wz", "b.bcf": "wb"}.items():
        chance.seed(2)
        with pysam.VariantFile(folder / name, mode, header=variants) as file:
            for contig in ("chr1", "chr2"):
                for start in range(0, LENGTHS[contig], SPACING):
                    record = file.new_record(contig=contig, start=start, alleles=("A", "C"), qual=chance.randrange(100))
                    record.info["DP"] = chance.randrange(10**9)
                    file.write(record)
    (folder / "w.vcf.gz").write_bytes((folder / "v.vcf.gz").read_bytes())
    pysam.tabix_index(str(folder / "v.vcf.gz"), preset="vcf")
    pysam.tabix_index(str(folder / "w.vcf.gz"), preset="vcf", csi=True)
    pysam.tabix_index(str(folder / "b.bcf"), preset="bcf")
    return folder


@pytest.fixture
def serve(folder, server):
    """Serve one of the files, or an index."""

    def put(name):
        return server.put(f"/{name}", (folder / name).read_bytes())

    return put


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in a folder that has to stay empty, and let go of everything."""
    monkeypatch.chdir(tmp_path)
    yield
    gc.collect()
    assert ({}, {}) == (htslib._served, htslib._handles)
    assert [] == os.listdir()


@contextlib.contextmanager
def both(kind, folder, serve, name, index, **options):
    """Open a file here and there, with whatever it needs."""
    theirs = {"reference_filename": str(folder / "ref.fa")} if name.endswith(".cram") else {}
    local = getattr(pysam, kind.__name__)(str(folder / name), index_filename=str(folder / index), **theirs)
    with local, kind(serve(name), index=serve(index), **theirs, **options) as remote:
        yield local, remote


def regions(number):
    chance = random.Random(3)
    for _ in range(number):
        contig = chance.choice(list(LENGTHS))
        start = chance.randrange(LENGTHS[contig])
        yield contig, start, start + chance.choice([1, 100, 5000])


def texts(rows):
    return [str(row) for row in rows]


def columns(rows):
    return [(row.reference_name, row.reference_pos, row.get_query_names()) for row in rows]


class TestAlignments:
    EVERY = pytest.mark.parametrize(("name", "index"), ALIGNMENTS.items())

    @EVERY
    @pytest.mark.parametrize("concurrency", [None, 1, 8], ids="concurrency-{}".format)
    def test_regions_are_the_same(self, folder, serve, name, index, concurrency):
        with both(AlignmentFile, folder, serve, name, index, concurrency=concurrency) as (local, remote):
            for region in regions(60):
                assert texts(local.fetch(*region)) == texts(remote.fetch(*region))
                assert local.count(*region) == remote.count(*region)

    @EVERY
    @CRAM_WARNS
    def test_all_else_is_the_same(self, folder, serve, name, index):
        with both(AlignmentFile, folder, serve, name, index) as (local, remote):
            assert local.header.to_dict() == remote.header.to_dict()
            assert texts(local.fetch(until_eof=True)) == texts(remote.fetch(until_eof=True))
            assert texts(local.fetch()) == texts(remote.fetch())
            assert texts(local.head(10)) == texts(remote.head(10))
            region = ("chr2", 1000, 3000)
            assert columns(local.pileup(*region)) == columns(remote.pileup(*region))
            assert local.count_coverage(*region) == remote.count_coverage(*region)
            assert str(next(local.fetch(*region))) == str(next(remote.fetch(*region)))
            assert not remote.pileup(*region).has_reference()
            assert local.get_index_statistics() == remote.get_index_statistics()

    def test_places_can_be_gone_back_to(self, folder, serve):
        with both(AlignmentFile, folder, serve, "a.bam", "a.bam.bai") as (local, remote):
            for file in local, remote:
                rows = texts(itertools.islice(file, 2000))
                place = file.tell()
                after = texts(itertools.islice(file, 2000))
                file.seek(place)
                assert after == texts(itertools.islice(file, 2000))
                file.reset()
                assert rows == texts(itertools.islice(file, 2000))

    @EVERY
    def test_several_iterators_at_once(self, folder, serve, name, index):
        with both(AlignmentFile, folder, serve, name, index) as files:
            rows = [
                zip(*(file.fetch(contig, multiple_iterators=True) for contig in ("chr1", "chr2")), strict=False)
                for file in files
            ]
            assert [texts(pair) for pair in rows[0]] == [texts(pair) for pair in rows[1]]

    def test_an_iterator_outlives_its_file(self, folder, serve):
        with both(AlignmentFile, folder, serve, "a.bam", "a.bam.bai") as files:
            one, other = [file.fetch("chr2", multiple_iterators=True) for file in files]
        assert texts(one) == texts(other)

    def test_a_region_costs_little(self, folder, serve):
        with AlignmentFile(serve("a.bam"), index=serve("a.bam.bai")) as file:
            assert file.count("chr2", 200_000, 201_000)
            assert file.reader.size > 3 * MIB
            assert (3, True) == (file.reader.stats.requests, file.reader.stats.fetched < 2 * MIB)

    def test_the_same_from_a_real_server(self, nginx, folder):
        for name in ("a.bam", "a.bam.bai"):
            (nginx.root / name).write_bytes((folder / name).read_bytes())
        with pysam.AlignmentFile(folder / "a.bam") as local, AlignmentFile(nginx.url("a.bam", "wan")) as remote:
            for region in regions(10):
                assert texts(local.fetch(*region)) == texts(remote.fetch(*region))
            assert texts(local.fetch()) == texts(remote.fetch())


class TestVariants:
    EVERY = pytest.mark.parametrize(("name", "index"), VARIANTS.items())

    @EVERY
    def test_all_is_the_same(self, folder, serve, name, index):
        with both(VariantFile, folder, serve, name, index) as (local, remote):
            assert str(local.header) == str(remote.header)
            for region in regions(60):
                assert texts(local.fetch(*region)) == texts(remote.fetch(*region))
            assert texts(local.fetch("chr2", 5000, reopen=True)) == texts(remote.fetch("chr2", 5000, reopen=True))
            assert texts(local.fetch(reopen=True)) == texts(remote.fetch(reopen=True))
            local.reset()
            remote.reset()
            assert texts(local) == texts(remote)

    def test_a_copy_outlives_its_file(self, folder, serve):
        with VariantFile(serve("b.bcf"), index=serve("b.bcf.csi")) as file:
            copy = file.copy()
        with pysam.VariantFile(folder / "b.bcf") as local:
            assert texts(local) == texts(copy)
        copy.close()


class TestIndexes:
    def test_a_local_one(self, folder, serve):
        with AlignmentFile(serve("a.bam"), index=folder / "a.bam.bai") as file:
            assert 0 < file.count("chr1", 1000, 2000)

    def test_one_of_a_function(self, serve):
        url = serve("a.bam.bai")
        with AlignmentFile(serve("a.bam"), index=lambda: url) as file:
            assert 0 < file.count("chr1", 1000, 2000)

    @pytest.mark.parametrize(
        ("kind", "name", "index"), [(AlignmentFile, "a.bam", "a.bam.bai"), (VariantFile, "w.vcf.gz", "w.vcf.gz.csi")]
    )
    def test_one_beside_the_object(self, server, serve, kind, name, index):
        serve(index)
        server.fail(Fault(status=403), when=lambda request: request.query != "key=1", times=None)
        with kind(serve(name) + "?key=1", refresh=lambda: pytest.fail("asked")) as file:
            assert 0 < len(texts(file.fetch("chr1", 1000, 2000)))

    @pytest.mark.parametrize("status", [403, 404])
    def test_none(self, server, serve, status):
        server.fail(Fault(status=status), when=lambda request: ".bam." in request.path, times=None)
        with AlignmentFile(serve("a.bam")) as file:
            assert not file.has_index()
            with pytest.raises(ValueError, match="without index"):
                file.fetch("chr1", 1000, 2000)
            assert 2 * READS == len(texts(file.fetch(until_eof=True)))
        url = serve("v.vcf.gz")
        with VariantFile(lambda: url) as file, pytest.raises(ValueError, match="index"):
            file.fetch("chr1", 1000, 2000)

    def test_signed_urls(self, server, serve):
        data, index = (f"{serve(name)}?X-Amz-Signature={name}:&" for name in ("a.bam", "a.bam.bai"))
        denied = lambda request: request.query != f"X-Amz-Signature={request.path[1:]}:&"  # noqa: E731
        server.fail(Fault(status=403), when=denied, times=None)
        with AlignmentFile(data, index=index) as file:
            assert 0 < file.count("chr1", 1000, 2000)
        with AlignmentFile(data) as file:
            assert not file.has_index()
        with pytest.raises(getm.AccessDenied, match="403"):
            AlignmentFile(data, index=index.replace("Signature", "Other"))


class TestFailing:
    @pytest.mark.parametrize(("status", "error"), [(403, getm.AccessDenied), (404, getm.NotFound), (418, getm.BadStatus)])
    @pytest.mark.parametrize("where", ["a.bam", "a.bam.bai"])
    def test_what_cannot_be_had_is_an_error_at_once(self, server, serve, capfd, where, status, error):
        data, index = serve("a.bam"), serve("a.bam.bai")
        server.fail(Fault(status=status), when=lambda request: request.path.endswith(where), times=None)
        with pytest.raises(error, match=str(status)) as raised:
            AlignmentFile(f"{data}?key={SECRET}", index=f"{index}?key={SECRET}")
        assert SECRET not in str(raised.value) + "".join(capfd.readouterr())

    @CRAM_WARNS
    @pytest.mark.parametrize(("name", "index"), [*ALIGNMENTS.items(), *VARIANTS.items()])
    def test_nothing_ends_early(self, folder, server, serve, name, index):
        """Each way to read, with all beyond the first block refused."""
        kind = AlignmentFile if name in ALIGNMENTS else VariantFile
        readings = [
            texts,
            lambda file: texts(file.fetch("chr2", 100_000)),
            lambda file: texts(file.fetch()),
        ]
        if kind is AlignmentFile:
            readings += [
                lambda file: texts(file.fetch(until_eof=True)),
                lambda file: texts(file.fetch("chr2", 100_000, multiple_iterators=True)),
                lambda file: file.count("chr2", 100_000),
                lambda file: file.count(),
                lambda file: file.count_coverage("chr2", 100_000),
                lambda file: texts(file.head(2 * READS)),
                lambda file: columns(file.pileup("chr2", 100_000)),
                lambda file: columns(file.pileup()),
            ]
        else:
            readings += [lambda file: texts(file.fetch(reopen=True))]
        failed = 0
        for reading in readings:
            with both(kind, folder, serve, name, index, block_size=16 * KIB, retries=0, concurrency=None) as (local, remote):
                later = lambda request: request.path == f"/{name}" and request.stop > 128 * KIB  # noqa: E731
                server.fail(Fault(status=404), when=later, times=None)
                try:
                    result = reading(remote)
                except getm.NotFound:
                    failed += 1
                else:  # it was under way already
                    assert reading(local) == result
                server.heal()
        assert failed > len(readings) / 2

    def test_a_file_that_has_failed_stays_so_and_a_new_one_reads_on(self, folder, server, serve):
        """htslib keeps its error; after it, reading all of a file would give nothing, and no error."""
        data, index = serve("a.bam"), serve("a.bam.bai")
        with AlignmentFile(data, index=index, retries=0) as file:
            server.fail(Fault(status=500), times=None)
            with pytest.raises(getm.BadStatus, match="500"):
                next(file.fetch("chr2", 200_000))
            server.heal()
            for region in ((), ("chr2", 200_000), ("chr1", 1000)):
                with pytest.raises(getm.GetmError, match=r"failed before.* 500 "):
                    texts(file.fetch(*region))
        with AlignmentFile(data, index=index) as file:
            assert 2 * READS == file.count()

    def test_an_object_that_changes_is_an_error(self, server, serve):
        with AlignmentFile(serve("a.bam"), index=serve("a.bam.bai")) as file:
            serve("a.bam")
            with pytest.raises(getm.ObjectChanged):
                texts(file.fetch("chr2"))

    def test_what_reads_past_the_file_is_told_when_it_is_closed(self, server, serve):
        file = AlignmentFile(serve("a.bam"), index=serve("a.bam.bai"), retries=0)
        server.fail(Fault(status=404), times=None)
        with contextlib.suppress(OSError):
            pysam.IndexedReads(file, multiple_iterators=False).build()
        with pytest.raises(getm.NotFound):
            file.close()

    @pytest.mark.parametrize("kind", [AlignmentFile, VariantFile])
    @pytest.mark.parametrize("content", [b"no such thing\n" * 1000, None], ids=["text", "truncated"])
    def test_what_pysam_refuses_is_named(self, folder, server, capfd, kind, content):
        content = content or (folder / ("a.bam" if kind is AlignmentFile else "b.bcf")).read_bytes()[: 100 * KIB]
        url = server.put("/some%20file's.bam", content)
        with pytest.raises((OSError, ValueError)) as raised:
            kind(f"{url}?key={SECRET}")
        shown = "".join(traceback.format_exception_only(raised.value)) + "".join(capfd.readouterr())
        assert url in shown
        assert SECRET not in shown
        assert not isinstance(raised.value, getm.GetmError)

    def test_an_index_that_pysam_refuses_is_named(self, server, serve):
        index = server.put("/a.txt", b"no such thing")
        with pytest.raises(OSError, match="index file") as raised:
            AlignmentFile(serve("a.bam"), index=f"{index}?key={SECRET}")
        assert index in str(raised.value)

    def test_a_failure_while_pysam_opens_it_is_all_that_is_said(self, server):
        """In a header that htslib does not read at once; pysam would say so again, where nobody can catch it."""
        chance = random.Random(3)
        lengths = {chance.randbytes(8).hex(): chance.randrange(10**8) for _ in range(30_000)}
        header = pysam.AlignmentHeader.from_references(list(lengths), list(lengths.values()))
        pysam.AlignmentFile("large.bam", "wb", header=header).close()
        with open("large.bam", "rb") as file:
            url = server.put("/large.bam", file.read())
        os.unlink("large.bam")
        server.fail(Fault(cut=300 * KIB))
        server.fail(Fault(status=404), times=None)
        with pytest.raises(getm.NotFound):
            AlignmentFile(url, concurrency=None)

    @pytest.mark.parametrize("kind", [AlignmentFile, VariantFile])
    def test_arguments_that_cannot_be_are_refused(self, server, serve, kind):
        for options in {"threads": 2}, {"mode": "w"}, {"concurrency": 0}:
            with pytest.raises(getm.UsageError):
                kind("http://127.0.0.1/", **options)
        with pytest.raises(TypeError, match="colour"):
            kind(serve("a.bam" if kind is AlignmentFile else "b.bcf"), colour="red")
        with pytest.raises(TypeError, match="index= names an index"):
            kind("http://127.0.0.1/", index_filename="http://127.0.0.1/index")

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # that is what ctypes makes of them
    @pytest.mark.parametrize("until_eof", [True, False])
    def test_an_interrupt_is_no_end(self, serve, monkeypatch, until_eof):
        """Before the first line of a callback: ctypes throws it away, and tells htslib 0."""
        data, index = serve("a.bam"), serve("a.bam.bai")
        for number in itertools.count(1):
            with AlignmentFile(data, index=index, concurrency=None) as file, monkeypatch.context() as patch:
                callbacks = Interrupting(htslib._handles, number)
                patch.setattr(htslib, "_handles", callbacks)
                count = None
                with contextlib.suppress(getm.GetmError):
                    count = file.count(until_eof=until_eof)
                patch.undo()
                htslib._handles.update(callbacks)
            if count is not None:
                assert (2 * READS, number) == (count, callbacks.asked + 1)
                break
        assert number > 10

    def test_an_interrupt_within_a_callback_is_raised(self, serve, monkeypatch):
        with AlignmentFile(serve("a.bam"), index=serve("a.bam.bai")) as file:
            monkeypatch.setattr(getm.Reader, "readinto", interrupt)
            with pytest.raises(KeyboardInterrupt):
                texts(file)
            with pytest.raises(getm.GetmError, match=r"failed before \(KeyboardInterrupt"):
                texts(file.fetch())


def interrupt(*_):
    raise KeyboardInterrupt


class Interrupting(dict):
    """Handles whose so-many-th use is interrupted."""

    def __init__(self, handles, number=0):
        super().__init__(handles)
        self.asked = 0
        self.number = number

    def __getitem__(self, address):
        self.asked += 1
        if self.asked == self.number:
            raise KeyboardInterrupt
        return super().__getitem__(address)


class TestThreads:
    def test_files_in_several_threads(self, folder, serve):
        """pysam opens and closes with the interpreter's lock held, and reads without."""
        data, index = serve("a.bam"), serve("a.bam.bai")
        results = {}

        def read(number):
            for _ in range(3):
                with AlignmentFile(data, index=index) as file:
                    results[number] = [texts(file.fetch(*region)) for region in regions(10)] + texts(file.fetch("chr2"))

        threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pysam.AlignmentFile(folder / "a.bam") as local:
            expected = [texts(local.fetch(*region)) for region in regions(10)] + texts(local.fetch("chr2"))
        assert dict.fromkeys(range(4), expected) == results

    def test_threads_of_htslib_read_pipes(self, folder, serve):
        with getm.pipe(serve("a.bam")) as pipe, pysam.AlignmentFile(pipe, threads=2) as file:
            count = sum(1 for _ in file)
        assert 2 * READS == count

    def test_a_forked_child_reads_on(self, folder, serve):
        with AlignmentFile(serve("a.bam"), index=serve("a.bam.bai")) as file:
            expected = file.count("chr2", 1000, 200_000)
            child = os.fork()
            if child == 0:
                try:
                    os._exit(0 if file.count("chr2", 1000, 200_000) == expected else 1)
                finally:
                    os._exit(2)
            assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert expected == file.count("chr2", 1000, 200_000)


class TestProcess:
    def run(self, script, *arguments):
        return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)

    def test_a_file_that_is_open_at_exit_is_no_trouble(self, serve):
        script = """
import sys
from getm.contrib.pysam import AlignmentFile
file = AlignmentFile(sys.argv[1], index=sys.argv[2])
rows = [file, file.fetch("chr1"), file.pileup("chr1")]
next(rows[1])
rows.append(rows)
"""
        ended = self.run(script, serve("a.bam"), serve("a.bam.bai"))
        assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)

    def test_without_pysam_the_extra_is_named(self):
        script = """
import sys
sys.modules["pysam"] = None
import getm
try:
    import getm.contrib.pysam
except getm.MissingExtra as error:
    print(error)
"""
        assert "getm[pysam]" in self.run(script).stdout

    def test_another_htslib_is_refused(self, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(pysam.libchtslib, "__file__", None)  # this program itself
            with pytest.raises(getm.MissingExtra, match="cannot read for the htslib"):
                htslib._load()
        monkeypatch.setattr(htslib._HFile, "limit", htslib._HFile.begin)
        with pytest.raises(getm.MissingExtra, match="other fields"):
            htslib._load()
