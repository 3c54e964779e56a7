"""Who reads files: one line of code each, and what it may cost to read so from a URL.

Where jumps and the first answer bring more than 1.2 times of what is read, less would take longer. All lines at 30 ms and
50 MiB/s, medians:

    jumps of 64 KiB first, as it is                     14.8 s
    of 32 KiB                                           15.0 s, `soundfile.read` of a part 0.32 s in place of 0.16
    of 16 KiB                                           15.0 s, `h5py` of a column 0.51 s in place of 0.26
    a first request of 1 MiB, as it is                  14.8 s
    of 256 KiB, and no longer an answer to read through 17.1 s
    of 64 KiB                                           17.7 s
    no twice as much at a miss near the last            15.1 s
    nothing fetched at places that a stride foretells   15.3 s
    a window of no more than was read so far            15.5 s
    of a fifth of it                                    17.0 s
    these three, and jumps of 16 KiB                    25.9 s

Nor is it the one or the other: 13 of the lines are above 1.2 as it is, and 12 with all of that.
"""

from dataclasses import dataclass

JUMPS = "each jump fetches 64 KiB or more"
FIRST = "jumps within the first MiB read through the answer that is under way"
AHEAD = "reads on for a while and stops: what was fetched ahead is for nothing"
STRIDE = "skips the same distance some times, so that the next places are fetched, too"
NEAR = "jumps about within a MiB, and each fetches twice as much as the one before"


@dataclass(frozen=True)
class Consumer:
    """One way to read a file.

    Attributes:
        code: an expression of `file` and the packages of *imports* that tells what was read.
        sample: name of the file.
        imports: modules, the package that is meant first.
        requests: how many it may take.
        ratio: bytes that may be fetched for each that it reads of a local file, in pieces.
        reason: why *ratio* is more than 1.2.
        everywhere: whether it keeps to that at any concurrency, and over a long line, too.
        shown: whether the README shows it.
    """

    code: str
    sample: str
    imports: str
    requests: int
    ratio: float = 1.2
    reason: str = ""
    everywhere: bool = False
    shown: bool = True


PARQUET = "pyarrow.parquet.read_table(file, columns=['value'], pre_buffer={})"
FRAGMENT = (
    "pyarrow.dataset.ParquetFileFormat().make_fragment(file).to_table(filter=pyarrow.dataset.field('position') < 60_000)"
)

CONSUMERS = [
    # tables
    Consumer("pandas.read_csv(file)", "table.csv", "pandas", 10, everywhere=True),
    Consumer("pandas.read_csv(file, nrows=1000)", "table.csv", "pandas", 2),
    Consumer("pandas.concat(pandas.read_csv(file, chunksize=50_000))", "table.csv", "pandas", 10, shown=False),
    Consumer("pandas.read_csv(file, engine='python', nrows=50_000)", "table.csv", "pandas", 10, 4.2, AHEAD, shown=False),
    Consumer("pandas.read_csv(file, compression='gzip')", "table.csv.gz", "pandas", 6),
    Consumer("pandas.read_json(file, lines=True)", "table.json", "pandas", 5),
    Consumer("pandas.read_parquet(file)", "table.parquet", "pandas", 11),
    Consumer("pandas.read_parquet(file, columns=['noise'])", "table.parquet", "pandas", 11, everywhere=True),
    Consumer("pandas.read_feather(file)", "table.feather", "pandas", 10),
    Consumer("pandas.read_orc(file)", "table.orc", "pandas", 36),
    Consumer("pandas.read_pickle(file)", "table.pickle", "pandas", 7),
    Consumer("pandas.read_stata(file)", "table.dta", "pandas", 7),
    Consumer("pandas.read_excel(file)", "table.xlsx", "pandas openpyxl", 6),
    Consumer("pyarrow.parquet.read_table(file)", "table.parquet", "pyarrow.parquet", 11),
    Consumer(PARQUET.format(True), "table.parquet", "pyarrow.parquet", 10),
    Consumer(PARQUET.format(False), "table.parquet", "pyarrow.parquet", 10, shown=False),
    Consumer("pyarrow.parquet.ParquetFile(file).read_row_group(2)", "table.parquet", "pyarrow.parquet", 6, everywhere=True),
    Consumer("pyarrow.feather.read_table(file, columns=['value'])", "table.feather", "pyarrow.feather", 11, 1.5, JUMPS),
    Consumer("pyarrow.csv.read_csv(file)", "table.csv", "pyarrow.csv", 10),
    Consumer(FRAGMENT, "table.parquet", "pyarrow.dataset", 14, shown=False),
    Consumer(
        FRAGMENT.replace("filter", "columns=['name'], filter"),
        "table.parquet",
        "pyarrow.dataset",
        14,
        2.5,
        STRIDE,
        shown=False,
    ),
    Consumer("polars.read_csv(file)", "table.csv", "polars", 10),
    Consumer("polars.read_parquet(file, columns=['value'])", "table.parquet", "polars", 6),
    Consumer("polars.read_parquet(file, columns=['value'], use_pyarrow=True)", "table.parquet", "polars", 10),
    Consumer("polars.scan_parquet(file).select('value').collect()", "table.parquet", "polars", 6, shown=False),
    Consumer("fastparquet.ParquetFile(file).to_pandas(['noise'])", "table.parquet", "fastparquet", 11, everywhere=True),
    Consumer("duckdb.read_csv(file).fetchall()", "table.csv", "duckdb fsspec", 10, shown=False),
    Consumer("duckdb.read_parquet(file).fetchall()", "table.parquet", "duckdb fsspec", 6),
    Consumer("list(fastavro.reader(file))", "table.avro", "fastavro", 6),
    Consumer("json.load(file)", "rows.json", "json", 5),
    # arrays
    Consumer("h5py.File(file)['chunked'][7]", "image.h5", "h5py", 5, everywhere=True),
    Consumer("h5py.File(file)['chunked'][10:20]", "image.h5", "h5py", 12, 5.5, AHEAD, shown=False),
    Consumer("h5py.File(file)['contiguous'][:, 7]", "image.h5", "h5py", 9, shown=False),
    Consumer("[item[:] for item in h5py.File(file)['small'].values()]", "image.h5", "h5py", 6, 2.4, JUMPS, shown=False),
    Consumer(
        "[data['temperature'][3:6] for data in [h5netcdf.File(file)]]", "climate.nc", "h5netcdf", 7, 3.5, FIRST, shown=False
    ),
    Consumer("xarray.open_dataset(file)['temperature'][7].load()", "climate.nc", "xarray h5netcdf", 6, 1.4, JUMPS),
    Consumer("xarray.open_dataset(file, chunks={}).max().compute()", "climate.nc", "xarray h5netcdf dask", 90),
    Consumer("xarray.open_dataset(file, engine='scipy').load()", "climate.nc3", "xarray scipy", 20),
    Consumer("numpy.load(file)", "array.npy", "numpy", 5),
    Consumer("numpy.load(file)['part5']", "arrays.npz", "numpy", 8, 1.5, NEAR),
    Consumer("scipy.io.loadmat(file, variable_names=['part2'])", "arrays.mat", "scipy.io", 7, 3.2, FIRST),
    Consumer("scipy.io.wavfile.read(file)", "sound.wav", "scipy.io.wavfile", 6),
    Consumer("{name: layer.numpy() for name, layer in torch.load(file).items()}", "weights.pt", "torch", 12),
    # archives
    Consumer("zipfile.ZipFile(file).read('member-7')", "members.zip", "zipfile", 7, everywhere=True),
    Consumer("tarfile.open(fileobj=file).extractfile('member-03.bin').read()", "members.tar", "tarfile", 25, 2.2, FIRST),
    Consumer("[member.name for member in tarfile.open(fileobj=file, mode='r|')]", "members.tar", "tarfile", 7, shown=False),
    Consumer(
        "list(webdataset.tariterators.tar_file_expander([{'url': '', 'stream': file}]))", "members.tar", "webdataset", 7
    ),
    Consumer("gzip.open(file).read()", "content.gz", "gzip", 6, everywhere=True),
    Consumer("bz2.open(file).read()", "content.bz2", "bz2", 5),
    Consumer("lzma.open(file).read()", "content.xz", "lzma", 5),
    Consumer("pickle.load(file)", "object.pickle", "pickle", 6),
    Consumer("hashlib.file_digest(file, 'sha256').hexdigest()", "content.bin", "hashlib", 6, everywhere=True),
    Consumer("shutil.copyfileobj(file, io.BytesIO())", "content.bin", "shutil io", 6),
    # pictures and sound
    Consumer("numpy.asarray(PIL.Image.open(file))", "picture.png", "PIL.Image numpy", 7),
    Consumer("numpy.asarray(PIL.Image.open(file))", "picture.jpeg", "PIL.Image numpy", 4, shown=False),
    Consumer("PIL.Image.open(file).size", "picture.jpeg", "PIL.Image", 1, 4.0, JUMPS),
    Consumer(
        "[frame.tobytes() for frame in PIL.ImageSequence.all_frames(PIL.Image.open(file))]",
        "frames.tif",
        "PIL.Image PIL.ImageSequence",
        32,
    ),
    Consumer("tifffile.imread(file)", "frames.tif", "tifffile", 12),
    Consumer("tifffile.imread(file, key=7)", "frames.tif", "tifffile", 6, everywhere=True),
    Consumer("tifffile.imread(file, selection=numpy.s_[512:1024, 512:1024])", "tiles.tif", "tifffile numpy", 7, 1.4, JUMPS),
    Consumer("soundfile.read(file)", "sound.wav", "soundfile", 6),
    Consumer("soundfile.read(file, 44_100, 1_000_000)", "sound.flac", "soundfile", 7, 8.2, AHEAD),
    Consumer("[frame.to_ndarray() for frame in av.open(file).decode(video=0)]", "film.mp4", "av", 5),
    # sciences and documents
    Consumer("nibabel.Nifti1Image.from_stream(file).dataobj[..., 3]", "brain.nii", "nibabel", 5, everywhere=True),
    Consumer("pydicom.dcmread(file).pixel_array", "scan.dcm", "pydicom", 5),
    Consumer("str(pydicom.dcmread(file, stop_before_pixels=True))", "scan.dcm", "pydicom", 1, 4.0, JUMPS),
    Consumer("laspy.read(file).xyz", "points.las", "laspy", 5),
    Consumer(
        "[str(record.seq) for record in Bio.SeqIO.parse(io.TextIOWrapper(file), 'fasta')]", "genome.fasta", "Bio.SeqIO io", 5
    ),
    Consumer("Bio.bgzf.BgzfReader(fileobj=file).read(1_000_000)", "genome.fasta.bgz", "Bio.bgzf", 2),
    Consumer("pypdf.PdfReader(file).pages[3].images[0].data", "book.pdf", "pypdf", 9, 2.3, NEAR),
]
