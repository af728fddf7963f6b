"""The judge's commands on files: what they find, what they write, and one clear sentence for what cannot be judged."""

import dataclasses
import re
import shutil

import mrcfile
import numpy as np
import pytest
from scipy import ndimage

from gsworkbench.assessment.assess import SUBSTITUTED
from gsworkbench.assessment.fsc import read_fsc_csv, shell_indices
from gsworkbench.assessment.map_names import REGULARISED, UNFILTERED
from gsworkbench.assessment.masks import spherical_mask
from gsworkbench.cli.main import main
from gsworkbench.inspection.findings import particle_alarms
from gsworkbench.io.mrc import read_map, write_map
from gsworkbench.particles.formats.relion import write_star
from gsworkbench.particles.read import read_particles
from gsworkbench.particles.stack import Picks

BOX, VOXEL = 32, 3.0


def noise(seed):
    return np.random.default_rng(seed).standard_normal((BOX,) * 3)


def filtered(volume, gain):
    return np.fft.irfftn(np.fft.rfftn(volume) * gain(shell_indices(BOX)), s=volume.shape, axes=(0, 1, 2))


def signal():
    inside = spherical_mask(BOX, VOXEL, radius=15, edge=12).values
    return filtered(noise(0) * inside, lambda s: 40 * np.exp(-((s / 6) ** 2)))


@pytest.fixture
def maps(tmp_path):
    """Writes maps; half1.mrc, half2.mrc and truth.mrc are there already. Returns the function that writes."""

    def written(name, volume, voxel_size=VOXEL):
        write_map(tmp_path / name, volume, voxel_size)
        return str(tmp_path / name)

    written("truth.mrc", signal())
    for k in (1, 2):
        written(f"half{k}.mrc", signal() + 0.5 * noise(k))
    return written


@pytest.fixture
def halves(maps, tmp_path):
    return [str(tmp_path / f"half{k}.mrc") for k in (1, 2)]


def said(capsys):
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_several_masks_give_a_curve_each_in_every_output(maps, halves, tmp_path, capsys):
    own = maps("my mask.mrc", spherical_mask(BOX, VOXEL, radius=24, edge=9).values)
    wanted = [word for mask in ("auto", "sphere", "loose", "tight", own) for word in ("--mask", mask)]
    assert main(["fsc", *halves, *wanted, "--out", str(tmp_path / "out")]) == 0
    text = said(capsys)
    curves = {c.name: c for c in read_fsc_csv(tmp_path / "out" / "fsc.csv")}
    names = {"fsc_unmasked", "fsc_masked", "fsc_sphere", "fsc_loose", "fsc_tight", "fsc_my_mask", "fsc_corrected"}
    assert names < set(curves)
    assert curves["fsc_masked"].mask.startswith("automatic") and curves["fsc_my_mask"].mask == "my mask.mrc"
    assert all(f"[{name}, FSC = 0.143" in text for name in names)
    assert "[fsc_unmasked, half-bit" in text and "[fsc_masked, half-bit" in text
    header = (tmp_path / "out" / "fsc.csv").read_text().splitlines()[1].split(",")
    assert {f"fsc_{kind}_{what}" for kind in ("unmasked", "masked") for what in ("error", "bootstrap")} < set(header)
    svg = (tmp_path / "out" / "fsc.svg").read_text()
    for caption in ("Nyquist 6.0", "RELION definition", "mask: my mask.mrc", "one standard error", "last shell before"):
        assert caption in svg


@pytest.mark.parametrize("names", [REGULARISED, UNFILTERED])
def test_a_folder_of_a_reconstruction_is_judged_whole(maps, halves, tmp_path, capsys, names):
    run = tmp_path / "run"
    run.mkdir()
    bias = filtered(noise(9), lambda s: s > 8)
    for k, name in enumerate(names, 1):
        maps(f"run/{name}", signal() + bias + 0.3 * noise(k))
        maps(f"run/{SUBSTITUTED[k - 1]}", signal() + bias + 0.3 * noise(k + 2))
    (run / "held_out.csv").write_text("step,error_fitted,error_held_out\n0,-0.1,-0.1\n10,-0.3,-0.05\n")
    assert main(["fsc", str(run), "--beyond", "16", "--out", str(tmp_path / "out")]) == 0
    text = said(capsys)
    assert "alarm: the fit explains of held-out particles 17 % of what it explains of its own" in text
    assert "alarm: fits to random phases agree by" in text
    means = {c.name: c.mean() for c in read_fsc_csv(tmp_path / "out" / "fsc.csv")}
    assert means["fsc_less_substituted"] < means["fsc_unmasked"] - 0.2
    for command in (["fsc"], ["localres", "--out", str(tmp_path / "l")], ["directional", "--out", str(tmp_path / "d")]):
        assert main([*command, str(run)]) == 0
    assert "fits to random phases" not in said(capsys)  # nothing says where their phases became random
    (run / "run.json").write_text('{"config": {"noise_substitute_beyond": 16.0}}')
    assert main(["fsc", str(run)]) == 0 and "alarm: fits to random phases agree by" in said(capsys)
    (run / "held_out.csv").write_text("step,error\n0,1\n")
    assert main(["fsc", str(run)]) == 2 and "not a held_out.csv" in said(capsys)
    (run / names[0]).unlink()
    assert main(["fsc", str(run)]) == 2 and "does not hold two half maps" in said(capsys)


def test_local_resolution_is_checked_on_the_truth(maps, halves, tmp_path, capsys):
    truth = str(tmp_path / "truth.mrc")
    assert main(["localres", *halves, "--mask", "sphere", "--truth", truth, "--out", str(tmp_path / "out")]) == 0
    lines = said(capsys).splitlines()
    assert lines[0].startswith("half maps: local resolution") and lines[1].startswith("their mean and the truth")
    files = {f"locres{of}.{suffix}" for of in ("", "_truth") for suffix in ("mrc", "png")}
    assert {p.name for p in (tmp_path / "out").iterdir()} == files
    between, to_truth = (read_map(tmp_path / "out" / f"locres{of}.mrc")[0] for of in ("", "_truth"))
    assert np.median(to_truth[to_truth > 0]) < np.median(between[between > 0])  # the mean is better than either half


def zoomed(volume, factor):
    centre = np.full(3, BOX // 2)
    return ndimage.affine_transform(volume, np.full(3, 1 / factor), centre - centre / factor, order=3)


def cut_and_masked(volume):
    inside = np.zeros((BOX,) * 3)
    inside[9:23, 10:22, 11:20] = 1
    return filtered(volume, lambda s: s <= 8) * inside


@pytest.mark.parametrize(
    ("change", "alarm"),
    [
        (lambda v: v, None),
        (lambda v: zoomed(v, 2), "with half its size"),
        (lambda v: zoomed(v, 0.5), "with twice its size"),
        (lambda v: np.roll(v[::-1, ::-1, ::-1], 1, (0, 1, 2)), "with its hand inverted"),
        (lambda v: -v, "with its sign flipped"),
        (cut_and_masked, "filtered and then masked"),
        (lambda v: np.where(np.random.default_rng(5).random(v.shape) < 2, signal(), v), "the same map"),
    ],
)
def test_half_maps_that_agree_about_a_mistake_are_flagged(maps, tmp_path, capsys, change, alarm):
    halves = [maps(f"wrong{k}.mrc", change(signal() + 0.3 * noise(k))) for k in (1, 2)]
    assert main(["fsc", *halves, "--truth", str(tmp_path / "truth.mrc")]) == 0
    alarms = [line for line in said(capsys).splitlines() if line.startswith("alarm")]
    assert (alarms == []) if alarm is None else any(alarm in line for line in alarms)


def test_half_maps_on_different_scales_are_flagged(maps, halves, capsys):
    assert main(["fsc", halves[0], maps("louder.mrc", 10 * read_map(halves[1])[0])]) == 0
    assert re.search(r"alarm: half map 1 has 0.(1|0)\d* times the standard deviation", said(capsys))


def damaged(path, change):
    """A copy of a map whose bytes `change` alters after they were written."""
    copy = path.replace(".mrc", "_damaged.mrc")
    shutil.copy(path, copy)
    with mrcfile.mmap(copy, mode="r+") as mrc:
        change(mrc)
    return copy


def _nan(mrc):
    mrc.data[3, 4, 5] = np.nan


def _flat(mrc):
    mrc.header.cella.z *= 2


def _no_voxel_size(mrc):
    mrc.header.cella.x = 0


def without_voxel_sizes(half):
    """Take it from both headers: one alone is read as the other."""
    for path in (half, half.replace("half2", "half1")):
        with mrcfile.mmap(path, mode="r+") as mrc:
            _no_voxel_size(mrc)
    return half


def _axes(mrc):
    mrc.header.mapc = 3  # z twice


def _cut(path):
    with open(path, "r+b") as file:
        file.truncate(20_000)


BAD_MAPS = {
    "NaN": (lambda maps, half: damaged(half, _nan), "1 voxels are NaN or infinite"),
    "empty": (lambda maps, half: maps("empty.mrc", np.zeros((BOX,) * 3)), "all voxels of the map have the same value"),
    "another box": (lambda maps, half: maps("box.mrc", noise(2)[:24, :24, :24]), "24 voxels of 3 A, is not that of"),
    "another voxel": (lambda maps, half: maps("voxel.mrc", noise(2), 3.3), "32 voxels of 3.3 A, is not that of"),
    "the same file": (lambda maps, half: half.replace("half2", "half1"), "both half maps are this file"),
    "a box": (lambda maps, half: maps("slab.mrc", noise(2)[:16]), "not a cube of even side"),
    "odd": (lambda maps, half: maps("odd.mrc", noise(2)[1:, 1:, 1:]), "not a cube of even side"),
    "anisotropic": (lambda maps, half: damaged(half, _flat), "3 x 3 x 6 A, not cubes"),
    "no voxel size": (lambda maps, half: without_voxel_sizes(half), "has no voxel size; give --voxel-size"),
    "axes": (lambda maps, half: damaged(half, _axes), "the header is damaged"),
    "truncated": (lambda maps, half: (_cut(half), half)[1], "the file is truncated"),
    "absent": (lambda maps, half: half + "x", "no such file"),
}


@pytest.mark.parametrize("command", ["fsc", "postprocess", "localres", "directional"])
@pytest.mark.parametrize("what", BAD_MAPS)
def test_what_cannot_be_judged_gets_one_sentence(maps, halves, tmp_path, capsys, command, what):
    make, sentence = BAD_MAPS[what]
    bad, out = make(maps, halves[1]), tmp_path / "out"
    assert main([command, halves[0], bad, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and (bad in error or halves[0] in error)
    assert not out.exists()


@pytest.mark.parametrize("command", ["fsc", "postprocess", "localres", "directional"])
@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        (np.zeros((BOX,) * 3), "the mask is empty"),
        (np.full((BOX,) * 3, 2.0), "a mask must lie between 0 and 1, not 2 and 2"),
        (np.ones((24,) * 3), "its grid, 24 voxels of 3 A, is not that of"),
    ],
)
def test_masks_that_mask_nothing_get_one_sentence(maps, halves, tmp_path, capsys, command, volume, sentence):
    mask, out = maps("mask.mrc", volume), tmp_path / "out"
    assert main([command, *halves, "--mask", mask, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert sentence in error and "mask.mrc" in error and error.count("\n") == 1
    assert not out.exists()


def test_other_answers_to_impossible_wishes(halves, tmp_path, capsys):
    for words, sentence in (
        (["fsc", halves[0]], "there is one half map"),
        (["fsc", *halves, "--mask", str(tmp_path / "none.mrc")], "no such file"),
        (["postprocess", *halves, "--out", str(tmp_path / "o"), "--sharpen", "much"], "--sharpen needs auto or a B"),
        (["localres", *halves, "--out", str(tmp_path / "o"), "--mask", "none"], "needs a mask"),
        (["directional", *halves, "--out", str(tmp_path / "o"), "--half-angle", "0"], "half-angle"),
        (["localres", *halves, "--out", str(tmp_path / "o"), "--step", "-4"], "step"),
    ):
        assert main(words) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def doubled(stack, n):
    """The stack with its first n particles once more, in the other half set."""
    rows = np.r_[np.arange(len(stack)), np.arange(n)]
    both = stack[rows]
    half_set = both.half_set.copy()
    half_set[len(stack) :] = 3 - stack.half_set[:n]
    return dataclasses.replace(both, half_set=half_set)


def test_particles_that_half_sets_share_are_told_from_the_command_line(noisy_set, halves, tmp_path, capsys):
    star = tmp_path / "twice.star"
    write_star(star, doubled(read_particles(noisy_set.star).with_half_sets(), 30))
    # inspect goes on to a quick map, which refuses a particle that is listed twice.
    for command, code in ((["inspect", str(star)], 2), (["fsc", *halves, "--particles", str(star)], 0)):
        assert main(command) == code
        text = said(capsys)
        assert "the same images are in both half sets" in text and "copies of the same image are" in text
    assert main(["inspect", str(noisy_set.star)]) == 0
    assert "none in both half sets" in said(capsys)


def test_coordinates_tell_particles_picked_twice(noisy_set):
    stack = read_particles(noisy_set.star).with_half_sets()
    assert stack.picks is None and particle_alarms(stack) == []
    rng = np.random.default_rng(0)
    places = rng.permutation(1600)[: len(stack)]
    apart = np.column_stack(np.divmod(places, 40)) * 50.0
    once = Picks(("a.mrc",), np.zeros(len(stack), int), apart)
    assert particle_alarms(dataclasses.replace(stack, picks=once), most_images=0) == []
    first, second = (np.flatnonzero(stack.half_set == half)[:6] for half in (1, 2))
    twice = apart.copy()
    twice[second] = twice[first] + 5
    picks = dataclasses.replace(once, positions_angstrom=twice)
    (sentence,) = particle_alarms(dataclasses.replace(stack, picks=picks), most_images=0)
    assert "closer than 20 A" in sentence and f"6 of {len(stack) // 2}" in sentence


def test_two_percent_of_shared_particles_ring(noisy_set):
    stack = read_particles(noisy_set.star).with_half_sets()
    stack = doubled(stack, len(stack) // 100)  # 2 % of a half set
    assert any("the same images" in sentence for sentence in particle_alarms(stack, most_images=0))
