"""Headers that do not know the voxel size, contradict each other, or put maps somewhere: read, said, and kept."""

import mrcfile
import numpy as np
import pytest
from test_register import pair

from gsworkbench.cli.main import main
from gsworkbench.io.mrc import MapPlace, map_origin, map_place, read_map, write_map

BOX = 40


@pytest.fixture
def half_maps(tmp_path):
    """Writes half1.mrc, half2.mrc and mask.mrc with the voxel sizes and places given, and returns their paths."""

    def written(first=2.5, second=2.5, mask=2.5, places=(None, None, None)):
        volumes = [*pair(1, BOX, 5.0), np.ones((BOX,) * 3)]
        names = ("half1.mrc", "half2.mrc", "mask.mrc")
        for name, volume, size, place in zip(names, volumes, (first, second, mask), places, strict=True):
            write_map(tmp_path / name, volume, size or 1.0, place=place)
            if size is None:
                with mrcfile.mmap(tmp_path / name, mode="r+") as mrc:
                    mrc.header.cella = (0, 0, 0)
        return [str(tmp_path / name) for name in names]

    return written


def said(capsys):
    captured = capsys.readouterr()
    return captured.out + captured.err


COMMANDS = {
    "fsc": lambda out: [],
    "postprocess": lambda out: ["--out", str(out)],
    "localres": lambda out: ["--out", str(out)],
    "directional": lambda out: ["--out", str(out)],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_voxel_size_that_is_given_overrules_all_headers(half_maps, tmp_path, capsys, command):
    maps = half_maps(None, 1.0, 7.0)
    words = [command, *maps[:2], *COMMANDS[command](tmp_path / "o"), "--mask", maps[2], "--voxel-size", "3.25"]
    assert main(words) == 0
    text = said(capsys)
    assert "3.25 A/voxel" in text and "--voxel-size 3.25 A overrules the header, which says 1 A" in text
    assert "which says nothing of it" in text
    assert "mask.mrc: the mask's header says 7 A, the maps have voxels of 3.25 A" in text
    for made in (tmp_path / "o").glob("*.mrc"):
        assert read_map(made)[1] == pytest.approx(3.25)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("first", "second", "taken", "words"),
    [
        (
            1.0,
            1.0,
            "1",
            "half1.mrc, half2.mrc: the header says 1 A per voxel, which programs write that do not know it",
        ),
        (1.0, 2.7, "2.7", "half1.mrc: the header says 1 A per voxel, as programs write that do not know it; 2.7 A is"),
        (3.1, None, "3.1", "half2.mrc: the header says no voxel size"),
        (2.0, 2.01, "2", None),
    ],
)
def test_headers_that_do_not_know_are_told(half_maps, tmp_path, capsys, command, first, second, taken, words):
    maps = half_maps(first, second)
    assert main([command, *maps[:2], *COMMANDS[command](tmp_path / "o")]) == 0
    text = said(capsys)
    assert f"{taken} A/voxel" in text
    assert "the header says" not in text if words is None else words in text


def test_headers_that_contradict_each_other_name_both_and_the_remedy(half_maps, capsys):
    maps = half_maps(2.0, 2.6)
    assert main(["fsc", *maps[:2]]) == 2
    error = said(capsys)
    assert "2.6 A" in error and "2 A" in error and "--voxel-size" in error and error.count("\n") == 1
    assert main(["fsc", *half_maps(None, None)[:2]]) == 2
    assert "give --voxel-size" in said(capsys)
    for size in ("0", "-2", "nan", "1e9"):
        assert main(["fsc", *maps[:2], "--voxel-size", size]) == 2
        assert "voxel size of" in said(capsys)


@pytest.mark.parametrize(
    "place", [MapPlace((40.0, -44.0, 48.5), (0, 0, 0)), MapPlace((0, 0, 0), (3, -4, 5)), MapPlace((1, 2, 3), (7, 8, 9))]
)
def test_what_is_made_of_maps_lies_where_they_lie(half_maps, tmp_path, capsys, place):
    maps = half_maps(places=(place, place, place))
    out = tmp_path / "o"
    for command in ("postprocess", "localres"):
        assert main([command, *maps[:2], "--out", str(out)]) == 0
    assert "lie in different places" not in said(capsys)
    made = sorted(out.glob("*.mrc"))
    assert {p.name for p in made} == {"postprocess.mrc", "postprocess_masked.mrc", "mask.mrc", "locres.mrc"}
    for path in made:
        assert map_place(path) == place
        np.testing.assert_allclose(map_origin(path), map_origin(maps[0]))


def test_maps_in_different_places_are_told(half_maps, tmp_path, capsys):
    maps = half_maps(places=(MapPlace((10, 0, 0)), MapPlace(), MapPlace((10, 0, 9))))
    assert main(["postprocess", *maps[:2], "--mask", maps[2], "--out", str(tmp_path / "o")]) == 0
    text = said(capsys)
    assert "half2.mrc and half1.mrc lie in different places" in text
    assert "mask.mrc and half1.mrc lie in different places" in text
    assert map_place(tmp_path / "o" / "postprocess.mrc").origin == (10, 0, 0)


def test_start_indices_follow_the_axes(tmp_path):
    write_map(tmp_path / "a.mrc", np.ones((4, 4, 4)), 2.0, place=MapPlace((0, 0, 0), (1, 2, 3)))
    with mrcfile.mmap(tmp_path / "a.mrc", mode="r+") as mrc:
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 3, 1, 2  # columns run along z, rows x, sections y
    assert map_place(tmp_path / "a.mrc").starts == (2, 3, 1)
    np.testing.assert_allclose(map_origin(tmp_path / "a.mrc", 5.0), [10, 15, 5])


def test_an_origin_that_is_no_number_counts_as_none(tmp_path):
    write_map(tmp_path / "a.mrc", np.ones((4, 4, 4)), 2.0)
    with mrcfile.mmap(tmp_path / "a.mrc", mode="r+") as mrc:
        mrc.header.origin.x = np.nan
    assert map_place(tmp_path / "a.mrc") == MapPlace()
