"""The table of an experiment as Markdown: a row for each choice of factors, mean and spread over seeds.

What a column is measured with (mask, threshold, rule, machine) is printed below, because a number without its
definition cannot be compared with anyone else's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gsworkbench.experiments.plan import Experiment, Registry

if TYPE_CHECKING:
    import pandas as pd

# Unit of a result -> how a cell of it is printed.
FORMATS: dict[str, Callable[[float], str]] = {
    "1": lambda value: f"{value:.3f}",
    "A": lambda value: f"{value:.1f} Å",
    "s": lambda value: f"{value:.1f} s" if value >= 0.1 else f"{1e3 * value:.3g} ms",
    "1/s": lambda value: f"{value:.3g} /s",
    "bytes": lambda value: f"{value / 2**20:.0f} MiB",
}
HEADINGS = {
    "fsc_truth_mean": "mean FSC to the truth",
    "fsc_half_mean": "mean FSC of half maps",
    "fsc_truth_high": "FSC to the truth, last third",
    "fsc_half_high": "FSC of half maps, last third",
    "overstatement_mean": "half maps overstate by (H)",
    "fsc_estimate_mean": "estimated FSC of a half map to the truth",
    "fsc_estimate_overstatement": "half maps agree more than the estimate allows by",
    "resolution_truth_0.5": "resolution to the truth (0.5)",
    "resolution_half_0.143": "resolution of half maps (0.143)",
    "resolution_half_0.143_cryodrgn": "the same as cryoDRGN reads it",
    "resolution_half_0.143_gem": "the same as GEM reads it",
    "correction_gap": "what the correction takes (tight mask)",
    "fsc_half_beyond": "half-map FSC where phases are noise",
    "train_cpu_seconds": "CPU time of the fit",
    "images_per_cpu_second": "images per CPU second",
    "peak_memory_bytes": "peak memory",
    "local_truth_mean": "mean local resolution to the truth",
    "local_half_mean": "mean local resolution of half maps",
    "sphericity_truth": "sphericity to the truth",
    "sphericity_half": "sphericity of half maps",
    "scheme_cpu_seconds": "a step by the renderer cpu",
    "scheme_listed_gather_seconds": "tiles, as listed, gather",
    "scheme_listed_scatter_seconds": "tiles, as listed, scatter",
    "scheme_depth_gather_seconds": "tiles, sorted by depth, gather",
    "rise_after_dip": "rise after a dip",
    "fsc_half_in_sphere_high": "the same in a sphere",
    "fsc_half_masked_mean": "mean FSC of half maps in the automatic mask",
    "power_ratio_high": "power over the truth's, last third",
}
HIDDEN = ("method", "seed", "data_seed")


def markdown(rows: pd.DataFrame, experiment: Experiment, registry: Registry) -> str:
    """Return the table and how each column was measured. rows : of results.csv, of one experiment."""
    varied = _varied(rows)
    metrics = [m for m in experiment.table if (rows.metric == m).any()]
    heads = ["method", *(name.replace("_", " ") for name in varied), "seeds", *(HEADINGS.get(m, m) for m in metrics)]
    lines = [_line(heads), _line(["---"] * len(heads))]
    keys = [_key(text) for text in rows.factors]
    for key in dict.fromkeys(keys):
        chosen = rows[[k == key for k in keys]]
        factors = json.loads(chosen.factors.iloc[0])
        shown = [_text(factors.get(name, "")) for name in varied]
        cells = [_cell(chosen[chosen.metric == m]) for m in metrics]
        lines.append(_line([registry.methods[factors["method"]].label, *shown, f"{chosen.run.nunique()}", *cells]))
    lines += ["", f"Scale: {registry.scale}. Mean (and standard deviation) over seeds. How it was measured:", ""]
    for metric in metrics:
        measured = dict.fromkeys(_how(text) for text in rows[rows.metric == metric].definition)
        lines.append(f"- {HEADINGS.get(metric, metric)}: {' / '.join(list(measured)[:3])}")
    return "\n".join(lines) + "\n"


def _varied(rows: pd.DataFrame) -> list[str]:
    """Return the factors that differ between runs, but for method and seeds."""
    seen: dict[str, set[str]] = {}
    for text in dict.fromkeys(rows.factors):
        for name, value in json.loads(text).items():
            seen.setdefault(name, set()).add(json.dumps(value))
    everywhere = [set(json.loads(text)) for text in dict.fromkeys(rows.factors)]
    return [n for n, v in seen.items() if n not in HIDDEN and (len(v) > 1 or any(n not in e for e in everywhere))]


def _key(factors: str) -> str:
    return json.dumps({k: v for k, v in json.loads(factors).items() if k not in HIDDEN[1:]}, sort_keys=True)


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _cell(rows: pd.DataFrame) -> str:
    """Print mean and spread, or what the definition has in their place: "no crossing below Nyquist (12.00 A)"."""
    if rows.empty:
        return ""
    values, print_ = rows.value.astype(float), FORMATS[rows.unit.iloc[0]]
    if values.isna().any():
        crossed = len(values) - int(values.isna().sum())
        text = rows.definition[values.isna()].iloc[0].split(" [")[0]
        return text if not crossed else f"{text}; {crossed} of {len(values)} seeds cross"
    return print_(values.mean()) + (f" ({values.std():.2g})" if len(values) > 1 and rows.unit.iloc[0] == "1" else "")


def _how(definition: str) -> str:
    """Return the bracket of "12.8 A [curve, threshold, rule, mask]", or a definition without one whole."""
    return definition.split(" [", 1)[-1].removesuffix("]")
