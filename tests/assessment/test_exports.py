"""Files for EMDB and RELION, read back by programs that are not ours."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import starfile

from gsworkbench.assessment.definitions import judge
from gsworkbench.assessment.exports import STAR_COLUMNS, write_fsc_xml, write_postprocess_star
from gsworkbench.assessment.fsc import FscCurve, read_fsc_csv, resolution, write_fsc_csv
from gsworkbench.assessment.masks import spherical_mask
from gsworkbench.errors import InputError

BOX, VOXEL = 24, 2.5


@pytest.fixture(scope="module")
def judgement():
    rng = np.random.default_rng(0)
    mask = spherical_mask(BOX, VOXEL, radius=15, edge=10)
    k = np.fft.fftfreq(BOX, 1 / BOX)
    r2 = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    signal = np.fft.ifftn(np.fft.fftn(rng.standard_normal((BOX,) * 3) * mask.values) * np.exp(-r2 / 20)).real * 10
    halves = [signal + rng.standard_normal((BOX,) * 3) for _ in range(2)]
    return judge(*halves, voxel_size=VOXEL, mask=mask)


def test_the_xml_is_what_emdb_takes(judgement, tmp_path):
    curve = judgement.curve("fsc_corrected")
    write_fsc_xml(tmp_path / "fsc.xml", curve, judgement.resolution)
    root = ElementTree.parse(tmp_path / "fsc.xml").getroot()
    assert root.tag == "fsc" and set(root.attrib) == {"title", "xaxis", "yaxis"}
    assert (root.get("xaxis"), root.get("yaxis")) == ("Resolution (A-1)", "Correlation Coefficient")
    assert root.get("title") == str(judgement.resolution)
    assert [child.tag for child in root] == ["coordinate"] * (BOX // 2 + 1)
    assert {tuple(leaf.tag for leaf in child) for child in root} == {("x", "y")}
    points = np.array([[float(leaf.text) for leaf in child] for child in root])
    np.testing.assert_allclose(points[:, 0], np.arange(BOX // 2 + 1) / (BOX * VOXEL), rtol=1e-6)
    np.testing.assert_allclose(points[1:, 1], curve.values[1:], atol=1e-5)
    assert points[0, 1] == 1  # as RELION writes it


def test_shells_without_power_are_left_out_of_the_xml(tmp_path):
    curve = FscCurve("fsc_unmasked", np.array([1, 0.9, 0.1, np.nan, np.nan]), 8, 2.0, mask='a "tight" <mask> & more')
    write_fsc_xml(tmp_path / "fsc.xml", curve, resolution(curve))
    root = ElementTree.parse(tmp_path / "fsc.xml").getroot()
    assert len(root) == 3
    assert 'a "tight" <mask> & more' in root.get("title")


def test_starfile_reads_postprocess_star(judgement, tmp_path):
    write_postprocess_star(tmp_path / "postprocess.star", judgement, ("half 1.mrc", "half2.mrc"), "mask.mrc")
    blocks = starfile.read(tmp_path / "postprocess.star")
    general, table = blocks["general"], blocks["fsc"]
    assert general["rlnFinalResolution"] == pytest.approx(judgement.resolution.angstrom, abs=1e-5)
    assert general["rlnUnfilteredMapHalf1"] == "half 1.mrc"
    assert general["rlnRandomiseFrom"] == pytest.approx(BOX * VOXEL / judgement.randomised_from, abs=1e-5)
    assert list(table.rlnSpectralIndex) == list(range(BOX // 2 + 1))
    assert table.rlnAngstromResolution[0] == pytest.approx(999, abs=0.01)
    for label, name in STAR_COLUMNS.items():
        np.testing.assert_allclose(table[label], judgement.curve(name).values, atol=1e-6)


def test_no_crossing_is_said_in_postprocess_star(tmp_path):
    volume = np.random.default_rng(1).standard_normal((BOX,) * 3)
    same = judge(volume, volume, voxel_size=VOXEL, mask="none")
    write_postprocess_star(tmp_path / "postprocess.star", same, ("a", "b"), "None")
    assert "no crossing below Nyquist (5.00 A)" in (tmp_path / "postprocess.star").read_text()
    blocks = starfile.read(tmp_path / "postprocess.star")
    assert blocks["general"]["rlnFinalResolution"] == 5.0
    assert "rlnFourierShellCorrelationCorrected" not in blocks["fsc"]


def test_csv_comes_back_with_definition_and_masks(judgement, tmp_path):
    write_fsc_csv(tmp_path / "fsc.csv", judgement.curves)
    for ours, read in zip(judgement.curves, read_fsc_csv(tmp_path / "fsc.csv"), strict=True):
        assert (read.name, read.mask, read.definition) == (ours.name, ours.mask, "RELION")
        np.testing.assert_allclose(read.values, ours.values, atol=1e-6)


@pytest.mark.parametrize("damage", [("masks: fsc_", "masks: of_"), ("box_size 24", "box_size 2.4"), (",0.", ",zero.")])
def test_a_damaged_csv_is_refused(judgement, tmp_path, damage):
    write_fsc_csv(tmp_path / "fsc.csv", judgement.curves)
    text = (tmp_path / "fsc.csv").read_text()
    assert damage[0] in text
    (tmp_path / "fsc.csv").write_text(text.replace(*damage))
    with pytest.raises(InputError, match=r"fsc\.csv"):
        read_fsc_csv(tmp_path / "fsc.csv")
