"""The files that are read, most of several MiB, and how they are written."""

import bz2
import functools
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import numpy as np

from tests.content import ramp, write_ramp

SAMPLES = {}
"""How to write each file, by its name."""


def sample(name):
    """Register a function that writes the file of that name to the path that it is given."""

    def register(write):
        SAMPLES[name] = write
        return write

    return register


@functools.cache
def table():
    """Return a table of 200,000 rows: a number that counts, two that are random, and a text."""
    import pandas as pd

    chance = np.random.default_rng(1)
    rows = 200_000
    return pd.DataFrame(
        {
            "position": np.arange(rows),
            "value": chance.random(rows),
            "name": [f"variant-{number}" for number in range(rows)],
            "noise": chance.integers(0, 2**60, rows),
        }
    )


def noise(*shape, dtype="uint8"):
    """Return an array that does not compress."""
    length = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(2).bytes(length), dtype).reshape(shape)


@functools.cache
def picture():
    """Return a picture of 1,600 x 2,000 pixels that compresses to a third or so."""
    rows, columns = np.mgrid[:1600, :2000]
    grain = np.random.default_rng(3).integers(0, 24, (1600, 2000, 3))
    return (np.stack([rows // 8, columns // 8, rows * columns // 9999], axis=-1) % 200 + grain).astype("uint8")


@sample("table.csv")
def _(path):
    table().to_csv(path, index=False)


@sample("table.csv.gz")
def _(path):
    table().to_csv(path, index=False, compression={"method": "gzip", "compresslevel": 1})


@sample("table.json")
def _(path):
    table()[:50_000].to_json(path, orient="records", lines=True)


@sample("rows.json")
def _(path):
    table()[:50_000].to_json(path, orient="values")


@sample("table.parquet")
def _(path):
    table().to_parquet(path, row_group_size=50_000)


@sample("groups.parquet")
def _(path):
    table().to_parquet(path, row_group_size=8_000)


@sample("table.feather")
def _(path):
    table().to_feather(path, compression="uncompressed")


@sample("table.orc")
def _(path):
    table().to_orc(path)


@sample("table.pickle")
def _(path):
    table().to_pickle(path)


@sample("table.dta")
def _(path):
    table()[["position", "value", "name"]].to_stata(path)


@sample("table.xlsx")
def _(path):
    table()[:30_000].to_excel(path, index=False)


@sample("table.avro")
def _(path):
    import fastavro

    fields = [{"name": "position", "type": "long"}, {"name": "value", "type": "double"}, {"name": "name", "type": "string"}]
    rows = table()[["position", "value", "name"]].to_dict("records")
    with open(path, "wb") as file:
        fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, rows)


@sample("image.h5")
def _(path):
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("chunked", data=noise(40, 512, 512), chunks=(1, 512, 512))
        file.create_dataset("contiguous", data=noise(2000, 2000))
        for number in range(50):
            file.create_dataset(f"small/{number}", data=np.arange(number)).attrs["unit"] = "m"


def climate():
    """Return a data set of 30 days, in a grid of 200 x 300."""
    import xarray

    temperature = np.random.default_rng(4).normal(280, 10, (30, 200, 300)).astype("f4")
    variables = {"temperature": (("time", "y", "x"), temperature), "pressure": (("time", "y", "x"), temperature[::-1])}
    return xarray.Dataset(variables, {"time": np.arange(30)}, {"title": "made up"})


@sample("climate.nc")
def _(path):
    chunks = {"chunksizes": (1, 200, 300)}
    climate().to_netcdf(path, engine="h5netcdf", encoding={"temperature": chunks, "pressure": chunks})


@sample("climate.nc3")
def _(path):
    climate().to_netcdf(path, engine="scipy")


@sample("climate.zarr.zip")
def _(path):
    about = {"zarr_format": 3, "node_type": "array", "shape": [40, 512, 512], "data_type": "uint8", "fill_value": 0}
    about["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": [1, 512, 512]}}
    about["chunk_key_encoding"] = {"name": "default"}
    about["codecs"] = [{"name": "bytes"}]
    with zipfile.ZipFile(path, "w") as archive:  # zarr itself would leave threads behind
        archive.writestr("zarr.json", json.dumps(about))
        for number, chunk in enumerate(noise(40, 512, 512)):
            archive.writestr(f"c/{number}/0/0", chunk.tobytes())


@sample("array.npy")
def _(path):
    np.save(path, noise(1000, 1000, dtype="f4"))


@sample("arrays.npz")
def _(path):
    np.savez(path, **{f"part{number}": noise(250_000, dtype="i4") for number in range(8)})


@sample("arrays.mat")
def _(path):
    import scipy.io

    scipy.io.savemat(path, {f"part{number}": noise(250, 1000, dtype="i4") for number in range(8)})


@sample("members.zip")
def _(path):
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20):
            archive.writestr(f"member-{number}", ramp(number * 400_000, (number + 1) * 400_000))


@sample("members.tar")
def _(path):
    with tarfile.open(path, "w") as archive:
        for number in range(20):
            member = tarfile.TarInfo(f"member-{number:02}.bin")
            member.size = 400_000
            archive.addfile(member, io.BytesIO(ramp(number * 400_000, (number + 1) * 400_000)))


@sample("content.bin")
def _(path):
    write_ramp(path, 5_000_000)


@sample("content.gz")
def _(path):
    path.write_bytes(gzip.compress(ramp(0, 5_000_000), 1))


@sample("content.bz2")
def _(path):
    path.write_bytes(bz2.compress(ramp(0, 3_000_000)))


@sample("content.xz")
def _(path):
    path.write_bytes(lzma.compress(ramp(0, 3_000_000), preset=0))


@sample("object.pickle")
def _(path):
    path.write_bytes(pickle.dumps([ramp(0, 3_000_000), list(range(500_000))]))


@sample("picture.png")
def _(path):
    import PIL.Image

    PIL.Image.fromarray(picture()).save(path, compress_level=1)


@sample("picture.jpeg")
def _(path):
    import PIL.Image

    PIL.Image.fromarray(picture()).save(path, quality=95)


@sample("frames.tif")
def _(path):
    import tifffile

    tifffile.imwrite(path, noise(20, 512, 768), photometric="minisblack", rowsperstrip=64)


@sample("tiles.tif")
def _(path):
    import tifffile

    tifffile.imwrite(path, noise(2048, 4096), photometric="minisblack", tile=(256, 256))


@sample("sound.wav")
def _(path):
    import soundfile

    soundfile.write(path, noise(1_500_000, 2, dtype="i2"), 44_100)


@sample("sound.flac")
def _(path):
    import soundfile

    soundfile.write(path, noise(1_500_000, 2, dtype="i2") >> 4, 44_100)


@sample("film.mp4")
def _(path):
    import av

    with av.open(path, "w") as film:
        stream = film.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.bit_rate = 640, 360, 8_000_000
        for number in range(96):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(picture(), number * 8, 1)[:360, :640]))
            film.mux(stream.encode(frame))
        film.mux(stream.encode())


@sample("brain.nii")
def _(path):
    import nibabel

    nibabel.save(nibabel.Nifti1Image(noise(128, 128, 64, 5), np.eye(4)), path)


@sample("scan.dcm")
def _(path):
    import pydicom
    import pydicom.uid

    scan = pydicom.Dataset()
    scan.PatientName, scan.Rows, scan.Columns, scan.NumberOfFrames = "Nobody", 512, 512, 8
    scan.SamplesPerPixel, scan.PhotometricInterpretation, scan.PixelRepresentation = 1, "MONOCHROME2", 0
    scan.BitsAllocated, scan.BitsStored, scan.HighBit = 16, 16, 15
    scan.SOPClassUID, scan.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7.3", "1.2.3"
    scan.PixelData = noise(8, 512, 512, dtype="u2").tobytes()
    scan.file_meta = pydicom.dataset.FileMetaDataset()
    scan.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    scan.save_as(path, enforce_file_format=True)


@sample("points.las")
def _(path):
    import laspy

    points = laspy.create(point_format=3, file_version="1.2")
    points.x, points.y, points.z = np.random.default_rng(5).random((3, 150_000)) * 1000
    points.write(path)


@sample("weights.pt")
def _(path):
    import torch

    torch.save({f"layer{number}": torch.from_numpy(noise(500, 1000).copy()) for number in range(10)}, path)


@sample("book.pdf")
def _(path):
    import PIL.Image

    pages = [PIL.Image.fromarray(np.roll(picture(), 100 * number, 0)) for number in range(6)]
    pages[0].save(path, save_all=True, append_images=pages[1:], quality=90)


def _fasta():
    letters = np.frombuffer(b"ACGT", "u1")[noise(40, 100_000) % 4]
    return b"".join(b">chr%d\n%s\n" % (number, row.tobytes()) for number, row in enumerate(letters))


@sample("genome.fasta")
def _(path):
    path.write_bytes(_fasta())


@sample("genome.fasta.bgz")
def _(path):
    import Bio.bgzf

    with Bio.bgzf.BgzfWriter(path) as file:
        file.write(_fasta())
