"""The settings of a simulation. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Simulation:
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
    absent_chains: tuple[str, ...] = ()  # of each further state: the chains it lacks, as "L70 LD", by how names begin
    absent_fraction: float = 0.0  # of the particles that are in further states, equally; truth.mrc is the first
    preferred_views: float = 0.0  # fraction of uniform views that lie within 20 degrees of the map's z axis
    # What particles.star gets wrong, and the images do not know of:
    pose_error_degrees: float = 0.0  # standard deviation of the angle; infinity writes random poses
    shift_error_pixels: float = 0.0  # standard deviation along x and y
    random_phases_beyond: float = 0.0  # A: image phases beyond are those of noise (Chen et al. 2013); 0 keeps all
