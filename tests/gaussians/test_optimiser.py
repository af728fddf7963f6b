"""Descent: the compiled step equals torch's chain rule and Adam, and leaves off and goes on where it was."""

import pytest
import torch

from gsworkbench.gaussians.mixture import Gaussians
from gsworkbench.gaussians.optimiser import FusedDescent, TorchDescent, _library, descent
from gsworkbench.gaussians.parameters import Parameterisation, Rates, from_parameters, to_parameters

works = pytest.mark.skipif(_library() is None, reason="no C++ compiler")
RATES = Rates(1.0, 5.0, 5.0, 0.5)
FLOOR = 0.004


def start(n: int, *, isotropic: bool = False) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(n)
    weights = 1e-5 + torch.rand(n, generator=g)
    weights[0] = 30.0  # beyond where softplus is its argument
    model = Gaussians(
        means=torch.randn(n, 3, generator=g),
        # One axis may reach the clamp. Were all alike, turning would change nothing, and Adam would follow roundings.
        scales=0.001 + torch.tensor([0.03, 0.01, 0.0]) + 0.01 * torch.rand(n, 3, generator=g),
        quaternions=3 * torch.randn(n, 4, generator=g),
        weights=weights,
    )
    return to_parameters(model, isotropic=isotropic)


def gradients(n: int, step: int) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(1000 + step)
    size = 10.0 ** torch.randint(-8, 3, (n,), generator=g)
    d_covariances = size[:, None, None] * torch.randn(n, 3, 3, generator=g)
    d_means, d_weights = size[:, None] * torch.randn(n, 3, generator=g), size * torch.randn(n, generator=g)
    d_means[-1], d_covariances[-1], d_weights[-1] = 0, 0, 0  # a Gaussian off the box
    return d_means, (d_covariances + d_covariances.mT) / 2, d_weights


KINDS = {
    "integrals": {}, "heights": {"peak": True}, "signed": {"signed": True}, "spheres": {"isotropic": True},
    "heights of spheres": {"peak": True, "isotropic": True},
}  # fmt: skip


@works
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("minimum_scale", [0.0, 0.005])
@pytest.mark.parametrize("n", [1, 5, 16, 203])
def test_the_fused_step_equals_autograd_and_torch_adam(n, minimum_scale, kind):
    meant = dict(KINDS[kind])
    first = start(n, isotropic=meant.pop("isotropic", False))
    fused = FusedDescent(first, RATES, Parameterisation(FLOOR, minimum_scale, **meant))
    plain = TorchDescent(first, RATES, Parameterisation(FLOOR, minimum_scale, **meant))
    for step in range(8):
        for a, b in zip(fused.mixture(), plain.mixture(), strict=True):
            torch.testing.assert_close(a, b, rtol=3e-6, atol=1e-5 * float(b.detach().abs().max()))
        for one in (fused, plain):
            one.step(gradients(n, step), 1e-3)
    for name, expected in plain.parameters.items():
        if first["scales"].shape[1] == 1 and name == "quaternions":  # a sphere's mean nothing: Adam follows roundings
            continue
        moved = (expected - first[name]).abs().max()
        torch.testing.assert_close(fused.parameters[name], expected, rtol=2e-6, atol=1e-3 * float(moved.detach()))


@works
def test_a_mixture_is_what_its_parameters_say():
    fused = FusedDescent(start(37), RATES, Parameterisation(FLOOR, 0.005))
    model = from_parameters(fused.parameters, Parameterisation(FLOOR, 0.005))
    for made, expected in zip(fused.mixture(), (model.means, model.covariances(), model.weights), strict=True):
        assert made.is_leaf and made.requires_grad
        torch.testing.assert_close(made, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", [pytest.param(FusedDescent, marks=works), TorchDescent])
def test_restored_it_goes_on_to_the_same_bits(kind):
    def run(one, steps):
        for step in steps:
            one.mixture()
            one.step(gradients(21, step), 1e-3)

    whole = kind(start(21), RATES, Parameterisation(FLOOR))
    run(whole, range(6))
    half = kind(start(21), RATES, Parameterisation(FLOOR))
    run(half, range(3))
    again = kind(half.parameters, RATES, Parameterisation(FLOOR))
    again.restore(half.state())
    run(again, range(3, 6))
    for name, expected in whole.parameters.items():
        assert torch.equal(again.parameters[name], expected)


@works
def test_moments_with_filled_up_rows_are_taken_as_well():
    """Checkpoints of 0.1 hold eleven rows filled up to a multiple of sixteen."""
    one, other = (FusedDescent(start(21), RATES, Parameterisation(FLOOR)) for _ in range(2))
    one.step(gradients(21, 0), 1e-3)
    state = one.state()
    other.restore({**state, "moments": [torch.nn.functional.pad(m, (0, 11)) for m in state["moments"]]})
    for kept, given in zip(other.state()["moments"], state["moments"], strict=True):
        assert torch.equal(kept, given)


def test_other_dtypes_go_to_torch():
    parameters = {name: p.detach().double() for name, p in start(3).items()}
    assert isinstance(descent(parameters, RATES, Parameterisation(FLOOR)), TorchDescent)
