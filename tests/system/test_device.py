"""The choice of a device, and that what a fit makes follows it."""

import numpy as np
import pytest
import torch

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.gaussians.mixture import random_gaussians
from gsworkbench.imaging.residual import data_term
from gsworkbench.methods import stochastic_fit as training
from gsworkbench.methods.reconstruction_config import ReconstructionConfig
from gsworkbench.methods.stochastic import Stochastic
from gsworkbench.methods.task import fit_device
from gsworkbench.rendering.backends import gpu
from gsworkbench.system.device import find_device


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_is_the_cpu_without_a_gpu_and_a_gpu_asked_for_is_refused(no_gpu):
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="torch finds no CUDA device here; give --device cpu"):
        find_device("cuda")


def test_auto_is_a_gpu_that_torch_finds(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda")


def test_the_command_line_refuses_in_one_sentence_and_writes_nothing(no_gpu, clean_set, tmp_path, capsys):
    command = ["reconstruct", str(clean_set.star), "--out", str(tmp_path / "out"), "--device", "cuda"]
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("backend", "device"), [("gpu", "auto"), ("gpu", "cuda"), ("cpu", "cuda")])
def test_a_renderer_that_contradicts_the_device_is_refused(backend, device):
    with pytest.raises(InputError, match="leave out --backend"):
        fit_device(ReconstructionConfig(backend=backend, device=device))


def test_a_renderer_named_for_the_cpu_keeps_auto_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fit_device(ReconstructionConfig(backend="windowed")) == torch.device("cpu")
    assert fit_device(ReconstructionConfig()) == torch.device("cuda")


def test_doctor_says_why_the_gpu_backend_does_not_work(no_gpu, capsys):
    if gpu.unavailable_because() is None:
        pytest.skip("the kernels run in Triton's interpreter here")
    assert main(["doctor"]) == 0
    assert f"gpu: {gpu.unavailable_because()}" in capsys.readouterr().out


def test_tensors_of_a_training_step_are_on_the_device_of_the_fit(clean_set, monkeypatch):
    """With the device that has no data: whatever stayed on the CPU could not meet the rest."""
    monkeypatch.setattr(gpu, "unavailable_because", lambda: None)
    monkeypatch.setattr(gpu, "supports", lambda tensor: True)
    monkeypatch.setattr(gpu, "_launch", lambda *_, **__: None)
    plain = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda groups, **settings: plain(groups, **settings | {"fused": False}))
    config, stack, indices = Stochastic(n_gaussians=50), clean_set.stack[np.arange(20)], np.arange(4)
    term = data_term(stack, boost=1.0)
    term = training.DataTerm(stack, term.spectrum.to("meta"), term.filtered, term.energy)
    model = random_gaussians(50, spread=0.1, scale=0.01, total_weight=0.5, seed=0).to("meta")
    optimizer = training._optimizer(training._parameters(model, config, stack.box_size), config, stack.box_size)
    rotations = torch.from_numpy(stack.require_poses()).float()
    mixture = optimizer.mixture()
    loss, gradients = training.loss_and_gradients(mixture, term, rotations, indices, 1.0, config, "gpu")
    optimizer.step(gradients, 1e-3)
    made = (loss, *gradients, *optimizer.parameters.values())
    assert {tensor.device.type for tensor in made} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_fits_on_a_gpu_agree_with_those_on_the_cpu(clean_set):
    config = Stochastic(n_gaussians=200, n_epochs=1, batch_size=16, learning_rate=4e-3)
    losses = [training.fit(clean_set.stack, config, device=device).losses[0] for device in ("cpu", "cuda")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
