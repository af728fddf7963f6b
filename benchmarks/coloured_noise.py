"""Does dividing by the measured noise spectrum help? python benchmarks/coloured_noise.py

5,000 simulated ribosome images of 64^2 at 6 A, SNR 0.05, noise of a spectrum that falls as in the other benchmarks.
Prints mean FSC to the truth and H (docs/use/judge.md) of backprojection and of the one-pass fit, without and with it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.particles.noise_spectrum import measured_noise
from gsworkbench.particles.stack import ParticleStack
from gsworkbench.reconstruction.run import reconstruct
from gsworkbench.simulation.simulate import simulate
from gsworkbench.simulation.simulation_config import Simulation

BOX = 64


def main() -> None:
    power = 1 / (1 + (8 * np.arange(BOX) / BOX) ** 2) + 0.3
    print("| noise | method | divided by | mean FSC to the truth, no mask | in a sphere | H, no mask |")
    print("|---|---|---|---|---|---|")
    for noise in ("white", "coloured"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            np.save(folder / "noise.npy", power)
            spectrum = "white" if noise == "white" else str(folder / "noise.npy")
            stack = simulate(Simulation(snr=0.05, noise=spectrum), folder / "set")
            for method in ("backprojection", "one-pass"):
                for divided in ("white", "measured"):
                    print(f"| {noise} | {method} | {divided} | {_row(folder, stack, method, divided)} |", flush=True)
            if noise == "coloured":
                ratio = measured_noise(stack)[3:32] / _true_spectrum(power)[3:32]
                print(f"\nmeasured / true power, shells 3 to 31: mean {ratio.mean():.3f}, sd {ratio.std():.3f}")


def _row(folder: Path, stack: ParticleStack, method: str, divided: str) -> str:
    config = ReconstructionConfig(method=method, noise_spectrum=divided, mask="sphere")
    out = folder / f"{method} {divided}"
    reconstruct(stack, out, config, truth=folder / "set" / "truth.mrc")
    found = json.loads((out / "run.json").read_text())["results"]
    means = [found[f"fsc_{kind}_truth"]["mean"] for kind in ("unmasked", "masked")]
    return f"{means[0]:.4f} | {means[1]:.4f} | {found['overstatement']['unmasked']['mean']:+.4f}"


def _true_spectrum(power: np.ndarray) -> np.ndarray:
    """Power per shell of noise as simulated: variance 1 over all components of the square."""
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.hypot(k[:, None], k)).astype(int)
    return power / power[np.minimum(shell, BOX - 1)].mean()


if __name__ == "__main__":
    main()
