"""MRC files: every kind that is read, every damage that is refused, and headers that mrcfile's validator accepts."""

import bz2
import gzip
import io
import os

import mrcfile
import numpy as np
import pytest
from particle_files import BOX, PIXEL_SIZE, SEVEN, TRPV1, needs_data, write_images

from gsworkbench import __version__
from gsworkbench.errors import InputError
from gsworkbench.io.mrc import announce_images, new_image_stack, read_images, read_map, stack_shape, write_map

HEADER = {"nx": 0, "ny": 4, "nz": 8, "mode": 12, "mx": 28, "mz": 36, "cella": 40, "mapc": 64, "ispg": 88, "nsymbt": 92}


@pytest.fixture
def stack(tmp_path):
    write_images(tmp_path / "x.mrcs", 5)
    return tmp_path / "x.mrcs"


def patch(path, at, values, dtype="<i4"):
    """Overwrite bytes of a header."""
    data = bytearray(path.read_bytes())
    new = np.array(values, dtype).tobytes()
    data[at : at + len(new)] = new
    path.write_bytes(data)


def without_id(data, stamp=b"\0\0\0\0"):
    """The bytes of a file without map ID, and without machine stamp or with another one."""
    return data[:208] + b"\0\0\0\0" + stamp + data[216:]


def everything(path):
    n, _, _ = stack_shape(path)
    return read_images(path, np.arange(n))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float16, np.float32])
def test_modes(tmp_path, dtype):
    images = np.random.default_rng(0).uniform(-100, 100, (3, BOX, BOX)).astype(dtype)
    with mrcfile.new(tmp_path / "x.mrcs", images) as mrc:
        mrc.set_image_stack()
    read = everything(tmp_path / "x.mrcs")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, images)


def test_mode_0_of_imod_without_its_signed_flag_is_unsigned(tmp_path):
    images = np.arange(BOX * BOX, dtype=np.uint8).reshape(1, BOX, BOX) + 190
    mrcfile.write(tmp_path / "x.mrcs", images.view(np.int8))
    patch(tmp_path / "x.mrcs", 152, [1146047817, 0])
    np.testing.assert_array_equal(everything(tmp_path / "x.mrcs"), images)


def test_big_endian(stack):
    images = everything(stack)
    data = stack.read_bytes()
    with mrcfile.open(stack) as mrc:
        header = mrc.header.byteswap().tobytes()
    swapped = bytearray(header + np.frombuffer(data[1024:], "<f4").astype(">f4").tobytes())
    swapped[212:216] = b"\x11\x11\0\0"
    stack.with_name("big.mrcs").write_bytes(swapped)
    np.testing.assert_array_equal(everything(stack.with_name("big.mrcs")), images)
    assert stack_shape(stack.with_name("big.mrcs")) == stack_shape(stack)


def swapped(data, item):
    """The bytes of a big-endian file of the same values; the header is made of four-byte numbers up to byte 208."""
    head = np.frombuffer(data[:208], "<u4").astype(">u4").tobytes() + data[208:212] + b"\x11\x11\0\0" + data[216:1024]
    return head + np.frombuffer(data[1024:], f"<{item}").astype(f">{item}").tobytes()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("dtype", "n", "box"), [("f4", 5, 8), ("i1", 1, 16), ("i2", 3, 256), ("f2", 256, 4)])
@pytest.mark.parametrize("spoil", [without_id, lambda data: data[:212] + bytes(4) + data[216:]])
def test_neither_map_id_nor_stamp_is_needed(tmp_path, compress, big, dtype, n, box, spoil):
    """cryoDRGN wrote zeros in bytes 208 to 215 until March 2023, and no program of the field looks at them."""
    images = np.random.default_rng(0).normal(scale=9, size=(n, box, box)).astype(dtype)
    mrcfile.write(tmp_path / "x.mrcs", images, voxel_size=2.5)
    data = (tmp_path / "x.mrcs").read_bytes()
    (tmp_path / "y.mrcs").write_bytes(compress(spoil(swapped(data, dtype) if big else data)))
    assert stack_shape(tmp_path / "y.mrcs") == (n, box, 2.5)
    np.testing.assert_array_equal(everything(tmp_path / "y.mrcs"), images)


def test_a_map_without_id_and_stamp(tmp_path):
    volume = np.random.default_rng(0).normal(size=(BOX,) * 3).astype(np.float32)
    write_map(tmp_path / "x.mrc", volume, 1.5)
    data = without_id((tmp_path / "x.mrc").read_bytes())
    for content in (data, data[:64] + bytes(12) + data[76:]):  # nor the axes
        (tmp_path / "y.mrc").write_bytes(content)
        np.testing.assert_array_equal(read_map(tmp_path / "y.mrc")[0], volume)
        assert read_map(tmp_path / "y.mrc")[1] == 1.5


def test_a_wrong_stamp_is_overruled_by_the_sizes(stack):
    images, data = everything(stack), stack.read_bytes()
    stack.write_bytes(data[:212] + b"\x11\x11\0\0" + data[216:])
    np.testing.assert_array_equal(everything(stack), images)


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed(stack, suffix, compress):
    path = stack.with_name(stack.name + suffix)
    path.write_bytes(compress(stack.read_bytes()))
    np.testing.assert_array_equal(everything(path), everything(stack))
    path.write_bytes(compress(stack.read_bytes()[:-100]))
    with pytest.raises(InputError, match=r"truncated: its header says 5 images, it holds 4\.6"):
        everything(path)
    path.write_bytes(compress(stack.read_bytes())[:-40])
    with pytest.raises(InputError, match="not a readable MRC file"):
        everything(path)


def test_order_repeats_and_a_file_that_changes(stack):
    images = everything(stack)
    np.testing.assert_array_equal(read_images(stack, np.array([3, 0, 3])), images[[3, 0, 3]])
    assert read_images(stack, np.array([], int)).shape == (0, BOX, BOX)
    other = write_images(stack, 7, seed=9)
    np.testing.assert_array_equal(everything(stack), other)


@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data).ljust(7000, b"\0")], ids=["plain", "gz"])
def test_files_of_one_name_size_and_time_are_told_apart(stack, tmp_path, monkeypatch, pack):
    """Under one relative name in two folders, and one after the other under one path."""
    contents = []
    for seed, name in enumerate("ab"):
        contents.append(write_images(stack, 5, seed=seed))
        (tmp_path / name).mkdir()
        (tmp_path / name / "y").write_bytes(pack(stack.read_bytes()))
        os.utime(tmp_path / name / "y", (1, 1))
        monkeypatch.chdir(tmp_path / name)
        np.testing.assert_array_equal(everything("y"), contents[-1])
    os.replace(tmp_path / "a" / "y", "y")
    np.testing.assert_array_equal(everything("y"), contents[0])


@pytest.mark.parametrize("ispg", [0, 1])
def test_stack_of_one_and_stack_that_calls_itself_a_volume(tmp_path, ispg):
    for n in (1, 3):
        images = write_images(tmp_path / f"{n}.mrcs", n)
        patch(tmp_path / f"{n}.mrcs", HEADER["ispg"], ispg)
        assert stack_shape(tmp_path / f"{n}.mrcs") == (n, BOX, PIXEL_SIZE)
        np.testing.assert_array_equal(everything(tmp_path / f"{n}.mrcs"), images)


@pytest.mark.parametrize("cell", [[0, 0, 0], [np.nan, 1, 1], [-1, 1, 1]])
def test_pixel_size_that_the_header_lacks_is_none(stack, cell):
    patch(stack, HEADER["cella"], cell, "<f4")
    assert stack_shape(stack)[2] is None


def test_pixel_size_is_not_taken_from_z(stack):
    patch(stack, HEADER["cella"], [BOX * PIXEL_SIZE, BOX * PIXEL_SIZE, 0], "<f4")
    assert stack_shape(stack)[2] == PIXEL_SIZE


def test_a_few_bytes_at_the_end_do_no_harm(stack):
    images = everything(stack)
    stack.write_bytes(stack.read_bytes() + b"padding")
    np.testing.assert_array_equal(everything(stack), images)


def test_extended_header_is_passed_over(tmp_path):
    images = np.random.default_rng(0).normal(size=(2, BOX, BOX)).astype(np.float32)
    with mrcfile.new(tmp_path / "x.mrcs", images) as mrc:
        mrc.set_extended_header(np.zeros(100, "V1"))
    np.testing.assert_array_equal(everything(tmp_path / "x.mrcs"), images)


DAMAGE = {
    "mode of complex numbers": ("mode", 4, "data of mode 4 are not read"),
    "mode unknown": ("mode", 99, "data of mode 99"),
    "more images than bytes": ("nz", 2_000_000_000, "truncated: its header says 2000000000 images, it holds 5"),
    "fewer images than bytes": ("nz", 3, "header says 3 images, the file holds 5"),
    "negative count": ("nz", -1, "header is damaged"),
    "no pixels": ("nx", 0, "header is damaged"),
    "lower images than bytes": ("ny", 4, "header says 5 images, the file holds 10"),
    "negative extended header": ("nsymbt", -8, "header is damaged"),
    "long extended header": ("nsymbt", 2**30, "truncated: its header says 5 images, it holds 0"),
    "stack of volumes": ("ispg", 401, "stack of volumes"),
}


@pytest.mark.parametrize(("field", "value", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_headers(stack, field, value, message):
    patch(stack, HEADER[field], value)
    with pytest.raises(InputError, match=message) as error:
        stack_shape(stack)
    assert str(stack) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda data: data[:-1], "truncated: its header says 5 images, it holds 4.996"),
        (lambda data: data[:1024], "truncated: its header says 5 images, it holds 0"),
        (lambda data: data[:500], "not a readable MRC file"),
        (lambda data: b"", "not a readable MRC file"),
        (lambda data: b"<html>" * 300, "not a readable MRC file"),
        (lambda data: b"x,y\n1,2\n" * 900, "no map ID at byte 208"),
        (lambda data: bytes(5000), "no map ID at byte 208"),
        (lambda data: without_id(data)[:-1], "truncated: its header says 5 images, it holds 4.996"),
        (lambda data: without_id(data)[:1024], "truncated: its header says 5 images, it holds 0"),
        (lambda data: without_id(data) + data[1024:1400], "the header says 5 images, the file holds 6"),
    ],
)
def test_damaged_files(stack, content, message):
    stack.write_bytes(content(stack.read_bytes()))
    for read in (stack_shape, lambda path: read_images(path, np.array([0]))):
        with pytest.raises(InputError, match=message):
            read(stack)


def test_images_that_are_not_square(tmp_path):
    mrcfile.write(tmp_path / "x.mrcs", np.zeros((2, 4, 8), np.float32))
    with pytest.raises(InputError, match="the images are 8 x 4 px, not square"):
        stack_shape(tmp_path / "x.mrcs")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_pixels_name_the_image(stack, value):
    patch(stack, 1024 + 4 * BOX * BOX * 3 + 8, value, "<f4")
    assert np.isfinite(read_images(stack, np.array([0, 4]))).all()
    with pytest.raises(InputError, match="image 4 has pixels that are NaN or infinite"):
        read_images(stack, np.array([4, 3]))


@pytest.mark.parametrize("index", [5, -1])
def test_images_beyond_the_end(stack, index):
    with pytest.raises(InputError, match=f"no image {index + 1}, the stack holds 5"):
        read_images(stack, np.array([0, index]))


@pytest.mark.parametrize("read", [stack_shape, lambda path: read_images(path, np.array([0])), read_map])
def test_absent_file_and_folder(tmp_path, read):
    for path in (tmp_path / "gone.mrc", tmp_path):
        with pytest.raises(InputError, match=r"no such file|cannot be read|not a readable"):
            read(path)


def validates(path):
    report = io.StringIO()
    return mrcfile.validate(path, print_file=report) or report.getvalue()


def volume_of(box=BOX):
    return np.random.default_rng(0).normal(2.0, 3.0, (box, box, box)).astype(np.float32)


class TestMaps:
    def test_written_map(self, tmp_path):
        volume = volume_of()
        write_map(tmp_path / "x.mrc", volume, 1.31, "half map 1")
        assert validates(tmp_path / "x.mrc") is True
        with mrcfile.open(tmp_path / "x.mrc") as mrc:
            header = mrc.header
            assert (header.mode, header.ispg, header.mapc, header.mapr, header.maps) == (2, 1, 1, 2, 3)
            assert header.nlabl == 1 and header.label[0].decode().strip() == f"gsworkbench {__version__}: half map 1"
            assert header.rms == pytest.approx(volume.std(), rel=1e-5)
            assert mrc.voxel_size.x == pytest.approx(1.31)
        read, voxel_size = read_map(tmp_path / "x.mrc")
        np.testing.assert_array_equal(read, volume)
        assert voxel_size == pytest.approx(1.31, rel=1e-6)

    def test_same_map_same_bytes(self, tmp_path):
        write_map(tmp_path / "a.mrc", volume_of(), 2.0)
        write_map(tmp_path / "b.mrc", volume_of(), 2.0)
        assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()

    def test_broken_map_is_not_written(self, tmp_path):
        volume = volume_of()
        volume[0, 0, 0] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            write_map(tmp_path / "x.mrc", volume, 1.0)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (2, 3, 1), (3, 1, 2)])
    def test_axis_order_of_the_header(self, tmp_path, axes):
        """Store a map with columns, rows and sections along any axes: it must read as the same map."""
        volume = volume_of()  # z, y, x
        column, row, section = axes
        write_map(tmp_path / "x.mrc", volume.transpose(3 - section, 3 - row, 3 - column), 2.0)
        patch(tmp_path / "x.mrc", HEADER["mapc"], axes)
        np.testing.assert_array_equal(read_map(tmp_path / "x.mrc")[0], volume)

    def test_axes_that_are_none(self, tmp_path):
        write_map(tmp_path / "x.mrc", volume_of(), 2.0)
        patch(tmp_path / "x.mrc", HEADER["mapc"], [1, 1, 3])
        with pytest.raises(InputError, match=r"run along axes \(1, 1, 3\)"):
            read_map(tmp_path / "x.mrc")

    @pytest.mark.parametrize(
        ("shape", "message"), [((8, 8, 6), "6 x 8 x 8 voxels, not a cube"), ((7, 7, 7), "not a cube of even side")]
    )
    def test_shapes(self, tmp_path, shape, message):
        write_map(tmp_path / "x.mrc", np.zeros(shape), 1.0)
        with pytest.raises(InputError, match=message):
            read_map(tmp_path / "x.mrc")

    @pytest.mark.parametrize(
        ("cell", "message"),
        [([0, 0, 0], "no voxel size"), ([8, 8, 16], "1 x 1 x 2 A, not cubes"), ([8, 8, 0], "no voxel")],
    )
    def test_cells(self, tmp_path, cell, message):
        write_map(tmp_path / "x.mrc", volume_of(), 1.0)
        patch(tmp_path / "x.mrc", HEADER["cella"], cell, "<f4")
        with pytest.raises(InputError, match=message):
            read_map(tmp_path / "x.mrc")

    def test_broken_voxels(self, tmp_path):
        write_map(tmp_path / "x.mrc", volume_of(), 1.0)
        patch(tmp_path / "x.mrc", 2048, [np.nan, np.inf], "<f4")
        with pytest.raises(InputError, match="2 voxels are NaN or infinite"):
            read_map(tmp_path / "x.mrc")

    @pytest.mark.parametrize("name", ["x.mrc", "x.mrc.gz"])
    def test_what_is_read_is_the_callers_own(self, tmp_path, name):
        volume, path = volume_of(), tmp_path / name
        write_map(tmp_path / "x.mrc", volume, 1.0)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress((tmp_path / "x.mrc").read_bytes()))
        first, _ = read_map(path)
        first *= 0
        second, _ = read_map(path)
        np.testing.assert_array_equal(second, volume)
        patch(path, -100, [0] * 25)  # written in place
        np.testing.assert_array_equal(second, volume)


class TestNewStacks:
    @pytest.mark.parametrize("n", [1, 4])
    def test_header_and_statistics(self, tmp_path, n):
        images = write_images(tmp_path / "x.mrcs", n)
        assert validates(tmp_path / "x.mrcs") is True
        with mrcfile.open(tmp_path / "x.mrcs") as mrc:
            assert mrc.header.ispg == 0 and mrc.header.mode == 2
            statistics = [mrc.header.dmin, mrc.header.dmax, mrc.header.dmean, mrc.header.rms]
        np.testing.assert_allclose(statistics, [images.min(), images.max(), images.mean(), images.std()], atol=1e-6)

    def test_failure_leaves_nothing(self, tmp_path):
        with pytest.raises(RuntimeError), new_image_stack(tmp_path / "x.mrcs", 3, BOX, 1.0) as images:
            images[0] = 1
            raise RuntimeError
        assert list(tmp_path.iterdir()) == []


@needs_data
def test_real_files():
    assert stack_shape(TRPV1.with_suffix(".mrcs"))[:2] == (10, 48)
    assert stack_shape(SEVEN.with_suffix(".mrc")) == (7, 320, None)  # deposited without a cell
    volume, voxel_size = read_map(TRPV1.with_name("trpv1_volume.mrc"))
    assert volume.shape == (48, 48, 48) and voxel_size == pytest.approx(4.88)


def test_what_is_announced_is_what_will_be_read(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("os.posix_fadvise", lambda _, start, length, advice: asked.append((start, length, advice)))
    with new_image_stack(tmp_path / "x.mrcs", 100, BOX, 1.0) as images:
        images[:] = np.random.default_rng(0).normal(size=images.shape)
    announce_images(tmp_path / "x.mrcs", np.array([7, 3, 5]))
    size = 4 * BOX**2
    assert asked == [(1024 + 3 * size, 5 * size, os.POSIX_FADV_WILLNEED)]
    with gzip.open(tmp_path / "x.mrcs.gz", "wb") as file:
        file.write((tmp_path / "x.mrcs").read_bytes())
    for path, rows in (("x.mrcs", []), ("x.mrcs", [0, 99]), ("x.mrcs.gz", [1, 2]), ("none.mrcs", [1])):
        announce_images(tmp_path / path, np.array(rows, int))
    assert len(asked) == 1
