"""Does descent on images find anything below the optimum of the one-pass fit? python benchmarks/shared_optimum.py

1,000 simulated ribosome images (64 px of 6 A, SNR 0.1), 1,000 Gaussians no thinner than a floor. From the mixture that
the normal equations give, Adam goes on with the squared error of images made by project(), as the papers do, a hundred
images at a time. The fall of the error over all images is printed relative to what the mixture explains of them. Where
Gaussians are wide enough for project() and voxelize() to agree, there should be none to speak of.
"""

from __future__ import annotations

import tempfile

import numpy as np
import torch

from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.gaussians.parameters import Rates, adam, cosine, from_parameters, set_learning_rate, to_parameters
from gsworkbench.imaging.residual import DataTerm, data_term, squared_error
from gsworkbench.methods.one_pass import OnePass
from gsworkbench.methods.one_pass_fit import fit_one_pass
from gsworkbench.normal_equations.equations import accumulate
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.rendering import project
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation
from gsworkbench.system.provenance import machine

EPOCHS, BATCH, RATE = 4, 100, 1e-4


def main() -> None:
    print(f"{EPOCHS} epochs of Adam on images, {machine()}.\n")
    print("| floor, px | error explained by one pass | change on images |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        stack = simulate(Simulation(n_particles=1000), folder)
        sums, term = accumulate(stack), data_term(stack)
        for floor in (1.5, 0.45):
            settings = {"n_gaussians": 1000, "n_steps": 300, "background": False, "floor_pixels": floor}
            model = fit_one_pass(sums, None, OnePass(**settings)).gaussians
            before, nothing = error(term, model), float(term.batch(np.arange(len(stack)))[2].mean())
            after = error(term, descended(term, model))
            explained = nothing - before
            print(f"| {floor} | {explained / nothing:.4f} | {(after - before) / explained:+.1e} |", flush=True)


def images(model: Gaussians, stack: ParticleStack, indices: np.ndarray) -> torch.Tensor:
    rotations = torch.from_numpy(stack.require_poses()[indices]).float()
    grid = {"box_size": stack.box_size, "pixel_size": stack.pixel_size, "cutoff": 5.0}
    return project(model.means, model.covariances(), model.weights, rotations, **grid)  # type: ignore[arg-type]


def error(term: DataTerm, model: Gaussians) -> float:
    """Mean squared error per pixel over all particles."""
    batches = np.split(np.arange(len(term.stack)), len(term.stack) // BATCH)
    return float(np.mean([squared_error(images(model, term.stack, i), *term.batch(i))[0] for i in batches]))


def descended(term: DataTerm, model: Gaussians) -> Gaussians:
    """The mixture after EPOCHS of Adam on batches of images, its rates falling to nothing by a cosine."""
    stack = term.stack
    edge = stack.box_size * stack.pixel_size
    unit = float(model.weights.sum()) * 2  # parameters are those of a mixture in box edges whose integral is 1/2
    start = Gaussians(
        model.means / edge, model.scales / edge, model.quaternions, (model.weights / unit).clamp_min(1e-12)
    )
    parameters = to_parameters(start)
    optimizer = adam(parameters, Rates(1.0, 10.0, 10.0, 10.0))

    def current() -> Gaussians:
        g = from_parameters(parameters)
        return Gaussians(g.means * edge, g.scales * edge, g.quaternions, g.weights * unit, model.floor_angstrom)

    rng = np.random.default_rng(0)
    batches = [b for _ in range(EPOCHS) for b in np.split(rng.permutation(len(stack)), len(stack) // BATCH)]
    for step, indices in enumerate(batches):
        set_learning_rate(optimizer, RATE * cosine(step / len(batches)))
        projections = images(current(), stack, indices)
        _, gradient = squared_error(projections, *term.batch(indices))
        optimizer.zero_grad()
        projections.backward(gradient)
        optimizer.step()
    with torch.no_grad():
        return current()


if __name__ == "__main__":
    main()
