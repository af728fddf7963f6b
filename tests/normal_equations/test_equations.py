"""The sums are exact: against direct sums over images, to the bit over chunks and threads, and across files."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from gsworkbench.errors import InputError
from gsworkbench.normal_equations import equations as normal_equations
from gsworkbench.normal_equations import insertion
from gsworkbench.normal_equations.equations import NormalEquations, accumulate
from gsworkbench.particles.read import read_particles
from gsworkbench.simulation.simulate import form_images


@pytest.fixture(scope="module")
def stack(noisy_set):
    return noisy_set.stack[np.arange(0, 600, 3)]


@pytest.fixture(scope="module")
def sums(stack):
    return accumulate(stack)


def bits(sums):
    return sums.grid_sums.tobytes(), sums.energy, sums.noise_power, sums.particles.tobytes()


def quadratic(sums, volume, circular):
    kernel = sums.kernel(circular=circular).numpy()
    shape = (len(kernel),) * 3
    convolved = np.fft.irfftn(np.fft.rfftn(volume, s=shape, axes=(0, 1, 2)) * kernel, s=shape, axes=(0, 1, 2))
    return float((convolved[: len(volume), : len(volume), : len(volume)] * volume).sum())


@pytest.mark.parametrize("engine, tolerance", [("finufft", 1e-6), ("gridding", 1e-3)])
def test_against_direct_sums_over_central_slices(clean_set, engine, tolerance):
    stack = clean_set.stack[np.arange(0, 1000, 4)]
    axis = np.arange(32) - 16
    inside = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < (0.4 * 32) ** 2
    volume = clean_set.truth.astype(float) * inside
    # The mean of an image, k = 0, counts nowhere.
    projections, images = (
        values - values.mean((1, 2), keepdims=True)
        for values in (form_images(volume, stack), stack.images().astype(float))
    )
    sums = accumulate(stack, engine=engine)
    power = (projections**2).sum()
    product = (projections * images).sum()  # projections have nothing outside the disc
    assert float((sums.b().numpy() * volume).sum()) == pytest.approx(product, rel=tolerance)
    assert quadratic(sums, volume, circular=False) == pytest.approx(power, rel=tolerance)
    assert quadratic(sums, volume, circular=True) == pytest.approx(power, rel=3e-3)
    transform = np.fft.rfft2(images) * insertion.disc(32).numpy()
    error = ((projections - np.fft.irfft2(transform, s=(32, 32))) ** 2).sum()
    loss = quadratic(sums, volume, circular=False) - 2 * float((sums.b().numpy() * volume).sum()) + sums.energy
    assert loss == pytest.approx(error, abs=2 * tolerance * power)


def test_compiled_insertion_is_that_of_the_reference(stack, monkeypatch, sums):
    if insertion._library() is None:
        pytest.skip("no C++ compiler here")
    monkeypatch.setattr(insertion, "_library", lambda: None)
    reference = accumulate(stack)
    for compiled, readable in (
        (sums.b(), reference.b()),
        (sums.kernel(circular=True), reference.kernel(circular=True)),
    ):
        assert float((compiled - readable).norm() / readable.norm()) < 3e-5
    assert sums.energy == pytest.approx(reference.energy, rel=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("chunks", [1, 2, 7])
def test_same_bits_for_any_chunks_order_and_threads(stack, sums, threads, chunks):
    order = np.random.default_rng(chunks).permutation(len(stack))
    size = -(-len(stack) // chunks) * 4 * 32**2
    assert bits(accumulate(stack[order], chunk_bytes=size, threads=threads)) == bits(sums)


def test_parts_add_up_to_the_whole_to_the_bit(stack, sums):
    halves = [accumulate(stack[stack.half_set == k]) for k in (2, 1)]
    assert [half.half_set for half in halves] == [2, 1]
    total = halves[0] + halves[1]
    assert bits(total) == bits(sums)
    assert total.half_set == 0 == sums.half_set
    with pytest.raises(InputError, match="particles are counted in both sums"):
        total + halves[0]


def test_cropping_sums_over_a_smaller_box(stack):
    small = accumulate(stack, box_size=16)
    assert (small.box_size, small.pixel_size) == (16, 24.0)
    assert 0 < small.energy < accumulate(stack).energy / 4  # pixels four times as few, and less of the noise


def test_boxes_that_cannot_be(stack):
    for box_size in (15, 34, -2):
        with pytest.raises(InputError, match="an even one of at most 32"):
            accumulate(stack, box_size=box_size)


def test_matrices_that_are_rotations_to_a_tolerance_stay_within_the_grid(noisy_set):
    stack = noisy_set.stack[:20]
    along_z = np.array([[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]])  # the image's x axis is the map's z
    stretched = dataclasses.replace(stack, rotations=np.tile(1.05 * along_z, (20, 1, 1)))
    assert np.isfinite(accumulate(stretched).grid_sums).all()


def test_noise_power_is_measured_at_the_border(sums):
    assert sums.noise_power == pytest.approx(32**2, rel=0.15)  # sd 1 per pixel, plus what CTF carries outwards


def test_a_noise_spectrum_divides_data_and_kernel(stack, sums):
    flat = accumulate(stack, noise_spectrum=np.full(17, 4.0))
    assert torch.allclose(flat.b(), sums.b() / 4, rtol=1e-4, atol=1e-6 * float(sums.b().abs().max()))
    assert flat.energy == pytest.approx(sums.energy / 4, rel=1e-5)
    low = np.where(np.arange(17) < 8, 1.0, 1e12) * np.ones((len(stack), 1))
    assert accumulate(stack, noise_spectrum=low).energy < 0.4 * sums.energy
    with pytest.raises(InputError, match="one power for each shell from 0 to 16"):
        accumulate(stack, noise_spectrum=np.ones(12))
    with pytest.raises(InputError, match="above 0"):
        accumulate(stack, noise_spectrum=np.zeros(17))


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_to_the_same_bits(stack, sums, tmp_path, monkeypatch):
    read, chunk = type(stack).images, 30 * 4 * 32**2
    calls = []

    def fail_at_the_fourth(self, indices=None):
        calls.append(1)
        if len(calls) == 4:
            raise Interrupted
        return read(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(type(stack), "images", fail_at_the_fourth)
        with pytest.raises(Interrupted):
            accumulate(stack, chunk_bytes=chunk, checkpoint=tmp_path / "part.npz", checkpoint_seconds=0.0)
    assert NormalEquations.load(tmp_path / "part.npz").n_particles == 90
    calls.clear()
    monkeypatch.setattr(type(stack), "images", lambda self, indices=None: calls.append(1) or read(self, indices))
    resumed = accumulate(stack, chunk_bytes=chunk, checkpoint=tmp_path / "part.npz", resume=True)
    assert bits(resumed) == bits(sums)
    assert len(calls) == 4  # 110 particles of 200 were left
    with pytest.raises(InputError, match="other particles or settings"):
        accumulate(stack[:50], checkpoint=tmp_path / "part.npz", resume=True)


def test_files_hold_everything(sums, tmp_path):
    sums.save(tmp_path / "sums.npz")
    again = NormalEquations.load(tmp_path / "sums.npz")
    assert bits(again) == bits(sums)
    for field in dataclasses.fields(sums):
        if field.name not in ("grid_sums", "particles"):
            assert getattr(again, field.name) == getattr(sums, field.name)


def test_damaged_and_foreign_files_are_refused(sums, tmp_path):
    file = tmp_path / "sums.npz"
    sums.save(file)
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:50000] + b"\x00\xff" + content[50002:]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            NormalEquations.load(file)
    with pytest.raises(InputError, match="no such file"):
        NormalEquations.load(tmp_path / "absent.npz")
    np.savez(file, header=np.frombuffer(json.dumps({"version": 0}).encode(), np.uint8))
    with pytest.raises(InputError, match="version 0"):
        NormalEquations.load(file)
    dataclasses.replace(sums, half_set=1).save(file)
    with pytest.raises(InputError, match="of half set 1, not of half set 2"):
        NormalEquations.load(file, half_set=2)
    np.savez(file, header=np.frombuffer(json.dumps({"version": 4}).encode(), np.uint8))
    with pytest.raises(InputError, match="damaged"):
        NormalEquations.load(file)


@pytest.mark.parametrize("change", [{"pixel_size": 11.0}, {"data_sign": -1}, {"engine": "finufft"}])
def test_unlike_sums_do_not_add_up(sums, change):
    with pytest.raises(InputError, match=next(iter(change))):
        sums + dataclasses.replace(sums, **change)


def test_a_particle_listed_twice_is_refused(stack):
    with pytest.raises(InputError, match="the same as in row"):
        accumulate(stack[np.array([3, 4, 3])])


def test_images_in_other_units_have_other_quanta(stack):
    """The quantum follows the data: sums of images a thousand times as dark are as precise."""
    assert normal_equations._empty(stack, 32, "gridding").data_quantum in (2.0**-15, 2.0**-14)  # 2^-20 of 32 sd
    assert normal_equations._power_of_two(1e-3) == 2.0**-9
    assert normal_equations._power_of_two(0.0) == 1.0


@pytest.mark.parametrize("engine", ["gridding", "finufft"])
def test_a_file_holds_all_that_b_and_k_are_made_of(noisy_set, tmp_path, engine):
    sums = accumulate(read_particles(noisy_set.star)[:40], engine=engine)
    sums.save(tmp_path / "sums.npz")
    again = NormalEquations.load(tmp_path / "sums.npz")
    assert torch.equal(sums.b(), again.b())
    for circular in (True, False):
        assert torch.equal(sums.kernel(circular=circular), again.kernel(circular=circular))
