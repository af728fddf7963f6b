"""The sliders and switches of a live fit, and the settings that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from gsworkbench.assessment.mask_names import MASKS
from gsworkbench.lab.commands import PRESET, preview_config
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.registry import METHODS
from gsworkbench.methods.stochastic import PRESETS

NUMBERS = (50, 100, 200, 500, 1000, 2000, 3000, 5000, 10_000, 20_000)
_MASKS = [name for name in MASKS if name != "own"]
_WIDE = {"style": {"description_width": "130px"}, "layout": {"width": "410px"}}


class Controls:
    """`box` holds the widgets; `config` is what they say; `on_change` is told when one of them is let go."""

    def __init__(self, start: ReconstructionConfig, on_change: Callable[[], None]) -> None:
        number = start.n_gaussians if start.method == "one-pass" else None
        nearest = min(NUMBERS, key=lambda n: abs(n - (number or 2000)))
        self.method = widgets.Dropdown(options=offered_methods(), description="method", **_WIDE)
        self.number = widgets.SelectionSlider(
            options=[(f"{n:,}", n) for n in NUMBERS], value=nearest, description="Gaussians N", **_WIDE
        )
        self.seed = widgets.IntSlider(value=start.seed, max=9, description="seed", **_WIDE)
        self.steps = widgets.Dropdown(
            options={"preview: 45 steps, no background": True, "full: as the command by default": False},
            description="size of the fit",
            **_WIDE,
        )
        self.start = widgets.Dropdown(options=["data", "random"], description="start", **_WIDE)
        self.spread = widgets.FloatSlider(
            value=0.12, min=0.02, max=0.3, step=0.01, description="initial spread", readout_format=".2f", **_WIDE
        )
        self.rate = widgets.FloatLogSlider(value=2e-3, min=-4, max=-1, step=0.1, description="learning rate", **_WIDE)
        self.schedule = widgets.Dropdown(options=["cosine", "epoch"], description="rate falls by", **_WIDE)
        self.shape = widgets.Dropdown(options=["anisotropic", "isotropic"], description="shape", **_WIDE)
        self.gamma = widgets.FloatSlider(value=0.1, min=0.05, max=1.0, step=0.05, description="gamma", **_WIDE)
        self.boost = widgets.FloatSlider(value=2.0, max=4.0, step=0.5, description="boost", **_WIDE)
        self.mask = widgets.Dropdown(options=_MASKS, value=_mask(start), description="mask", **_WIDE)
        self.substitute = widgets.FloatSlider(
            value=0.0, max=100.0, step=1.0, description="random beyond, Å", readout_format=".0f", **_WIDE
        )
        self.on_change = on_change
        self._quiet = False
        for control in self._all():
            control.continuous_update = False
            control.observe(self._changed, names="value")
        self.box = widgets.VBox(self._all())
        self._show_what_applies()

    @property
    def config(self) -> ReconstructionConfig:
        """The settings of a fit, every other one at its default (those of a preview, or of the command line)."""
        common: dict[str, Any] = {"method": self.method.value, "seed": self.seed.value, "mask": self.mask.value}
        if self.substitute.value:
            common["noise_substitute_beyond"] = self.substitute.value
        if self.method.value == "stochastic":
            settings = replace(
                PRESETS[PRESET],
                n_gaussians=self.number.value,
                initial_spread=round(self.spread.value, 4),
                learning_rate=_rounded(self.rate.value),
                schedule=self.schedule.value,
                gamma=round(self.gamma.value, 4),
                shape=self.shape.value,
                boost=self.boost.value,
            )
            return ReconstructionConfig(settings=settings, **common)
        if self.method.value != "one-pass":
            return ReconstructionConfig(**common)
        base = preview_config().settings if self.steps.value else OnePass()
        settings_ = replace(
            base,
            n_gaussians=self.number.value,
            start=self.start.value,
            initial_spread=round(self.spread.value, 4),
            learning_rate=_rounded(self.rate.value),
            boost=self.boost.value,
        )
        return ReconstructionConfig(settings=settings_, **common)

    def _all(self) -> list[widgets.Widget]:
        names = (
            *("method", "number", "seed", "steps", "start", "spread", "shape", "rate", "schedule", "gamma", "boost"),
            *("mask", "substitute"),
        )
        return [getattr(self, name) for name in names]

    def _changed(self, change: dict) -> None:
        if self._quiet:
            return
        if change["owner"] is self.method:
            self._quiet = True
            self.rate.value = PRESETS[PRESET].learning_rate if self.method.value == "stochastic" else 2e-3
            self._quiet = False
        self._show_what_applies()
        self.on_change()

    def _show_what_applies(self) -> None:
        """Hide what the method does not heed."""
        method = self.method.value
        applies = {"method", "seed", "mask", "substitute"}
        if method in ("one-pass", "stochastic"):
            applies |= {"number", "rate", "boost"}
        if method == "one-pass":
            applies |= {"steps", "start"} | ({"spread"} if self.start.value == "random" else set())
        if method == "stochastic":
            applies |= {"spread", "shape", "schedule"} | ({"gamma"} if self.schedule.value == "epoch" else set())
        for control in self._all():
            shown = any(control is getattr(self, name) for name in applies)
            control.layout.display = None if shown else "none"


def offered_methods() -> dict[str, str]:
    """Return the methods of live fits, label -> name."""
    return {row.label: row.name for row in METHODS.values() if row.label is not None}


def _mask(config: ReconstructionConfig) -> str:
    return config.mask if config.mask in _MASKS else "auto"


def _rounded(rate: float) -> float:
    """Two significant digits, so that the command line is short."""
    return float(f"{rate:.1e}")
