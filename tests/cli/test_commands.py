"""The command line end to end on small files, and its answers to bad input: one sentence, code 2, nothing written."""

import json
import pickle
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from gsworkbench.assessment.assess import FILES as JUDGED
from gsworkbench.cli.main import main, parser
from gsworkbench.io.mrc import read_map, write_map
from gsworkbench.normal_equations.equations import NormalEquations
from gsworkbench.reconstruction.run import OUTPUTS


def reconstruct(simulated, out, *more):
    arguments = ["reconstruct", str(simulated.star), "--out", str(out), "--n-gaussians", "64", "--threads", "1", *more]
    return main(arguments)


def test_every_command_of_the_parser_runs_something():
    (commands,) = (action for action in parser()._actions if action.dest == "command")
    for name, command in commands.choices.items():
        assert callable(command.get_default("run")), name


@pytest.mark.parametrize(
    ("method", "files"),
    [
        ("one-pass", set(OUTPUTS)),
        ("stochastic", {*OUTPUTS, "checkpoints"} - {"background.mrc", "held_out.csv"}),
    ],
)
def test_reconstruct_writes_everything_it_promises(noisy_set, tmp_path, capsys, method, files):
    more = ["--truth", str(noisy_set.truth_file), "--method", method]
    assert reconstruct(noisy_set, tmp_path / "fit", *more) == 0
    said = capsys.readouterr().out
    assert "FSC = 0.143" in said and "mask: none" in said
    assert {p.name for p in (tmp_path / "fit").iterdir()} == files
    record = json.loads((tmp_path / "fit" / "run.json").read_text())
    assert record["n_particles"] == {"all": 600, "half 1": 300, "half 2": 300}
    assert len(set(record["seeds"].values())) == 3  # half sets must not start alike
    assert record["config"]["settings"]["n_gaussians"] == 64
    assert all(len(entry["sha256"]) == 64 for entry in record["inputs"].values())
    for name in ("run_class001.mrc", "run_half1_class001.mrc", "mask.mrc"):
        assert mrcfile.validate(tmp_path / "fit" / name)


def test_voxels_are_a_method_without_gaussians(noisy_set, tmp_path, capsys):
    command = ["reconstruct", str(noisy_set.star), "--out", str(tmp_path), "--method", "voxels"]
    assert main([*command, "--set", "n_steps=5"]) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["config"]["settings"] == {"n_steps": 5} and 1 <= record["results"]["all"]["n_steps"] <= 5
    assert (tmp_path / "held_out.csv").exists() and not list(tmp_path.glob("gaussians*"))
    assert main([*command, "--n-gaussians", "64"]) == 2
    assert "--method voxels has no setting 'n_gaussians'" in capsys.readouterr().err


def test_what_held_out_particles_say_is_printed_and_recorded(noisy_set, tmp_path, capsys):
    """Sixty-four signed Gaussians miss much of a ribosome at 24 A; the record says how much, and a note says so."""
    assert reconstruct(noisy_set, tmp_path, "--no-half-maps", "--weights", "signed") == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["config"]["settings"]["weights"] == "signed"
    said = record["results"]["all"]["held_out"]
    assert said["signal"] > 10 and said["missed"] > 0.03
    assert f"note: all: the Gaussians alone miss {100 * said['missed']:.0f} %" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["one-pass", "stochastic"])
def test_resuming_a_finished_run_gives_the_same_map(noisy_set, tmp_path, method):
    maps = []
    for more in ([], ["--resume"]):
        assert reconstruct(noisy_set, tmp_path, "--no-half-maps", "--method", method, *more) == 0
        maps.append((tmp_path / "run_class001.mrc").read_bytes())
    assert maps[0] == maps[1]


def test_a_new_run_leaves_nothing_of_an_old_one(noisy_set, tmp_path):
    assert reconstruct(noisy_set, tmp_path) == 0
    assert reconstruct(noisy_set, tmp_path, "--no-half-maps", "--mask", "none") == 0
    assert not (tmp_path / "run_half1_class001.mrc").exists()
    assert not (tmp_path / "mask.mrc").exists()


def test_backproject_and_fsc(noisy_set, tmp_path, capsys):
    assert main(["backproject", str(noisy_set.star), "--out", str(tmp_path)]) == 0
    halves = [str(tmp_path / f"run_half{k}_class001.mrc") for k in (1, 2)]
    capsys.readouterr()
    assert (
        main(["fsc", *halves, "--mask", "sphere", "--truth", str(noisy_set.truth_file), "--out", str(tmp_path / "f")])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    curves = [line for line in lines if "mean FSC" in line]
    assert len(curves) == 5 and all("mask:" in line and "A/voxel" in line for line in curves)
    assert sum("half maps overstate by" in line for line in lines) == 2
    assert {p.name for p in (tmp_path / "f").iterdir()} == set(JUDGED)
    assert not any("alarm" in line for line in lines), lines


def test_half_maps_of_backprojection_are_honest(clean_set, tmp_path):
    assert main(["backproject", str(clean_set.star), "--out", str(tmp_path), "--truth", str(clean_set.truth_file)]) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    for treatment in ("unmasked", "masked"):
        assert abs(record["results"]["overstatement"][treatment]["mean"]) < 0.01
    assert not any("share a bias" in warning for warning in record["warnings"])


def test_judge_half_maps_in_every_way(noisy_set, tmp_path, capsys):
    volume, voxel_size = read_map(noisy_set.truth_file)
    rng = np.random.default_rng(0)
    halves = [tmp_path / f"half{k}.mrc" for k in (1, 2)]
    for half in halves:
        write_map(half, volume + 2 * volume.std() * rng.standard_normal(volume.shape).astype("f"), voxel_size)
    command = ["postprocess", *map(str, halves), "--out", str(tmp_path / "out")]
    assert main([*command, "--definition", "cryosparc"]) == 0
    said = capsys.readouterr().out
    assert "fsc_loose" in said and "cryoSPARC definition" in said and "fsc_corrected" in said
    more = [*map(str, halves), "--out", str(tmp_path / "more"), "--mask", "sphere"]
    assert main(["localres", *more]) == 0
    assert main(["directional", *more, "--particles", str(noisy_set.star)]) == 0
    said = capsys.readouterr().out
    assert "window" in said and "sphericity" in said and "sampling compensation factor" in said
    files = {"locres.mrc", "locres.png", "directional.csv", "directional.png", "views.png"}
    assert {p.name for p in (tmp_path / "more").iterdir()} == files
    assert main([*command, "--definition", "mine"]) == 2
    assert "there is no FSC definition 'mine'" in capsys.readouterr().err


@pytest.fixture
def biased_maps(tmp_path):
    """Half maps (0, 1) and those of random phases (2, 3), of a method that makes up shells 9 and beyond; the start."""
    shells = np.rint(np.sqrt(sum(k**2 for k in np.meshgrid(*[np.fft.fftfreq(32, 1 / 32)] * 3))))
    draw = np.random.default_rng(0).standard_normal

    def drawn(kept):
        return np.fft.ifftn(np.fft.fftn(draw((32,) * 3)) * kept).real

    signal, bias = drawn(3 * (shells < 9)), drawn(2 * (shells >= 9))
    maps = [*(signal + bias + draw((32,) * 3) for _ in range(2)), *(signal + bias + draw((32,) * 3) for _ in range(2))]
    for i, volume in enumerate([*maps, bias + draw((32,) * 3)]):
        write_map(tmp_path / f"{i}.mrc", volume, 3.0)
    return [str(tmp_path / f"{i}.mrc") for i in range(5)]


def test_noise_substitution_says_what_is_made_up(biased_maps, tmp_path, capsys):
    command = ["fsc", *biased_maps[:2], "--substituted", *biased_maps[2:4], "--out", str(tmp_path / "out")]
    assert main([*command, "--beyond", "12"]) == 0
    said = capsys.readouterr().out
    means = [line.split("mean FSC")[1] for line in said.splitlines() if "mean FSC" in line]
    assert len(means) == 3 and float(means[2]) < float(means[0]) - 0.2
    assert "fsc_substituted" in said and "alarm: fits to random phases agree by 0.79" in said
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(JUDGED) - {"mask.mrc"}
    assert main(command) == 2 and "go together" in capsys.readouterr().err
    assert main([*command, "--beyond", "5"]) == 2 and "leave no shell to correct" in capsys.readouterr().err


def test_a_start_that_both_half_maps_keep_rings(biased_maps, capsys):
    assert main(["fsc", *biased_maps[:2], "--initial", biased_maps[4]]) == 0
    assert "alarm: the map both halves started from explains" in capsys.readouterr().out
    assert main(["fsc", *biased_maps[:2]]) == 0
    assert "started from" not in capsys.readouterr().out


def test_inspect_finds_good_poses_good_and_bad_ones_bad(clean_set, tmp_path, capsys):
    assert main(["inspect", str(clean_set.star)]) == 0
    said = capsys.readouterr().out
    assert "poses and shifts fit the images" in said and "protein is white" in said and "memory" in said
    text = clean_set.star.read_text().splitlines()
    first = next(i for i, line in enumerate(text) if "@" in line)
    # Image names handed round by one: every pose now belongs to another image.
    rows = [line.split() for line in text[first : first + 1000]]
    column = next(i for i, cell in enumerate(rows[0]) if "@" in cell)
    names = [row[column] for row in rows]
    for row, name in zip(rows, names[1:] + names[:1], strict=True):
        row[column] = name
    bad = tmp_path / "bad.star"
    bad.write_text("\n".join(text[:first] + [" ".join(row) for row in rows]) + "\n")
    assert main(["inspect", str(bad), "--stack", str(clean_set.folder / "particles.mrcs")]) == 0
    assert "no better than chance" in capsys.readouterr().out


def test_simulate_is_what_reconstruct_reads(tmp_path, capsys):
    command = [
        "simulate",
        "--out",
        str(tmp_path / "set"),
        "--n-particles",
        "20",
        "--box-size",
        "32",
        "--pixel-size",
        "12",
    ]
    assert main(command) == 0
    assert main(["inspect", str(tmp_path / "set" / "particles.star")]) == 0
    assert "20 in 1 file" in capsys.readouterr().out


def test_doctor_names_every_backend(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "windowed: works" in said and "reference: works" in said and "GPU" in said


class Evil:
    def __reduce__(self):
        return (open, ("executed", "w"))


def _missing_stack(folder, star):
    return [str(star.with_name("moved.star"))], "moved.star"


def _truncated(folder, star):
    stack = folder / "particles.mrcs"
    stack.write_bytes(stack.read_bytes()[:-5000])
    return [str(star)], "particles.mrcs"


def _absent_images(folder, star):
    (folder / "particles.mrcs").unlink()
    return [str(star)], "1 of 1 image files are missing"


def _nan(folder, star):
    with mrcfile.open(folder / "particles.mrcs", mode="r+", permissive=True) as file:
        file.data[41, 3, 3] = np.nan
    return [str(star)], "particles.mrcs"


def _missing_ctf_column(folder, star):
    star.write_text(star.read_text().replace("_rlnDefocusU", "_rlnSomethingElse"))
    return [str(star)], "rlnDefocusU"


def _counts_differ(folder, star):
    poses = folder / "poses.pkl"
    poses.write_bytes(pickle.dumps((np.tile(np.eye(3), (7, 1, 1)), np.zeros((7, 2)))))
    return [str(star), "--poses", str(poses)], "7"


def _evil_pickle(folder, star):
    poses = folder / "poses.pkl"
    poses.write_bytes(pickle.dumps(Evil()))
    return [str(star), "--poses", str(poses)], "poses.pkl"


def _unknown_parameter(folder, star):
    return [str(star), "--set", "n_gausians=5"], "n_gausians"


def _mistyped_parameter(folder, star):
    return [str(star), "--set", "n_steps=many"], "n_steps"


def _mask_of_another_box(folder, star):
    with mrcfile.new(folder / "m.mrc") as file:
        file.set_data(np.ones((16, 16, 16), np.float32))
        file.voxel_size = 12.0
    return [str(star), "--mask", str(folder / "m.mrc")], "m.mrc"


FILES = [_missing_stack, _truncated, _absent_images, _nan, _missing_ctf_column, _counts_differ, _evil_pickle]
FILES.append(_mask_of_another_box)


@pytest.mark.parametrize(
    ("command", "break_it"),
    [
        *(("reconstruct", mistake) for mistake in [*FILES, _unknown_parameter, _mistyped_parameter]),
        *(("backproject", mistake) for mistake in FILES),
    ],
)
def test_bad_input_gets_one_sentence_code_2_and_writes_nothing(tmp_path, monkeypatch, capsys, command, break_it):
    folder = tmp_path / "set"
    main(["simulate", "--out", str(folder), "--n-particles", "50", "--box-size", "32", "--pixel-size", "12"])
    arguments, named = break_it(folder, folder / "particles.star")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main([command, *arguments, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in message and message.startswith("gsworkbench: ") and message.endswith(".")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "executed").exists()


def test_accumulate_in_parts_and_combine(noisy_set, tmp_path, capsys):
    def sums(*arguments):
        assert main(["accumulate", str(noisy_set.star), *map(str, arguments)]) == 0
        return NormalEquations.load(arguments[1])

    whole = sums("--out", tmp_path / "all.npz")
    half = sums("--out", tmp_path / "1.npz", "--half-set", 1)
    assert "300 particles of half set 1, 32 px of 12 A" in capsys.readouterr().out
    assert (half.n_particles, half.half_set) == (300, 1)
    for part in (1, 2, 3):
        sums("--out", tmp_path / f"2-{part}.npz", "--half-set", 2, "--part", f"{part}/3")
    parts = [str(tmp_path / name) for name in ("1.npz", "2-1.npz", "2-2.npz", "2-3.npz")]
    assert main(["combine", *parts, "--out", str(tmp_path / "joined.npz")]) == 0
    joined = NormalEquations.load(tmp_path / "joined.npz")
    assert (joined.grid_sums == whole.grid_sums).all()
    assert joined.energy == whole.energy
    assert {path.name for path in tmp_path.iterdir()} == {"all.npz", "joined.npz", *(Path(p).name for p in parts)}


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["accumulate", "STAR", "--out", "x.npz", "--part", "4/3"], "--part 4/3 is not a part of 600 particles"),
        (["accumulate", "STAR", "--out", "x.npz", "--part", "two"], "--part two is not a part"),
        (["accumulate", "STAR", "--out", "x.npz", "--noise-spectrum", "STAR"], "not a noise spectrum"),
        (["combine", "STAR", "--out", "x.npz"], "particles.star: not a file of sums, or a damaged one"),
        (["combine", "SUMS", "SUMS", "--out", "x.npz"], "sums.npz: 600 particles are counted in both sums"),
    ],
)
def test_sums_that_cannot_be(noisy_set, tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["accumulate", str(noisy_set.star), "--out", "sums.npz"]) == 0
    capsys.readouterr()
    names = {"STAR": str(noisy_set.star), "SUMS": "sums.npz"}
    assert main([names.get(a, a) for a in arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in said and said.count(". ") == 0
    assert not Path("x.npz").exists()
