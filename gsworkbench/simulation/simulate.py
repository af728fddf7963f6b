"""Simulated particles with known truth, from atoms to a RELION 3.1 STAR file and an image stack.

The truth is the electron scattering potential of the atoms, band-limited to the ball |k| < D/2. An image is a central
slice of its Fourier transform, taken exactly (non-uniform FFT), times CTF and shift, plus noise:

    F_image(k) = CTF(k) exp(2 pi i k . origin / (D pixel_size)) pixel_size F_truth(A^T k),  |k| < D/2.

Nothing here is shared with the renderer, the fits or imaging, so that an error in them cannot hide in the data.
Further states lack some chains. Pose errors are in particles.star alone: the images are those of the true poses.
There is no solvent, no ice, no beam-induced motion, no detector response and no continuous change of conformation.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsworkbench.config import to_mapping
from gsworkbench.errors import InputError
from gsworkbench.geometry.rotations import random_rotations
from gsworkbench.io.files import appear_together
from gsworkbench.io.locks import lock_folder
from gsworkbench.io.mrc import new_image_stack, write_map
from gsworkbench.io.npz import load_array
from gsworkbench.molecules import MOLECULES, Molecule, load_molecule, read_molecule
from gsworkbench.particles.formats.relion import write_star
from gsworkbench.particles.read import read_metadata
from gsworkbench.particles.stack import CtfParameters, ParticleStack
from gsworkbench.simulation.deposited_poses import DEPOSITED, deposited_files, read_deposited
from gsworkbench.simulation.imperfections import preferred_views, random_phases, turned
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.progress import progress, track
from gsworkbench.system.provenance import RunRecord

Float64 = NDArray[np.float64]
Complex128 = NDArray[np.complex128]

SLICE_TOLERANCE = 1e-7  # relative; the rounding of the float32 images that slices end in
SNR_DEFINITION = (
    "SNR = variance of the CTF-filtered, shifted, noise-free images over all pixels and particles / variance of the "
    "noise, which is 1; one value per set"
)
TRUTH_DEFINITION = (
    "truth.mrc is the scattering potential (in 1/A^2, sum of electron form factors in A per A^3; times 47.878 V A^2 "
    "for volts) times signal_scale; its CTF-filtered, shifted line integrals are the signal in the images"
)


@dataclass(frozen=True)
class Optics:
    """A microscope and how it was focused."""

    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float
    defocus_um: tuple[float, float, float]  # 5 %, 50 % and 95 % quantiles of (U + V) / 2
    astigmatism: float = 200.0  # A, standard deviation of (U - V) / 2, half normal; assumed, not from the data sets
    log_normal: bool = False  # the distribution of the mean defocus, in place of a split normal


# Quantiles of the CTF parameters deposited with the EMPIAR entries.
OPTICS: dict[str, Optics] = {
    "empiar_10028": Optics(300, 2.0, 0.10, (1.35, 2.02, 2.78)),
    "empiar_10049": Optics(300, 2.0, 0.10, (1.42, 1.88, 2.19)),
    "empiar_10076": Optics(300, 2.7, 0.07, (1.05, 1.79, 2.44)),
    "empiar_10180": Optics(300, 2.7, 0.10, (0.82, 1.69, 2.82)),
    # CryoSplat's synthetic 80S: log-normal defocus is all that is stated; median and width are those of 10028.
    "synthetic_80s": Optics(300, 2.0, 0.10, (1.41, 2.02, 2.90), log_normal=True),
}

IMAGES, PARTICLES = "particles.mrcs", "particles.star"  # the last one's presence says that all else is there

# Streams of random numbers: one per thing drawn, so that changing one leaves the others as they were.
POSES, DEFOCUS, SHIFTS, HALF_SETS, NOISE, STATES, VIEWS, POSE_ERRORS, SHIFT_ERRORS, PHASES = range(10)


def simulate(config: Simulation, output_dir: str | Path, *, max_bytes: int = 2**29) -> ParticleStack:
    """Simulate particle images of a molecule, with known poses, CTF and truth.

    The folder then holds particles.star, particles.mrcs, truth.mrc (and one truth for each further state) and run.json.
    They appear together and replace those of an earlier call.

    The noise has standard deviation 1. Signal and truth map are multiplied by one factor that gives the requested SNR,
    the variance of the CTF-filtered, shifted, noise-free images over that of the noise. SNR 0 writes pure noise, an
    infinite SNR noise-free images, both with the factor 1. Random numbers depend only on the seed and on the number of
    the particle.

    Parameters
    ----------
    config : Simulation
        What to simulate.
    output_dir : str or Path
        The folder to write to.
    max_bytes : int
        Memory for one chunk of images; the files do not depend on it. The non-uniform FFT needs another 128 D^3 bytes
        (2 GB for a box of 256).

    Returns
    -------
    ParticleStack
        The particles as `read_particles` would read them.

    Raises
    ------
    InputError
        If the settings do not describe a data set, a file cannot be used, or the molecule does not fit the box.

    Examples
    --------
    >>> import gsworkbench as gs
    >>> particles = gs.simulate(gs.Simulation(n_particles=10, box_size=32, pixel_size=12.0, snr=0.5), "simulated")
    >>> particles.images().shape
    (10, 32, 32)
    """
    _check(config)
    output_dir = Path(output_dir)
    finished = output_dir / PARTICLES
    record = RunRecord.start(_plain(config), _input_files(config))
    record.seeds = {"simulation": config.seed}
    particles = draw_particles(config, output_dir / IMAGES)
    amplitudes = noise_amplitudes(config.noise, config.box_size)
    with record.stage("truth"):
        molecule = load_molecule(config.molecule) if config.molecule in MOLECULES else read_molecule(config.molecule)
        states = [
            potential(m, box_size=config.box_size, pixel_size=config.pixel_size, b_factor=config.b_factor)
            for m in (molecule, *_further_states(molecule, config))
        ]
    state = _draw_states(config)
    with lock_folder(output_dir), appear_together(instead_of=[finished, *_earlier(output_dir)]):
        with new_image_stack(output_dir / IMAGES, len(particles), config.box_size, config.pixel_size) as images:
            with record.stage("images"):
                variance = _write_signal(images, states, state, particles, max_bytes) if config.snr > 0 else 0.0
            scale = _signal_scale(config.snr, variance)
            if math.isfinite(config.snr):
                with record.stage("noise"):
                    _add_noise(images, scale, amplitudes, config.seed)
            if config.random_phases_beyond:
                _randomise_phases(images, config)
        for number, truth in enumerate(states, 1):
            name = "truth.mrc" if number == 1 else f"truth_state{number}.mrc"
            write_map(output_dir / name, (scale * truth).astype(np.float32), config.pixel_size)
        record.n_particles = {"all": len(particles)}
        record.results = {
            "signal_scale": scale,
            "signal_variance": scale**2 * variance,
            "snr_definition": SNR_DEFINITION,
            "truth_definition": TRUTH_DEFINITION,
            "optics": dataclasses.asdict(OPTICS[config.optics]),
            "n_of_states": np.bincount(state, minlength=len(states)).tolist(),
        }
        record.finish(output_dir / "run.json")
        particles = _with_errors(particles, config)
        write_star(finished, particles)
    return dataclasses.replace(particles, source=finished)


def _earlier(folder: Path) -> list[Path]:
    """Files of an earlier call, of which there may be more states."""
    return [*folder.glob("truth*.mrc"), folder / "run.json", folder / IMAGES]


# --- the truth ---------------------------------------------------------------------------------------------------


def potential(molecule: Molecule, *, box_size: int, pixel_size: float, b_factor: float) -> Float64:
    """Electron scattering potential, (D, D, D) = z, y, x, in 1/A^2, the origin at voxel D // 2.

    F(k) = sum over atoms of f_e(|k|) exp(-B |k|^2 / 4) exp(-2 pi i k . r) at the D^3 Fourier modes of the box inside
    |k| < D/2, by a non-uniform FFT of the atoms: there is no density grid, so nothing aliases. f_e are the electron
    form factors of International Tables C, 4.3.2.2 (five Gaussians). sum(map) voxel_size^3 = sum f_e(0).
    A molecule that reaches out of the box in some orientation raises InputError.
    """
    import finufft

    edge = box_size * pixel_size
    if 2 * molecule.radius >= edge:
        raise InputError(
            f"a molecule of {2 * molecule.radius:.0f} A across does not fit a box of {edge:g} A ({box_size} pixels)",
            remedy="use more pixels or larger ones",
        )
    k = np.arange(box_size) - box_size // 2
    k2 = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    inside = 4 * k2 < box_size**2
    squares = np.arange(box_size**2 // 4 + 1) / edge**2  # |k|^2 in 1/A^2, by the integer
    transform = np.zeros((box_size,) * 3, np.complex128)
    for element in np.unique(molecule.elements):
        z, y, x = np.ascontiguousarray(2 * np.pi / edge * molecule.coordinates[molecule.elements == element].T[::-1])
        ones = np.ones(len(x), np.complex128)
        # One thread, because several add up in any order; 1.25-fold oversampling for a quarter of the memory.
        modes = finufft.nufft3d1(z, y, x, ones, transform.shape, eps=1e-8, isign=-1, upsampfac=1.25, nthreads=1)
        transform[inside] += modes[inside] * form_factor(int(element), squares)[k2[inside]]
    transform[inside] *= np.exp(-b_factor / 4 * squares)[k2[inside]]
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(transform)).real) / pixel_size**3


def _further_states(molecule: Molecule, config: Simulation) -> list[Molecule]:
    """The molecule without the absent chains of each state, in the same place; none where no particle is in one."""
    return [_without(molecule, absent) for absent in config.absent_chains if config.absent_fraction]


def _without(molecule: Molecule, absent: str) -> Molecule:
    """The molecule without the chains whose names begin with one of the words."""
    kept = ~np.any([np.char.startswith(molecule.chains, begins) for begins in absent.split() or [""]], axis=0)
    if kept.all() or not kept.any():
        raise InputError(f"absent_chains {absent!r} names {'no' if kept.all() else 'every'} chain")
    return Molecule(molecule.coordinates[kept], molecule.elements[kept], molecule.chains[kept])


def form_factor(element: int, s2: Float64) -> Float64:
    """Electron form factor in A of an element at squared frequencies s2 (1/A^2), sum_i a_i exp(-b_i s^2 / 4)."""
    import gemmi

    coefficients = gemmi.Element(element).c4322
    if coefficients is None:
        raise InputError(f"there is no electron form factor for element {gemmi.Element(element).name}")
    a, b = (np.array(values)[:, None] for values in (coefficients.a, coefficients.b))
    return (a * np.exp(-b / 4 * s2)).sum(0)


# --- images ------------------------------------------------------------------------------------------------------


def project(volume: Float64, rotations: Float64, *, pixel_size: float) -> Float64:
    """Line integrals along z of a volume (D, D, D) turned by rotations (n, 3, 3): (n, D, D), inside |k| < D/2."""
    return pixel_size * _images(central_slices(volume, rotations), len(volume))


def form_images(volume: Float64, particles: ParticleStack) -> Float64:
    """Noise-free images of particles: (n, D, D) line integrals with the CTF and the shift of each."""
    k = half_disc(particles.box_size)
    edge = particles.box_size * particles.pixel_size
    slices = central_slices(volume, particles.require_poses())
    slices *= transfer(particles.ctf, k / edge)
    slices *= np.exp(2j * np.pi / edge * _dots(particles.shifts_angstrom, k))  # moves the particle by -origin
    return particles.pixel_size * _images(slices, particles.box_size)


def half_disc(box_size: int) -> NDArray[np.int64]:
    """(m, 2) integer frequencies kx >= 0, ky inside the strict disc |k| < D/2; the other half follows by symmetry."""
    ky, kx = np.mgrid[1 - box_size // 2 : box_size // 2, 0 : box_size // 2]
    inside = 4 * (kx**2 + ky**2) < box_size**2
    return np.stack([kx[inside], ky[inside]], axis=-1)


def central_slices(volume: Float64, rotations: Float64) -> Complex128:
    """Fourier transform of a volume (D, D, D) at A^T (kx, ky, 0), its origin at voxel D // 2: (n, m) on `half_disc`.

    sum_j V_j exp(-2 pi i (A^T k) . j / D) over voxels j from the origin, by a non-uniform FFT, to SLICE_TOLERANCE.
    """
    import finufft

    box_size = len(volume)
    k = half_disc(box_size)
    x, y, z = (2 * np.pi / box_size * _dots(rotations[:, :2, axis], k).ravel() for axis in range(3))  # A^T (kx, ky, 0)
    modes = volume.astype(np.complex128)
    # Left to itself finufft chooses the oversampling by the number of points, and results would depend on the chunk.
    values = finufft.nufft3d2(z, y, x, modes, eps=SLICE_TOLERANCE, isign=-1, upsampfac=2.0)
    return values.reshape(len(rotations), len(k))


def transfer(ctf: CtfParameters, frequencies: Float64) -> Float64:
    """CTF (n, m) at frequencies (m, 2) = x, y in 1/A, after Mindell and Grigorieff (2003), white protein.

    scale exp(-B g^2 / 4) (w1 sin chi + w2 cos chi), w2 the amplitude contrast, w1 = sqrt(1 - w2^2), and
    chi = pi lambda (g^T D g - lambda^2 Cs g^4 / 2) + phase shift, D the matrix with defocus U along the axis at the
    defocus angle and V across it.
    """

    def column(values: Float64) -> Float64:
        return values[:, None]

    g2 = (frequencies**2).sum(1)
    volts = column(1e3 * ctf.voltage_kv)
    length = 12.2643247 / np.sqrt(volts + 0.978466e-6 * volts**2)  # A, with RELION's constants
    angle = np.deg2rad(ctf.defocus_angle)
    along = _dots(np.stack([np.cos(angle), np.sin(angle)], axis=-1), frequencies)
    across = _dots(np.stack([-np.sin(angle), np.cos(angle)], axis=-1), frequencies)
    focus = column(ctf.defocus_u) * along**2 + column(ctf.defocus_v) * across**2
    aberration = length**2 * column(1e7 * ctf.spherical_aberration_mm) * g2**2 / 2
    chi = np.pi * length * (focus - aberration) + column(np.deg2rad(ctf.phase_shift))
    w2 = column(ctf.amplitude_contrast)
    contrast = np.sqrt(1 - w2**2) * np.sin(chi) + w2 * np.cos(chi)
    return column(ctf.scale) * np.exp(-column(ctf.b_factor) / 4 * g2) * contrast


def _dots(a: Float64, b: NDArray[np.floating] | NDArray[np.integer]) -> Float64:
    """Scalar products (n, m) of (n, 2) and (m, 2). A matrix product would round differently with the number of rows."""
    return a[:, :1] * b[:, 0] + a[:, 1:] * b[:, 1]


def _images(slices: Complex128, box_size: int) -> Float64:
    """Inverse transform of slices (n, m) on `half_disc`: (n, D, D) with the origin at pixel D // 2."""
    kx, ky = half_disc(box_size).T
    spectrum = np.zeros((len(slices), box_size, box_size // 2 + 1), np.complex128)
    spectrum[:, ky, kx] = slices
    return np.fft.fftshift(np.fft.irfft2(spectrum, s=(box_size, box_size)), axes=(1, 2))


# --- what is drawn -----------------------------------------------------------------------------------------------


def draw_particles(config: Simulation, file: Path) -> ParticleStack:
    """Draw poses, CTF, shifts and half sets of all particles; their images are to lie in `file`."""
    n = config.n_particles
    rotations, shifts, ctf = _deposited_rows(config) if config.poses == DEPOSITED else _drawn_rows(config)
    half_set = _generator(config.seed, HALF_SETS).permutation(np.arange(n) % 2 + 1)
    return ParticleStack(
        files=(file,),
        file_index=np.zeros(n, np.int64),
        image_index=np.arange(n),
        box_size=config.box_size,
        pixel_size=config.pixel_size,
        ctf=ctf,
        rotations=rotations,
        shifts_angstrom=shifts,
        half_set=half_set.astype(np.int8),
        data_sign=np.ones(n, np.int8),
        source=None,
        source_row=np.arange(n),
    )


def _drawn_rows(config: Simulation) -> tuple[Float64, Float64, CtfParameters]:
    """Rotations, shifts in A and CTF, each from its own distribution."""
    n = config.n_particles
    shifts = _generator(config.seed, SHIFTS).normal(0, config.shift_sd * config.box_size * config.pixel_size, (n, 2))
    ctf = draw_ctf(OPTICS[config.optics], n, _generator(config.seed, DEFOCUS))
    return _draw_rotations(config, n), shifts, ctf


def _deposited_rows(config: Simulation) -> tuple[Float64, Float64, CtfParameters]:
    """Rotations, shifts in A and CTF of particles of a real set: each once while there are enough."""
    rows = read_deposited(config.optics)
    n, rng = config.n_particles, _generator(config.seed, POSES)
    chosen = rows[rng.choice(len(rows), n, replace=n > len(rows))]
    return chosen.rotations, chosen.shifts_angstrom, chosen.ctf


def _draw_states(config: Simulation) -> NDArray[np.int64]:
    """(n,) the state of each particle: 0, or with probability absent_fraction one of the others, equally often."""
    place = _generator(config.seed, STATES).random(config.n_particles)
    limits = config.absent_fraction * np.linspace(0, 1, len(config.absent_chains) + 1)[1:]
    return np.where(place < config.absent_fraction, 1 + np.searchsorted(limits[:-1], place, side="right"), 0)


def draw_ctf(optics: Optics, n: int, rng: np.random.Generator) -> CtfParameters:
    """Draw n CTFs: mean defocus from the distribution of the quantiles, cut at 3 sd; U > V, at a uniform angle."""
    low, median, high = (1e4 * q for q in optics.defocus_um)
    z = np.clip(rng.standard_normal(n), -3, 3)
    if optics.log_normal:
        defocus = median * (high / low) ** (z / (2 * 1.6449))  # the 95 % quantile of a normal
    else:
        defocus = median + z * np.where(z < 0, median - low, high - median) / 1.6449
    half_difference = np.abs(rng.normal(0, optics.astigmatism, n))
    angle = rng.uniform(0, 180, n)
    constants = (optics.voltage_kv, optics.spherical_aberration_mm, optics.amplitude_contrast, 0.0, 0.0, 1.0)
    columns = [np.full(n, constant) for constant in constants]
    return CtfParameters(defocus + half_difference, defocus - half_difference, angle, *columns)


def noise_amplitudes(noise: str, box_size: int) -> Float64 | None:
    """(D, D // 2 + 1) factors that colour the rfft2 of white noise of variance 1 and keep its variance; None if white.

    A file holds the power per shell of this box; shells beyond its end (the corners) have that of its last one.
    """
    if noise == "white":
        return None
    try:
        power = load_array(noise)
    except (OSError, ValueError) as error:
        raise InputError("not a radial noise spectrum", file=noise, remedy="give 'white' or a .npy file") from error
    remedy = f"give one power for each shell from 0 to {box_size // 2}"
    if power.ndim != 1 or len(power) <= box_size // 2:
        sentence = f"a noise spectrum of shape {power.shape} does not cover a box of {box_size} px"
        raise InputError(sentence, file=noise, remedy=remedy)
    if not np.isfinite(power).all() or (power < 0).any() or not power.any():
        raise InputError("a noise spectrum must be finite, not negative and not all zero", file=noise, remedy=remedy)
    k = np.fft.fftfreq(box_size, 1 / box_size)
    shell = np.rint(np.hypot(k[:, None], k)).astype(int)
    power_2d = power.astype(np.float64)[np.minimum(shell, len(power) - 1)]
    return np.sqrt(power_2d / power_2d.mean())[:, : box_size // 2 + 1]


def draw_noise(seed: int, index: int, box_size: int, amplitudes: Float64 | None) -> Float64:
    """Noise of one image, (D, D), expected variance 1. Depends on its arguments only."""
    white = _generator(seed, NOISE, index).standard_normal((box_size, box_size))
    return white if amplitudes is None else np.fft.irfft2(np.fft.rfft2(white) * amplitudes, s=white.shape)


def _draw_rotations(config: Simulation, n: int) -> Float64:
    rng = _generator(config.seed, POSES)
    if config.poses == "uniform":
        return preferred_views(random_rotations(n, rng), config.preferred_views, _generator(config.seed, VIEWS))
    rotations = _read_rotations(Path(config.poses))
    return rotations[rng.integers(len(rotations), size=n)]


def _with_errors(particles: ParticleStack, config: Simulation) -> ParticleStack:
    """Particles as particles.star states them: poses and shifts off the truth by the config's errors."""
    rotations, shifts = particles.require_poses(), particles.shifts_angstrom
    if config.pose_error_degrees:
        rotations = turned(rotations, config.pose_error_degrees, _generator(config.seed, POSE_ERRORS))
    if config.shift_error_pixels:
        sd = config.shift_error_pixels * config.pixel_size
        shifts = shifts + _generator(config.seed, SHIFT_ERRORS).normal(0, sd, shifts.shape)
    return dataclasses.replace(particles, rotations=rotations, shifts_angstrom=shifts)


def _read_rotations(path: Path) -> Float64:
    """Rotations (m, 3, 3) of a metadata file; its images need not be at hand."""
    if path.suffix not in (".pkl", ".star", ".cs"):
        raise InputError("not a file of poses", file=path, remedy="give 'uniform' or a .star, .cs or poses .pkl")
    metadata = read_metadata(path)
    if metadata.rotations is None:
        raise InputError("there are no orientations to draw from", file=path)
    return metadata.rotations


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


# --- two passes over the stack -----------------------------------------------------------------------------------


def _write_signal(
    images: NDArray[np.float32],
    states: list[Float64],
    state: NDArray[np.int64],
    particles: ParticleStack,
    max_bytes: int,
) -> float:
    """Write noise-free images of the state each particle is in; return their variance over pixels and particles."""
    step = max(1, max_bytes // (64 * particles.box_size**2))  # a pixel takes up to 64 bytes on its way
    sums = np.empty((2, len(particles)))
    with progress("projecting", len(particles), unit=" images") as meter:
        for start in range(0, len(particles), step):
            rows = slice(start, start + step)
            signal = form_images(states[0], particles[rows])
            for number in range(1, len(states)):
                if (there := state[rows] == number).any():
                    signal[there] = form_images(states[number], particles[rows][there])
            sums[:, rows] = signal.sum((1, 2)), (signal**2).sum((1, 2))
            images[rows] = signal
            meter.advance(len(signal))
    mean, mean_square = sums.sum(1) / images.size
    return float(mean_square - mean**2)


def _add_noise(images: NDArray[np.float32], scale: float, amplitudes: Float64 | None, seed: int) -> None:
    """Multiply images by `scale` and add noise of standard deviation 1, in place."""
    for index in track(range(len(images)), "adding noise", unit=" images"):
        images[index] = scale * images[index] + draw_noise(seed, index, images.shape[-1], amplitudes)


def _randomise_phases(images: NDArray[np.float32], config: Simulation) -> None:
    """Take the phases of images beyond the frequency of the config from noise, in place."""
    from_index = config.box_size * config.pixel_size / config.random_phases_beyond
    for index in range(len(images)):
        images[index] = random_phases(images[index], from_index, _generator(config.seed, PHASES, index))


def _signal_scale(snr: float, variance: float) -> float:
    """The factor of the signal that gives the SNR with noise of variance 1; 1 where the SNR is 0 or infinite."""
    return math.sqrt(snr / variance) if 0 < snr < math.inf else 1.0


def _check(config: Simulation) -> None:
    """Raise InputError for settings that describe no data set."""
    wrong = {
        "box_size must be even and at least 8": config.box_size < 8 or config.box_size % 2 != 0,
        "pixel_size must be above 0": not 0 < config.pixel_size < math.inf,
        "n_particles must be at least 2, one per half set": config.n_particles < 2,
        "snr must be 0 or above": not config.snr >= 0,
        "b_factor must be 0 or above": not 0 <= config.b_factor < math.inf,
        "shift_sd must be 0 or above": not 0 <= config.shift_sd < math.inf,
        "seed must be 0 or above": config.seed < 0,
        "absent_fraction must be between 0 and 1": not 0 <= config.absent_fraction <= 1,
        "absent_chains must name chains where absent_fraction is above 0": not config.absent_chains
        and config.absent_fraction > 0,
        "preferred_views must be between 0 and 1": not 0 <= config.preferred_views <= 1,
        "pose_error_degrees must be 0 or above": not config.pose_error_degrees >= 0,
        "shift_error_pixels must be 0 or above": not 0 <= config.shift_error_pixels < math.inf,
        "random_phases_beyond must be 0 or above": not 0 <= config.random_phases_beyond < math.inf,
        f"optics must be one of {', '.join(OPTICS)}": config.optics not in OPTICS,
    }
    for sentence, failed in wrong.items():
        if failed:
            name = sentence.split()[0]
            raise InputError(f"{sentence}, not {getattr(config, name)!r}")


def _input_files(config: Simulation) -> list[Path]:
    """The files that the config names: a molecule, poses, a noise spectrum."""
    names = [config.molecule] * (config.molecule not in MOLECULES)
    names += [config.poses] * (config.poses not in ("uniform", DEPOSITED)) + [config.noise] * (config.noise != "white")
    deposited = deposited_files(config.optics) if config.poses == DEPOSITED else []
    return [*(path for path in map(Path, names) if path.is_file()), *deposited]


def _plain(config: Simulation) -> dict[str, object]:
    """The config for run.json, which knows no infinity."""
    plain = to_mapping(config)
    return {name: "infinity" if value == math.inf else value for name, value in plain.items()}
