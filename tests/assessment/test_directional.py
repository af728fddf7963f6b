"""Directional FSC and sampling, on maps and views whose answer is known."""

import numpy as np
import pytest

from gsworkbench.assessment.directional import directional_fsc, half_sphere, sampling, sphericity
from gsworkbench.assessment.fsc import fourier_shell_correlation
from gsworkbench.assessment.masks import Mask
from gsworkbench.geometry.rotations import euler_to_matrices

BOX, VOXEL = 40, 2.0


def noise(seed):
    return np.random.default_rng(seed).standard_normal((BOX,) * 3)


def frequencies():
    k = np.fft.fftfreq(BOX, 1 / BOX)
    z, y, x = np.meshgrid(k, k, np.arange(BOX // 2 + 1), indexing="ij")
    return x, y, z


def filtered(volume, keep):
    return np.fft.irfftn(np.fft.rfftn(volume) * keep, s=volume.shape, axes=(0, 1, 2))


def test_alike_in_all_directions():
    x, y, z = frequencies()
    signal = filtered(noise(0), np.sqrt(x**2 + y**2 + z**2) < 12.5) * 3
    found = directional_fsc(*(signal + noise(i) for i in (1, 2)), voxel_size=VOXEL)
    assert found.sphericity > 0.97
    assert np.median(found.values) == pytest.approx(BOX * VOXEL / 12.5, rel=0.1)
    assert "cones of 20 degrees about 200 directions" in str(found)


def test_a_missing_cone_is_found():
    # Nothing within 35 degrees of z, as from views that are all tilted by less than 55 degrees.
    x, y, z = frequencies()
    r = np.sqrt(x**2 + y**2 + z**2)
    kept = (np.abs(z) <= np.cos(np.radians(35)) * r) & (r < 14.5)
    signal = 3 * filtered(noise(0), kept)
    found = directional_fsc(*(signal + noise(i) for i in (1, 2)), voxel_size=VOXEL)
    tilt = np.degrees(np.arccos(found.directions[:, 2]))
    assert (found.values[tilt < 10] > 2 * BOX * VOXEL / 14.5).all()
    assert found.values[tilt > 60] == pytest.approx(BOX * VOXEL / 14.5, rel=0.1)
    assert np.degrees(np.arccos(found.directions[found.values.argmax(), 2])) < 16
    assert found.sphericity < 0.9


def test_a_cone_of_ninety_degrees_is_the_whole_shell():
    a, b = noise(0) + noise(1), noise(0) + noise(2)
    found = directional_fsc(a, b, voxel_size=VOXEL, half_angle=90, n_directions=20)
    expected = fourier_shell_correlation(a, b, voxel_size=VOXEL).values[1 : BOX // 2]
    np.testing.assert_allclose(found.curves[:, 1:], np.tile(expected, (20, 1)), atol=1e-5)


def test_sphericity_of_sphere_and_ellipsoid():
    directions = half_sphere(400)
    assert sphericity(directions, np.full(400, 7.0)) == pytest.approx(1)
    # A prolate spheroid of axes 1, 1, 2: V = 8 pi / 3, A = 2 pi (1 + 2 asin(e) / e) with e = sqrt(3) / 2.
    radii = 1 / np.sqrt(directions[:, 0] ** 2 + directions[:, 1] ** 2 + directions[:, 2] ** 2 / 4)
    e = np.sqrt(3) / 2
    expected = np.pi ** (1 / 3) * (6 * 8 * np.pi / 3) ** (2 / 3) / (2 * np.pi * (1 + 2 * np.arcsin(e) / e))
    assert sphericity(directions, radii) == pytest.approx(expected, abs=0.01)


def rotations(rot, tilt):
    return euler_to_matrices(rot, tilt, np.zeros_like(rot))


def test_even_views_sample_evenly_and_side_views_by_eighty_one_percent():
    rng = np.random.default_rng(0)
    rot = rng.uniform(0, 360, 20000)
    even = sampling(rotations(rot, np.degrees(np.arccos(rng.uniform(-1, 1, 20000)))))
    assert even.compensation == pytest.approx(1, abs=0.02)
    side = sampling(rotations(rot, np.full(20000, 90.0)))
    assert side.compensation == pytest.approx(8 / np.pi**2, abs=0.02)
    assert side.density[-1] > 10 * np.median(side.density)  # all slices share the z axis


def test_top_views_leave_directions_unsampled():
    found = sampling(rotations(np.linspace(0, 360, 500), np.full(500, 20.0)))
    tilt = np.degrees(np.arccos(found.directions[:, 2]))
    assert found.compensation == 0 and (found.density[tilt < 65] == 0).all()
    assert found.unsampled == pytest.approx(np.mean(tilt < 70), abs=0.06)
    assert "unsampled" in str(found)


def test_directions_that_never_cross_leave_no_sphericity():
    signal = noise(0)
    found = directional_fsc(*(signal + 0.1 * noise(i) for i in (1, 2)), voxel_size=VOXEL)
    assert found.sphericity is None and found.at_nyquist == 1
    assert "sphericity not measurable, because 100.0 % of the directions never fall below 0.143" in str(found)


@pytest.mark.parametrize("last", [8, 14])
def test_a_filter_is_no_sphere(last):
    x, y, z = frequencies()
    kept = np.sqrt(x**2 + y**2 + z**2) <= last
    mask = Mask(np.clip(3 - np.linalg.norm(np.indices((BOX,) * 3) - BOX // 2, axis=0) / 5, 0, 1))
    halves = [filtered(2 * noise(0) + noise(i), kept).astype(np.float32) for i in (1, 2)]
    for m in (None, mask):
        found = directional_fsc(*halves, voxel_size=VOXEL, mask=m)
        assert found.sphericity is None and "the last shell in which the maps hold power" in found.reason
        assert found.finest == pytest.approx(BOX * VOXEL / last) and (found.values >= found.finest - 1e-9).all()
        assert np.isnan(found.curves[:, last + 1 :]).all()


def test_views_from_one_side_leave_no_sphericity_and_need_no_images(tmp_path, capsys):
    from gsworkbench.cli.main import main
    from gsworkbench.io.mrc import write_map

    x, y, z = frequencies()
    signal = 3 * filtered(noise(0), np.sqrt(x**2 + y**2 + z**2) < 12.5)
    for k in (1, 2):
        write_map(tmp_path / f"half{k}.mrc", signal + noise(k), VOXEL)
    head = "data_particles\n\nloop_\n" + "".join(
        f"_rln{name}\n" for name in ("ImageName", "AngleRot", "AngleTilt", "AnglePsi", "Voltage", "DefocusU")
    )
    text = {}
    for name, tilts in (("top", np.zeros(400)), ("all", np.degrees(np.arccos(np.linspace(-0.999, 0.999, 400))))):
        rows = [f"{i + 1}@absent.mrcs {137.5 * i % 360:.3f} {tilt:.3f} 0 300 10000" for i, tilt in enumerate(tilts)]
        (tmp_path / f"{name}.star").write_text(head + "\n".join(rows) + "\n")
        words = [str(tmp_path / "half1.mrc"), str(tmp_path / "half2.mrc"), "--mask", "none"]
        particles = ["--particles", str(tmp_path / f"{name}.star"), "--out", str(tmp_path / name)]
        assert main(["directional", *words, *particles]) == 0
        text[name] = capsys.readouterr().out
        assert (tmp_path / name / "views.png").is_file()
    assert "sphericity not measurable, because the views leave 9" in text["top"]
    assert "sphericity not measurable" in (tmp_path / "top" / "directional.csv").read_text().splitlines()[0]
    assert "sphericity 0.9" in text["all"] and "0.0 % of directions unsampled" in text["all"]
