"""Settings as frozen records, strict about unknown names and wrong types. Imports no torch.

Papers are rows of PRESETS, not flags: to add a recipe, add a row.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from gsworkbench.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class SimulationConfig:
    """What `simulate` makes: particles of a molecule with known poses, CTF and truth.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.Simulation(n_particles=100, snr=0.05).box_size
    64
    """

    molecule: str = "ribosome"  # a name of molecules.MOLECULES
    n_particles: int = 5000
    box_size: int = 64  # px
    pixel_size: float = 6.0  # A
    snr: float = 0.1  # variance of the noise-free images / of the noise; 0 writes pure noise, infinity none
    b_factor: float = 60.0  # A^2, of every atom
    optics: str = "empiar_10028"  # a name of simulate.OPTICS: voltage, Cs, amplitude contrast, defocus distribution
    # uniform; or the path of a .star, .cs or poses .pkl to draw from; or deposited: poses, shifts and CTF together, of
    # particles of the entry that optics names (simulation/deposited_poses.py).
    poses: str = "uniform"
    shift_sd: float = 0.02  # standard deviation of in-plane shifts, fraction of the box; deposited shifts stay
    noise: str = "white"  # or the path of a radial noise power spectrum (.npy, index = shell)
    seed: int = 0
    # One string for each additional state: prefixes of the names of the chains that it lacks, such as "L70 LD".
    absent_chains: tuple[str, ...] = ()
    absent_fraction: float = 0.0  # of the particles that are in further states, equally; truth.mrc is the first
    preferred_views: float = 0.0  # fraction of uniform views that lie within 20 degrees of the map's z axis
    # What particles.star gets wrong, and the images do not know of:
    pose_error_degrees: float = 0.0  # standard deviation of the angle; infinity writes random poses
    shift_error_pixels: float = 0.0  # standard deviation along x and y
    random_phases_beyond: float = 0.0  # A: image phases beyond are those of noise (Chen et al. 2013); 0 keeps all


@dataclass(frozen=True)
class StochasticConfig:
    """Settings of the papers' trainer: Adam on mini-batches of images (methods/stochastic.py).

    Lengths are fractions of the box side unless said otherwise. Published recipes are the rows of `PRESETS`.

    Examples
    --------
    >>> import dataclasses
    >>> import gsworkbench as gs
    >>> gs.Stochastic(n_gaussians=1000).batch_size
    1
    >>> dataclasses.replace(gs.PRESETS["tuned"], n_gaussians=1000).batch_size
    16
    """

    n_gaussians: int = 30_000  # CryoSplat's headline
    n_epochs: int = 5
    n_steps: int | None = None  # if given, the fit ends after so many batches, whatever the number of epochs
    batch_size: int = 1
    learning_rate: float = 1e-3
    rate_means: float = 1.0  # multipliers of the learning rate, per parameter type
    rate_scales: float = 1.0
    rate_quaternions: float = 1.0
    rate_weights: float = 1.0
    # The rate is multiplied by gamma after each epoch, or falls by gamma over the fit, or along one cosine to zero.
    schedule: Literal["epoch", "exponential", "cosine"] = "epoch"
    gamma: float = 0.1
    start: Literal["normal", "uniform", "data"] = "normal"  # data: centres drawn from a low-passed backprojection
    initial_spread: float = 0.075  # of the initial means: standard deviation, or half the edge of a uniform cube
    initial_scale: float | Literal["nearest"] = 0.0075  # nearest: the distance to the nearest other mean
    shape: Literal["anisotropic", "isotropic"] = "anisotropic"  # isotropic: one width per Gaussian
    amplitude: Literal["integral", "peak"] = "integral"  # what is learned of each Gaussian: its integral or its height
    floor_pixels: float = 0.5  # additive floor of the covariances; see CONVENTIONS.md
    minimum_scale: float = 0.0  # hard clamp of the scales, as the CryoSplat release has it
    double_after_epochs: tuple[int, ...] = ()  # split every Gaussian in two after these epochs (1 = the first)
    boost: float = 0.0  # weight Fourier components of the residual by exp(boost k^2 / k_nyquist^2)
    cutoff: float = 3.5  # footprint half width in standard deviations while training
    # What the papers' releases or ablations do to the forward model; at these values, nothing.
    skip_below: float = (
        0.0  # a Gaussian's contributions to pixels below this are skipped; unit: map integral 1/2, box 1
    )
    band: Literal["disc", "square"] = "disc"  # Fourier components compared: |k| < D/2, or the whole image
    blur_y: float = 0.0  # px^2 added to the y variance of projections, unknown to the gradient
    grid_offset: float = 0.0  # px by which the pixel grid is off the origin of the Fourier transform, in x and y
    view_normalisation: bool = True  # False: a Gaussian is as high in every view, however long it is along z


@dataclass(frozen=True)
class NormalEquationsConfig:
    """Settings of the fit that reads the particles once (methods/one_pass.py), the default method.

    Lengths are fractions of the box side unless said otherwise.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.OnePass(n_gaussians="auto").weights
    'non-negative'
    """

    # None: 3,000 for a box of 64, in proportion to the voxels, at most 30,000. auto: as held-out particles ask for.
    n_gaussians: int | Literal["auto"] | None = None
    n_boosted_steps: int = 30  # first, with Fourier components weighted by exp(boost k^2 / k_nyquist^2)
    n_steps: int = 60  # then, with the true weights
    n_final_steps: int = 40  # with a background, of the second fit, which goes on from the first at half the rate
    boost: float = 2.0
    learning_rate: float = 2e-3
    rate_means: float = 1.0  # multipliers of the learning rate, per parameter type
    rate_scales: float = 20.0
    rate_quaternions: float = 20.0
    rate_weights: float = 20.0
    start: Literal["data", "random"] = "data"  # centres drawn from a low-passed map, or from N(0, initial_spread^2)
    weights: Literal["non-negative", "signed"] = "non-negative"
    initial_spread: float = 0.12
    initial_scale: float = 0.004
    floor_pixels: float = 0.45  # additive floor of the covariances
    background: bool = True  # measure on held-out particles what the mixture misses, and add it as a smooth map
    combine: bool = True  # with backprojection, where other particles ask for it (methods/combination.py)
    cutoff: float = 3.5  # footprint half width in standard deviations while fitting


@dataclass(frozen=True)
class BackprojectionConfig:
    """Settings of the classical map (methods/backprojection.py): how it is filtered.

    "wiener" divides by K + noise / signal, where the signal of each shell is measured on the data. "none" is least
    squares. "fsc" is that times the figure of merit sqrt(2 F / (1 + F)) of each shell (Rosenthal and Henderson 2003).
    "local" is that low-passed, voxel by voxel, at the local resolution. F and the local resolution come from two halves
    of the particles that the map is made of.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.Backprojection(filter="fsc").filter
    'fsc'
    """

    filter: Literal["wiener", "none", "fsc", "local"] = "wiener"


@dataclass(frozen=True)
class NeuralFieldConfig:
    """Settings of a neural field of the map's transform (methods/neural_field.py), sized for a laptop.

    As published (Zhong et al. 2021): width 1024, 20 epochs, learning rate 1e-4, constant, all components.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.NeuralField(width=128).n_layers
    3
    """

    width: int = 256
    n_layers: int = 3  # hidden, residual
    domain: Literal["hartley", "fourier"] = "hartley"
    n_epochs: int = 2
    batch_size: int = 8
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    n_components: int | None = 512  # Fourier components compared of each image, drawn anew each time; None: all


@dataclass(frozen=True)
class BlendingConfig:
    """3D Gaussian splatting off the shelf: alpha compositing, half-pixel grid, rates of Kerbl et al. 2023.

    Lengths are in box edges. Rates are those of log scales, logit opacities and so on; that of means falls a
    hundredfold over the fit.
    """

    n_gaussians: int = 2048
    n_steps: int = 10_000  # of one image each
    rate_means: float = 1.6e-4
    rate_scales: float = 5e-3
    rate_quaternions: float = 1e-3
    rate_opacities: float = 5e-2
    rate_colours: float = 2.5e-3
    initial_spread: float = 0.12
    initial_opacity: float = 0.1
    blur: float = 0.3  # px^2 added to the projected covariances: gsplat's default


@dataclass(frozen=True)
class CryodrgnConfig:
    """The program cryoDRGN (methods/other_programs.py): which of its commands, and the size of its network."""

    command: Literal["backproject_voxel", "train_nn"] = "backproject_voxel"
    width: int = 256  # published: 1024
    n_epochs: int = 4  # published: 20


@dataclass(frozen=True)
class VoxelConfig:
    """Settings of the map of free voxels that solves the normal equations (methods/voxels.py).

    Examples
    --------
    >>> import gsworkbench as gs
    >>> gs.Voxels().n_steps
    20
    """

    n_steps: int = 20  # of conjugate gradients, at most: held-out particles say when to stop


@dataclass(frozen=True)
class ReconstructionConfig:
    """What `reconstruct` does with one stack of particles."""

    method: str = "normal-equations"  # a name of methods.METHODS
    stochastic: StochasticConfig = field(default_factory=lambda: PRESETS["tuned"])
    normal_equations: NormalEquationsConfig = field(default_factory=NormalEquationsConfig)
    backprojection: BackprojectionConfig = field(default_factory=BackprojectionConfig)
    neural_field: NeuralFieldConfig = field(default_factory=NeuralFieldConfig)
    voxels: VoxelConfig = field(default_factory=VoxelConfig)
    blending: BlendingConfig = field(default_factory=BlendingConfig)
    cryodrgn: CryodrgnConfig = field(default_factory=CryodrgnConfig)
    half_maps: bool = True
    normalise: bool = True  # take background and hot pixels off each image, and weigh each by its own noise
    particle_scales: bool = True  # where the signal differs from particle to particle, give each its own scale
    keep_outliers: bool = False  # keep images whose power is absurd
    mask: str = "auto"  # auto, sphere, none, or the path of a mask
    noise_spectrum: str = "white"  # white, measured (noise.measured_noise), or the path of powers per shell (.npy)
    noise_substitute_beyond: float | None = None  # A: repeat half maps with random phases beyond
    seed: int = 0
    backend: str | None = None  # None takes the fastest that works here
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where fits run; auto takes a GPU that works


# The field of ReconstructionConfig that holds the settings of a method; relion has none.
SETTINGS = {
    "normal-equations": "normal_equations",
    "stochastic": "stochastic",
    "voxels": "voxels",
    "backprojection": "backprojection",
    "neural-field": "neural_field",
    "3dgs": "blending",
    "cryodrgn": "cryodrgn",
}


@dataclass(frozen=True)
class RunConfig:
    """One run of the workflow: simulate, reconstruct, assess."""

    dataset: SimulationConfig
    reconstruction: ReconstructionConfig


# fmt: off
PRESETS: dict[str, StochasticConfig] = {
    # CryoSplat (arXiv 2508.04929), section 4 and its release: batch 1, one rate, 5 epochs, clamp 1e-3 box, no floor,
    # footprint 3 sigma. gamma 0.1 as printed (the release's default is 0.2).
    "cryosplat": StochasticConfig(floor_pixels=0.0, minimum_scale=1e-3, cutoff=3.0),
    # Its release as it runs: gamma 0.2, all Fourier components, and the y-blur of forward that backward does not know.
    "cryosplat_as_released": StochasticConfig(
        gamma=0.2, floor_pixels=0.0, minimum_scale=1e-3, cutoff=3.0, band="square", blur_y=0.3,
    ),
    # The same with 3DGS's rates for each type of parameter (Kerbl et al. 2023: 1.6e-4 of the extent, 5e-3, 1e-3, 5e-2).
    "cryosplat_3dgs_rates": StochasticConfig(
        learning_rate=1.6e-4, rate_scales=31.25, rate_quaternions=6.25, rate_weights=312.5, schedule="exponential",
        gamma=0.01, floor_pixels=0.0, minimum_scale=1e-3, cutoff=3.0,
    ),
    # GEM (arXiv 2509.25075) and its release: peak density, uniform start, nearest-neighbour scales, 30,000 steps, rates
    # 2e-4 (of half a box), 5e-3, 1e-3, 1e-2, each falling tenfold; 3 sigma and contributions below 1e-5 skipped.
    "gem": StochasticConfig(
        n_gaussians=50_000, n_steps=30_000, learning_rate=1e-4, rate_scales=50.0, rate_quaternions=10.0,
        rate_weights=100.0, schedule="exponential", gamma=0.1, start="uniform", initial_spread=0.5,
        initial_scale="nearest", amplitude="peak", floor_pixels=0.0, cutoff=3.0, skip_below=1e-5,
    ),
    # CryoGS (preprints rs-6178664, rs-8451958): recipe not stated, code not released. A stand-in of ours, not theirs.
    "cryogs": StochasticConfig(
        n_epochs=3, batch_size=8, rate_scales=5.0, rate_quaternions=5.0, rate_weights=5.0, schedule="cosine",
        learning_rate=2e-3, start="data", initial_scale="nearest",
    ),
    # Chosen on the laptop ribosome (5,000 x 64^2, SNR 0.1): per-type rates, a wider start, whitened residuals.
    "tuned": StochasticConfig(
        n_epochs=2, batch_size=16, learning_rate=4e-3, rate_scales=10.0, rate_quaternions=10.0, rate_weights=10.0,
        schedule="cosine", initial_spread=0.12, boost=2.0,
    ),
    # The same with one width per Gaussian.
    "isotropic": StochasticConfig(
        n_epochs=2, batch_size=16, learning_rate=4e-3, rate_scales=10.0, rate_quaternions=0.0, rate_weights=10.0,
        schedule="cosine", initial_spread=0.12, boost=2.0, shape="isotropic",
    ),
}
# fmt: on


def from_mapping(cls: type[T], mapping: Mapping[str, Any]) -> T:
    """Build the frozen dataclass `cls` from nested plain data (YAML, JSON, papermill parameters).

    Unknown names, missing required names and values of the wrong type raise InputError naming the class and the
    field. An int is accepted where a float is asked for; nothing else is converted.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{cls.__name__} needs named values, got {mapping!r}")
    hints = type_hints(cls)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(mapping) - set(fields))
    if unknown:
        raise InputError(
            f"{cls.__name__} has no parameter {', '.join(map(repr, unknown))}", remedy=f"it has {', '.join(fields)}"
        )
    values = {name: _checked(hints[name], value, f"{cls.__name__}.{name}") for name, value in mapping.items()}
    nothing = dataclasses.MISSING
    missing = [
        n for n, f in fields.items() if n not in values and f.default is nothing and f.default_factory is nothing
    ]
    if missing:
        raise InputError(f"{cls.__name__} needs a value for {', '.join(missing)}")
    return cls(**values)


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Return the types of a record's fields; resolving them is slow, and a registry asks thousands of times."""
    return typing.get_type_hints(cls)


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a config as nested plain data that `from_mapping` reads back."""
    return {
        f.name: to_mapping(v)
        if dataclasses.is_dataclass(v := getattr(config, f.name))
        else list(v)
        if isinstance(v, tuple)
        else v
        for f in dataclasses.fields(config)
    }


def _checked(kind: Any, value: Any, name: str) -> Any:
    """Return `value` if it is of type `kind`, else raise InputError."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        kinds = [o for o in options if o is not type(None)]
        fitting = (o for o in kinds if typing.get_origin(o) is Literal and value in typing.get_args(o))
        return _checked(next(fitting, kinds[0]), value, name)
    if origin is Literal:
        if value in typing.get_args(kind):
            return value
        raise InputError(f"{name} must be one of {', '.join(map(str, typing.get_args(kind)))}, not {value!r}")
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_checked(typing.get_args(kind)[0], v, name) for v in value)
    elif dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else from_mapping(kind, value)  # type: ignore[arg-type]
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif type(value) is kind:
        return value
    raise InputError(f"{name} must be {getattr(kind, '__name__', kind)}, not {value!r}")
