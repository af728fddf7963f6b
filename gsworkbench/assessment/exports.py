"""FSC curves as other programs read them: EMDB's fsc.xml and RELION's postprocess.star. fsc.csv is in fsc.py.

EMDB publishes no schema of fsc.xml beside its others. What is written is what relion_postprocess writes, element by
element, and what the reader of EMDB's validation analysis takes: coordinates counted from shell 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from gsworkbench import __version__
from gsworkbench.assessment.definitions import Judgement
from gsworkbench.assessment.fsc import FscCurve, Resolution
from gsworkbench.assessment.sharpening import Sharpened
from gsworkbench.io.files import write_text

# RELION's column -> our curve. Shells without a value are not written: RELION knows no NaN.
STAR_COLUMNS = {
    "rlnFourierShellCorrelationCorrected": "fsc_corrected",
    "rlnFourierShellCorrelationUnmaskedMaps": "fsc_unmasked",
    "rlnFourierShellCorrelationMaskedMaps": "fsc_masked",
    "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": "fsc_randomized_masked",
}


def write_fsc_xml(path: str | Path, curve: FscCurve, resolution: Resolution) -> None:
    """Write one curve as EMDB takes it: 1/A and FSC, shell by shell, those without a value left out.

    Shell 0 is written as 1, as RELION does: readers count shells from there. The title says curve, resolution, mask and
    definition.
    """
    lines = [f'<fsc title={quoteattr(str(resolution))} xaxis="Resolution (A-1)" yaxis="Correlation Coefficient">']
    values = np.append(1.0, curve.values[1:])
    for x, y in zip(curve.frequencies, values, strict=True):
        if np.isfinite(y):
            lines += ["  <coordinate>", f"    <x>{x:.7g}</x>", f"    <y>{y:.6g}</y>", "  </coordinate>"]
    write_text(path, "\n".join([*lines, "</fsc>", ""]))


def write_postprocess_star(
    path: str | Path, judgement: Judgement, half_maps: tuple[str, str], mask: str, sharpened: Sharpened | None = None
) -> None:
    """Write postprocess.star with RELION's blocks general and fsc, and guinier where there is a sharpened map.

    half_maps, mask : file names to mention; "None" for no mask. rlnFinalResolution is that of the definition; without
    a crossing it is twice the voxel size, as RELION writes it, and a comment says that nothing was measured.
    """
    found, first = judgement.resolution, judgement.curves[0]
    final = first.nyquist_angstrom if found.angstrom is None else found.angstrom
    general = {"rlnFinalResolution": f"{final:.6f}"}
    if sharpened is not None:
        general["rlnBfactorUsedForSharpening"] = f"{sharpened.b_factor:.6f}"
    general |= {
        "rlnUnfilteredMapHalf1": _quoted(half_maps[0]),
        "rlnUnfilteredMapHalf2": _quoted(half_maps[1]),
        "rlnMaskName": _quoted(mask),
    }
    if judgement.randomised_from is not None:
        general["rlnRandomiseFrom"] = f"{first.box_size * first.voxel_size / judgement.randomised_from:.6f}"
    if sharpened is not None and sharpened.fit is not None:
        general |= {
            "rlnFittedSlopeGuinierPlot": f"{sharpened.fit.slope:.6f}",
            "rlnFittedInterceptGuinierPlot": f"{sharpened.fit.intercept:.6f}",
            "rlnCorrelationFitGuinierPlot": f"{sharpened.fit.correlation:.6f}",
        }
    lines = [f"# gsworkbench {__version__}", f"# {found}", "", "# version 30001", "", "data_general", ""]
    lines += [f"_{label:<48} {value}" for label, value in general.items()]
    lines += ["", "# version 30001", "", "data_fsc", "", "loop_", *_fsc_loop(judgement), ""]
    if sharpened is not None:
        lines += ["", "# version 30001", "", "data_guinier", "", "loop_", *_guinier_loop(sharpened), ""]
    write_text(path, "\n".join(lines))


def _guinier_loop(sharpened: Sharpened) -> Iterable[str]:
    labels = ["rlnResolutionSquared", *(f"rlnLogAmplitudes{name.capitalize()}" for name in sharpened.amplitudes)]
    yield from (f"_{label} #{number}" for number, label in enumerate(labels, 1))
    for row in zip(sharpened.squared_frequencies, *sharpened.amplitudes.values(), strict=True):
        yield " ".join(f"{value:14.6g}" for value in row)


def _fsc_loop(judgement: Judgement) -> Iterable[str]:
    first = judgement.curves[0]
    shells = np.arange(len(first.values))
    frequencies = np.where(shells == 0, 0.001001, first.frequencies)  # what RELION writes for shell 0: 999 A
    columns: dict[str, NDArray[np.floating]] = {
        "rlnSpectralIndex": shells.astype(float),
        "rlnResolution": frequencies,
        "rlnAngstromResolution": 1 / frequencies,
    }
    curves = {label: judgement.curve(name) for label, name in STAR_COLUMNS.items()}
    columns |= {label: curve.values for label, curve in curves.items() if curve is not None}
    yield from (f"_{label} #{number}" for number, label in enumerate(columns, 1))
    table = np.stack(list(columns.values()), axis=1)
    for row in table[np.isfinite(table[:, 3:]).all(axis=1)]:
        yield " ".join([f"{int(row[0]):12d}", *(f"{value:12.6f}" for value in row[1:])])


def _quoted(text: str) -> str:
    return f'"{text}"' if not text or any(c.isspace() or c in "#'" for c in text) else text
