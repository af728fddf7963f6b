"""What goes wrong with users' files, row by row: each hazard is a test here or points to the test that it has.

COVERED names that test as `file::test`, `file::class::test` or `file::test[case]`, without `test_`. The others are
made here, of real bytes, and given to the command line: one sentence, exit code 2, nothing written; or right values.
"""

from __future__ import annotations

import ast
import bz2
import gzip
import os
import re
import tracemalloc
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile  # noqa: F401  # else its import would count as memory that the first input took
import test_cryodrgn as pickles
import test_cryosparc as cs
import test_relion as star
from particle_files import BOX, OPTICS, PIXEL_SIZE, N, star_columns, star_text, write_images, write_pickle
from test_mrc import HEADER, patch

from gsworkbench.cli.main import main
from gsworkbench.errors import InputError
from gsworkbench.io.files import sha256
from gsworkbench.io.mrc import map_origin, read_images, read_map, write_map
from gsworkbench.particles.formats.relion import write_with_half_sets
from gsworkbench.particles.read import read_particles

TESTS = Path(__file__).parents[1]

COVERED = {
    # RELION's STAR files
    "star: blocks in any order, by name": "relion::blocks_may_stand_in_any_order",
    "star: one table of 3.0, named or not": "relion::reads_relion_30",
    "star: optics groups joined by number": "relion::optics_groups_are_joined_by_number_not_by_place",
    "star: particle points to an absent group": "relion::refusals[missing group]",
    "star: groups with two pixel sizes": "relion::refusals[two pixel sizes]",
    "star: groups with two boxes": "relion::refusals[two boxes]",
    "star: group without a number": "relion::refusals[group that is no number]",
    "star: no column rlnOpticsGroup": "relion::refusals[no group column]",
    "star: one optics group and no column": "relion::one_optics_group_is_that_of_all_particles",
    "star: group defined twice": "relion::refusals[group twice]",
    "star: group name stays text": "relion::group_name_stays_text_and_quotes_hold_spaces",
    "star: particle row before optics row": "relion::particle_row_goes_before_optics_row",
    "star: defaults of V, angle, phase shift, origins": "relion::defaults_of_v_angle_and_origins",
    "star: no voltage": "relion::refusals[no voltage]",
    "star: no Cs": "relion::refusals[no Cs]",
    "star: no amplitude contrast": "relion::refusals[no contrast]",
    "star: amplitude contrast in percent": "relion::refusals[contrast in percent]",
    "star: no defocus": "relion::refusals[no defocus]",
    "star: origins in A or in pixels": "relion::reads_relion_30",
    "star: image numbers count from 1": "relion::refusals[image number zero]",
    "star: row order is not stack order": "relion::rows_in_any_order_are_keyed_by_stack_and_number",
    "star: premultiplied by the CTF": "relion::refusals[premultiplied]",
    "star: beam tilt": "relion::beam_tilt_is_noted",
    "star: tomography": "relion::refusals[tomography]",
    "star: helices": "half_sets::filaments_stay_in_one_half_set",
    "star: rlnRandomSubset absent": "stack::half_sets_are_dealt_evenly_and_by_seed",
    "star: rlnRandomSubset as given": "stack::half_sets_of_the_file_stay",
    "star: rlnRandomSubset mixed or one half empty": "stack::half_sets_half_assigned_are_refused",
    "star: rlnRandomSubset 3": "relion::refusals[half set 3]",
    "star: white space of other kinds": "relion::refusals[white space of other kinds]",
    "star: a comment that names a codec": "relion::a_comment_that_names_a_codec_changes_nothing",
    "star: one image file by several names": "relion::one_file_by_several_names_is_one_file",
    "star: beam tilt nan": "relion::beam_tilt_that_is_no_number_is_no_obstacle",
    "star: mended after it could not be read": "relion::a_file_is_read_anew_when_it_was_mended",
    "star: thousands of tables": "relion::refusals[thousands of tables]",
    "star: thousands of columns": "relion::refusals[thousands of columns]",
    "star: zero bytes": "relion::refusals[empty file]",
    "star: Latin-1": "relion::refusals[Latin-1]",
    "star: '#' in a path": "relion::refusals[hash in a path]",
    "star: quote in a path": "relion::refusals[quote in a path]",
    "star: quoted space": "relion::group_name_stays_text_and_quotes_hold_spaces",
    "star: short row": "relion::refusals[short row]",
    "star: long row": "relion::refusals[long row]",
    "star: two blocks of one name": "relion::refusals[two blocks of one name]",
    "star: two columns of one name": "relion::refusals[two columns of one name]",
    "star: empty loop": "relion::refusals[no rows]",
    "star: None in a column": "relion::refusals[None]",
    "star: inf in a column": "relion::refusals[infinity]",
    "star: NaN in a column": "relion::refusals[NaN]",
    "star: optics lost on the way out": "star_writing::half_sets_are_added_and_all_else_stays",
    # geometry, CTF
    "geometry: Euler angles": "rotations::golden_euler_angles",
    "geometry: cryoSPARC's rotation vector": "rotations::golden_cryosparc_pose",
    "geometry: sign of the origin": "simulate::a_positive_origin_moves_an_observed_image_to_the_centre",
    "geometry: centre voxel is D/2": "backprojection::hand_centre_and_scale",
    "geometry: axes z, y, x": "simulate::an_atom_lies_where_it_is_z_y_x",
    "ctf: RELION's golden values": "ctf::golden_values_of_relion",
    "ctf: positive at the origin": "ctf::origin_is_plus_amplitude_contrast",
    "ctf: pixel size follows the box": "cryodrgn::units_by_convention",
    # cryoSPARC
    "cs: values by convention (indices, shifts, radians, split, '>')": "cryosparc::values_by_convention",
    "cs: passthrough joined on uid": "cryosparc::passthrough_is_joined_on_uid",
    "cs: passthrough lacks particles": "cryosparc::passthrough_that_lacks_a_particle_or_has_one_twice",
    "cs: no field without its passthrough": "cryosparc::refusals[no path]",
    "cs: split of one value": "cryosparc::split_of_one_value_is_no_split",
    "cs: header beyond 10,000 bytes": "cryosparc::long_header_of_many_classes",
    "cs: ab-initio poses": "cryosparc::refusals[ab-initio]",
    "cs: poses of several classes, shifts of heterogeneous refinement": "cryosparc::refusals[multi]",
    "cs: blob/sign": "cryosparc::sign_override_and_absent_sign",
    "cs: blob/shape is another box": "cryosparc::refusals[another box]",
    "cs: CSDAT": "cryosparc::forged_files[CSDAT]",
    "cs: Python objects": "cryosparc::forged_files[objects in a field]",
    "cs: forged number of rows": "cryosparc::forged_files[terabytes]",
    "cs: truncated": "cryosparc::forged_files[truncated]",
    # cryoDRGN
    "pkl: poses with and without shifts": "cryodrgn::poses_without_shifts",
    "pkl: shifts in pixels": "cryodrgn::poses_refused[pixels]",
    "pkl: mirrored rotation": "cryodrgn::poses_refused[mirror]",
    "pkl: rotation not orthogonal": "cryodrgn::poses_refused[not orthogonal]",
    "pkl: Euler angles for matrices": "cryodrgn::poses_refused[Euler angles]",
    "pkl: counts differ": "cryodrgn::counts_that_differ_are_all_printed",
    "pkl: NaN phase shift as cryoDRGN writes it": "cryodrgn::ctf_refused[NaN phase shift]",
    "pkl: boxes differ by row": "cryodrgn::ctf_refused[two boxes]",
    "pkl: indices as a list, unsorted": "cryodrgn::indices_may_be_a_list_and_unsorted",
    "pkl: index repeated": "cryodrgn::indices_refused[repeated]",
    "pkl: index out of range": "cryodrgn::indices_refused[beyond]",
    "pkl: index negative": "cryodrgn::indices_refused[negative]",
    "pkl: order of pickles and stack": "findings::mistakes_are_named",
    "pkl: list of stacks relative to itself": "cryodrgn::text_list_of_stacks_is_relative_to_itself",
    "pkl: evil": "cryodrgn::TestPickles::an_evil_pickle_runs_nothing",
    "pkl: evil behind good arrays": "cryodrgn::TestPickles::call_hidden_behind_good_arrays",
    "pkl: forged shape": "cryodrgn::TestPickles::shape_that_the_bytes_do_not_fill",
    "pkl: one array many times over": "cryodrgn::TestPickles::one_array_a_thousand_times",
    "pkl: short programs that grow": "cryodrgn::TestPickles::short_programs_stay_small",
    "pkl: frames that overlap": "cryodrgn::TestPickles::short_programs_stay_small[overlapping frames]",
    "pkl: damaged": "cryodrgn::TestPickles::damaged_and_forged_pickles",
    # MRC
    "mrc: modes 0, 1, 2, 6, 12": "mrc::modes",
    "mrc: unsigned bytes of IMOD": "mrc::mode_0_of_imod_without_its_signed_flag_is_unsigned",
    "mrc: complex mode": "mrc::damaged_headers[mode of complex numbers]",
    "mrc: unknown mode": "mrc::damaged_headers[mode unknown]",
    "mrc: truncated, empty, a web page": "mrc::damaged_files",
    "mrc: neither map ID nor stamp": "mrc::neither_map_id_nor_stamp_is_needed",
    "mrc: extra bytes": "mrc::a_few_bytes_at_the_end_do_no_harm",
    "mrc: fewer images in the header": "mrc::damaged_headers[fewer images than bytes]",
    "mrc: 2,000,000,000 images in the header": "mrc::damaged_headers[more images than bytes]",
    "mrc: negative size": "mrc::damaged_headers[negative count]",
    "mrc: big-endian": "mrc::big_endian",
    "mrc: .gz and .bz2": "mrc::compressed",
    "mrc: axis order": "mrc::TestMaps::axis_order_of_the_header",
    "mrc: zero cell": "mrc::TestMaps::cells",
    "mrc: cell without z": "mrc::pixel_size_is_not_taken_from_z",
    "mrc: stack of one, stack that calls itself a volume":
        "mrc::stack_of_one_and_stack_that_calls_itself_a_volume",
    "mrc: stack of volumes": "mrc::damaged_headers[stack of volumes]",
    "mrc: odd box": "relion::odd_box_is_refused",
    "mrc: NaN in an image": "mrc::broken_pixels_name_the_image",
    "mrc: NaN in a map": "mrc::TestMaps::broken_voxels",
    "mrc: origin or start indices": "model_map::origin_of_the_header_before_its_start_indices_before_zero",
    "mrc: what is written": "mrc::TestMaps::written_map",
    # paths
    "paths: beside the metadata": "stack_paths::TestPaths::beside_the_metadata",
    "paths: from the current folder": "stack_paths::TestPaths::from_the_current_folder",
    "paths: in the data folder": "stack_paths::TestPaths::in_datadir_by_path_and_by_last_part",
    "paths: two files by one name": "stack_paths::TestPaths::two_different_files_are_ambiguous",
    "paths: one file by two names": "stack_paths::TestPaths::two_names_with_one_last_part_are_ambiguous",
    "paths: missing, the first five and how many": "relion::refusals[missing stacks]",
    "paths: link to itself": "stack_paths::TestPaths::link_that_leads_to_itself_is_missing",
    # code, notebooks, pages
    "code: parameter names of notebooks": "notebooks::an_unknown_parameter_stops_it_before_it_starts",
    "code: parameters keep their types": "notebooks::parameters_arrive_with_their_types_and_prints_go_to_the_log",
    "code: a failed notebook says so": "notebooks::a_failing_cell_is_told_and_the_executed_notebook_kept",
    "code: stored notebooks have no outputs": "notebooks::stored_bare_small_and_without_definitions",
    "code: unknown settings": "errors_files::wrong_settings_are_named",
    "code: pages escape": "web_surface::a_page_shows_a_script_as_text",
    "code: YAML, checkpoints, archives": "web_surface::no_way_of_reading_that_runs_what_it_reads",
    # FSC and what half maps share
    "fsc: RELION's definition": "judge_command::relion_definition_gives_what_relion_printed",
    "fsc: cryoDRGN's definition": "judge_command::cryodrgn_definition_gives_what_cryodrgn_printed",
    "fsc: every definition says whose it is": "judge_command::the_same_maps_under_every_definition_say_whose_it_is",
    "fsc: curve that rises again": "alarms::a_curve_that_rises_again_rings_and_noise_does_not",
    "fsc: no crossing": "fsc::no_crossing_is_a_value_of_its_own",
    "fsc: unmasked never below 0.8": "judge_command::no_corrected_curve_where_the_sampling_limits",
    "fsc: random phases that agree": "alarms::a_tight_mask_on_random_phases_rings",
    "fsc: unmasked reaches further than corrected": "alarms::unmasked_reaching_further_rings",
    "fsc: shells without power, then a mask": "alarms::maps_masked_beyond_their_cutoff_ring",
    "fsc: shells without power": "fsc::shells_without_power_are_nan_not_one",
    "fsc: corners of Fourier space": "simulate::half_disc_is_strict_and_complete",
    "fsc: fsc.xml": "exports::the_xml_is_what_emdb_takes",
    "fsc: postprocess.star": "exports::starfile_reads_postprocess_star",
    "halves: the same map twice": "alarms::the_same_map_twice_rings_and_a_good_pair_does_not",
    "halves: on other grids": "assess::what_cannot_be_judged_gets_one_sentence",
    "halves: start in common": "alarms::a_shared_start_rings",
    "halves: seeded alike": "commands::reconstruct_writes_everything_it_promises",
    "halves: particles in both": "assess::particles_that_half_sets_share_are_told_from_the_command_line",
    "halves: coordinates in both": "assess::coordinates_tell_particles_picked_twice",
    "halves: a particle listed twice": "equations::a_particle_listed_twice_is_refused",
    # what other programs get wrong
    "peers: map magnified by two": "alarms::a_map_unlike_the_truth_rings_by_name",
    "peers: inverted hand is invisible to half maps":
        "backprojection::a_wrong_hand_of_the_poses_shows_against_the_truth",
    "peers: cryoDRGN's sign and hand": "other_programs::cryodrgn_has_our_hand_and_centre",
    "peers: RELION's scale": "other_programs::relion_has_our_hand_centre_and_scale",
    "peers: amplitude scale of images and maps": "rendering::total_weight_and_units",
    "peers: rotations transposed, shifts reversed or in pixels": "findings::mistakes_are_named",
    "peers: Hartley transforms, columns of ctf.pkl": "cryodrgn::units_by_convention",
    "peers: batches sized by free memory": "stack::chunks_cover_each_particle_once_in_file_order",
    "peers: a device that is not there": "device::the_command_line_refuses_in_one_sentence_and_writes_nothing",
    # other files
    "files: Gaussians in natural units": "stochastic::gaussians_survive_a_file",
    "files: splats": "viewers::the_ply_has_the_layout_of_gsplats_exporter",
    "files: everything promised": "commands::reconstruct_writes_everything_it_promises",
    "files: damaged sums": "sums_files::a_flipped_byte_or_a_cut_is_refused_or_changes_nothing",
    "files: damaged checkpoint": "stochastic::a_checkpoint_of_something_else_is_refused",
    "files: written whole or not at all": "errors_files::failure_leaves_the_old_file_and_no_litter",
    "numbers: images in other units": "equations::images_in_other_units_have_other_quanta",
    "numbers: singular Gaussians": "gpu::singular_covariances_have_no_density_and_poison_nothing",
    "files: archives of others": "forged_files::archives_of_other_origin",
    "files: pipes and devices": "forged_files::pipes_and_devices_are_refused",
    "cs: fields of odd types": "forged_files::fields_of_odd_types",
    "cs: a header of numbers alone": "forged_files::a_header_of_numbers_alone",
    "numbers: dark protein": "image_statistics::dark_protein_is_named_by_every_command_that_reads_images",
}  # fmt: skip


@pytest.mark.parametrize("row", COVERED)
def test_the_row_has_its_test(row):
    file, *inside, name = re.sub(r"\[.*\]", "", COVERED[row]).split("::")
    text = next(TESTS.rglob(f"test_{file}.py")).read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(text).body
    for group in inside:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == group)
    assert f"test_{name}" in [node.name for node in body if isinstance(node, ast.FunctionDef)]
    case = re.search(r"\[(.*)\]", COVERED[row])
    assert case is None or f'"{case[1]}":' in text


@pytest.fixture
def folder(tmp_path):
    """A sound set in every format; hazards spoil copies of it."""
    folder = tmp_path / "set"
    (folder / "J1").mkdir(parents=True)
    for stack in ("particles.mrcs", "J1/particles.mrcs"):
        write_images(folder / stack)
    star.write(folder, star_text(star_columns() | {"rlnAngleTilt": [20 * k for k in range(N)]}))
    cs.write(folder, cs.EVERYTHING)
    write_pickle(folder / "poses.pkl", (pickles.ROTATIONS, pickles.SHIFTS))
    write_pickle(folder / "ctf.pkl", pickles.CTF)
    return folder


def refused(folder, capsys, *arguments):
    """Give these to `backproject`; return the sentence it must end with, having left no file nor changed one."""
    before = {path: sha256(path) for path in folder.parent.rglob("*") if path.is_file()}
    out = folder.parent / "out"
    assert main(["backproject", *map(str, arguments), "--out", str(out)]) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("gsworkbench: ") and sentence.endswith(".\n") and sentence.count("\n") == 1, sentence
    assert "allow_pickle" not in sentence and "Traceback" not in sentence
    assert {path: sha256(path) for path in folder.parent.rglob("*") if path.is_file()} == before
    assert not out.exists()
    return sentence


# Every refusal of the readers' own tests, once more as a user meets it.


@pytest.mark.parametrize("what", star.REFUSALS)
def test_star_from_the_command_line(folder, capsys, what):
    text, message = star.REFUSALS[what]
    assert re.search(message, refused(folder, capsys, star.write(folder, text)))


@pytest.mark.parametrize("what", cs.REFUSALS)
def test_cryosparc_from_the_command_line(folder, capsys, what):
    columns, message = cs.REFUSALS[what]
    assert re.search(message, refused(folder, capsys, cs.write(folder, columns)))


@pytest.mark.parametrize("what", cs.FORGED)
def test_forged_cryosparc_from_the_command_line(folder, capsys, what):
    content, message = cs.FORGED[what]
    (folder / "x.cs").write_bytes(content)
    assert re.search(message, refused(folder, capsys, folder / "x.cs"))


PICKLES = {f"poses, {name}": ("--poses", *case) for name, case in pickles.POSES_REFUSED.items()}
PICKLES |= {f"CTF, {name}": ("--ctf", *case) for name, case in pickles.CTF_REFUSED.items()}
PICKLES |= {f"indices, {name}": ("--ind", *case) for name, case in pickles.INDICES_REFUSED.items()}


@pytest.mark.parametrize("what", PICKLES)
def test_pickles_from_the_command_line(folder, capsys, what):
    option, value, message = PICKLES[what]
    spoilt = write_pickle(folder / "spoilt.pkl", value)
    sentence = refused(folder, capsys, folder / "particles.star", option, spoilt)
    assert re.search(message, sentence) and "spoilt.pkl" in sentence


# Hazards that have no other test: what makes them, and what is said.


def _star_with(columns, optics=OPTICS):
    return lambda folder: [star.write(folder, star_text(star_columns() | columns, optics))]


def _cs_with(columns, *without):
    return lambda folder: [cs.write(folder, cs.without(cs.EVERYTHING | columns, *without))]


def _header(**fields):
    def make(folder):
        for name, value in fields.items():
            patch(folder / "particles.mrcs", HEADER[name], value)
        return [folder / "particles.star"]

    return make


def _npy_poses(folder):
    (folder / "x.cs").write_bytes(cs.npy(np.array([[{}]], object), allow_pickle=True))
    return [folder / "particles.star", "--poses", folder / "x.cs"]


def _link_that_leaves(folder):
    elsewhere = folder.parent / "elsewhere.mrcs"
    write_images(elsewhere)
    (folder / "particles.mrcs").unlink()
    (folder / "particles.mrcs").symlink_to(elsewhere)
    return [folder / "particles.star", "--strict-paths"]


def _outside(name):
    def make(folder):
        write_images(folder.parent / "elsewhere.mrcs")
        names = [f"{k + 1}@{'particles.mrcs' if k < 3 else name.format(folder.parent)}" for k in range(N)]
        return [star.write(folder, star_text(star_columns() | {"rlnImageName": names})), "--strict-paths"]

    return make


def _gz_bomb(folder):
    data = bytearray((folder / "particles.mrcs").read_bytes()[:1024])
    data[8:12] = np.int32(2**30).tobytes()  # 256 GiB of images
    (folder / "particles.mrcs").write_bytes(gzip.compress(bytes(data)))
    return [folder / "particles.star"]


def _bytes_of_a_number(folder):
    class Forged:
        def __reduce__(self):
            build, arguments, _ = np.zeros(1).__reduce__()
            return build, arguments, (1, (2**40,), np.dtype("u1"), False, 2**40)

    return [folder / "particles.star", "--ind", write_pickle(folder / "ind.pkl", Forged())]


def _spectrum(content):
    def make(folder):
        (folder / "noise.npy").write_bytes(content)
        return [folder / "particles.star", "--noise-spectrum", folder / "noise.npy"]

    return make


REFUSED = {
    "star: phase-flipped images": (_star_with({"rlnCtfDataArePhaseFlipped": [1] * N}), "were phase-flipped"),
    "star: image number beyond 64 bits": (
        _star_with({"rlnImageName": [f"{10**30}@particles.mrcs"] * N}), "row 1: rlnImageName"),
    "star: image number of 5,000 digits": (
        _star_with({"rlnImageName": [f"{'1' * 5000}@particles.mrcs"] * N}), "row 1: rlnImageName"),
    "star: optics group beyond 64 bits": (_star_with({"rlnOpticsGroup": ["1e30"] * N}), "row 1: rlnOpticsGroup"),
    "star: what steers a terminal": (
        _star_with({"rlnImageName": ["1@a\x1b[2J.mrcs"] * N}), r"missing: a\\x1b\[2J.mrcs"),
    "star: shifts in pixels read as A and beyond the box": (
        _star_with({"rlnOriginXAngst": [1, 2, 20.1, 4, 5, 6]}), "row 3: the shift of 20.1, -2.5 A exceeds the box"),
    "star: a number beyond all quantities": (_star_with({"rlnDefocusU": [1e4, 1e300] * 3}), "row 2: rlnDef"),
    "star: another folder's file of the same name":
        (lambda folder: [star.write(folder, star_text(star_columns(name="gone/particles.mrcs")))], "missing: gone/"),
    "cs: images that are not square": (
        _cs_with({"blob/shape": np.tile(np.uint32([BOX, BOX + 2]), (N, 1))}), "blob/shape"),
    "cs: negative index": (_cs_with({"blob/idx": np.full(N, -1, np.int32)}), "row 1: blob/idx"),
    "cs: text where numbers belong": (_cs_with({"ctf/df1_A": np.full(N, b"x")}), "row 1: ctf/df1_A"),
    "cs: poses of two numbers": (
        _cs_with({"alignments3D/pose": np.zeros((N, 2), np.float32)}), "alignments3D/pose"),
    "cs: a shift of one number": (_cs_with({"alignments3D/shift": np.zeros(N, np.float32)}), "alignments3D/shift"),
    "cs: defocus of two numbers": (_cs_with({"ctf/df1_A": np.ones((N, 2), np.float32)}), "ctf/df1_A"),
    "npy: objects instead of a pickle": (_npy_poses, "x.cs: not a readable pickle"),
    "pkl: a number for the bytes of an array": (_bytes_of_a_number, "ind.pkl: the pickle holds a int where the bytes"),
    "mrc: mode 101, four bits": (_header(mode=101), "data of mode 101 are not read"),
    "mrc: mode 16, colours": (_header(mode=16), "data of mode 16 are not read"),
    "mrc: axes that are none": (_header(nx=2**31 - 1, ny=2**31 - 1, nz=2**31 - 1), "truncated"),
    "mrc: .gz with a forged header": (_gz_bomb, "particles.mrcs: the file is truncated: its header says 1073741824"),
    "paths: absolute, with --strict-paths": (
        _outside("{}/elsewhere.mrcs"), "row 4: .*elsewhere.mrcs lies outside the data folder.*give the --datadir"),
    "paths: '..', with --strict-paths": (_outside("../elsewhere.mrcs"), "row 4: .*outside the data folder"),
    "paths: a link that leaves, with --strict-paths": (_link_that_leaves, "row 1: .*outside the data folder"),
    "npy: noise spectrum of objects": (
        _spectrum(cs.npy(np.array([{}], object), allow_pickle=True)), "not a noise spectrum"),
    "npy: noise spectrum of a forged shape": (
        _spectrum(cs.npy(np.ones(5)).replace(b"(5,), }" + b" " * 12, b"(5" + b"0" * 12 + b",), }")),
        "not a noise spectrum"),
    "npy: noise spectrum of text": (_spectrum(b"1.0\n2.0\n"), "not a noise spectrum"),
}  # fmt: skip


def traced(folder, capsys, arguments):
    """The sentence of a refusal, and the peak of what Python allocated on the way to it in bytes."""
    tracemalloc.start()
    sentence = refused(folder, capsys, *arguments)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return sentence, peak


@pytest.mark.parametrize("what", REFUSED)
def test_refused(folder, capsys, what):
    make, message = REFUSED[what]
    arguments = make(folder)
    sentence, peak = traced(folder, capsys, arguments)
    if peak >= 2**24:  # a first call also imports: once more, without that
        _, peak = traced(folder, capsys, arguments)
    assert re.search(message, sentence), sentence
    assert peak < 2**24  # far below what the forged headers ask for


def test_a_stack_of_blank_images_says_so(folder, capsys):
    """All pixels zero: what a copy leaves that was cut off after its space was set aside."""
    from gsworkbench.io.mrc import new_image_stack

    with new_image_stack(folder / "particles.mrcs", N, BOX, PIXEL_SIZE) as images:
        images[0] = np.random.default_rng(0).normal(size=(BOX, BOX))
    with pytest.warns(
        UserWarning, match=r"particles.mrcs: 5 of 6 images are blank .*, first image 2; .*leave them out"
    ):
        read_particles(folder / "particles.star").images()


def test_without_strict_paths_any_folder_is_read_and_named(folder, capsys):
    path = _outside("../elsewhere.mrcs")(folder)[0]
    stack = read_particles(path)
    assert len(stack.images()) == N
    assert read_particles(path, datadir=folder.parent, strict_paths=True).files == stack.files
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"folders        {folder.parent}, {folder}\n" in said


@pytest.mark.parametrize(
    ("label", "value"),
    [("rlnEvenZernike", "[0,0,1.2e-7]"), ("rlnOddZernike", "[0.5]"), ("rlnMagMat00", "1.02"), ("rlnMagMat10", "0.01")],
)
def test_aberrations_are_noted_and_not_lost_on_the_way_out(folder, label, value):
    path = star.write(folder, star_text(star_columns() | {label: [value] * N}))
    stack = read_particles(path)
    assert [f"{label} is not modelled" in note for note in stack.notes] == [True]
    write_with_half_sets(path, folder / "out.star", stack)
    assert (folder / "out.star").read_text().count(value) == N


def test_a_magnification_matrix_that_is_none_is_no_news(folder):
    identity = {
        "rlnMagMat00": ["1.000"] * N,
        "rlnMagMat01": ["0.0"] * N,
        "rlnMagMat10": [0] * N,
        "rlnMagMat11": [1] * N,
    }
    assert len(read_particles(star.write(folder, star_text(star_columns() | identity)))) == N


def test_beam_tilt_of_cryosparc_is_noted(folder):
    path = cs.write(folder, cs.EVERYTHING | {"ctf/tilt_A": np.ones((N, 2), np.float32)})
    assert ["ctf/tilt_A is not modelled" in note for note in read_particles(path).notes] == [True]


def test_header_of_relion(folder):
    """RELION's volumes have space group 0, the other little-endian stamp, and no version."""
    volume = np.random.default_rng(0).normal(size=(BOX,) * 3).astype(np.float32)
    write_map(folder / "x.mrc", volume, 2.0)
    patch(folder / "x.mrc", HEADER["ispg"], 0)
    patch(folder / "x.mrc", 212, [0x44, 0x41, 0, 0], "u1")
    patch(folder / "x.mrc", 108, 0)  # nversion
    np.testing.assert_array_equal(read_map(folder / "x.mrc")[0], volume)


def test_intervals_of_zero_are_no_voxel_size(folder):
    write_map(folder / "x.mrc", np.zeros((BOX,) * 3), 2.0)
    patch(folder / "x.mrc", HEADER["mx"], [0, 0, 0])
    with pytest.raises(InputError, match="no voxel size"):
        read_map(folder / "x.mrc")


def test_axes_that_are_none_have_no_origin(folder):
    write_map(folder / "x.mrc", np.zeros((BOX,) * 3), 2.0)
    patch(folder / "x.mrc", HEADER["mapc"], [1, 1, 3])
    with pytest.raises(InputError, match="the header is damaged"):
        map_origin(folder / "x.mrc")


def test_uint8_and_float64_arrays_of_other_programs(tmp_path):
    """mrcfile widens uint8 to mode 6 and refuses float64; we write float32 whatever comes."""
    images = np.arange(2 * BOX * BOX, dtype=np.uint8).reshape(2, BOX, BOX) + 100
    mrcfile.write(tmp_path / "x.mrcs", images)
    np.testing.assert_array_equal(read_images(tmp_path / "x.mrcs", np.arange(2)), images)
    write_map(tmp_path / "x.mrc", np.ones((BOX,) * 3, np.float64), 1.0)
    assert mrcfile.open(tmp_path / "x.mrc").header.mode == 2


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_stacks_of_a_star_file(folder, suffix, compress):
    images = read_particles(folder / "particles.star").images()
    (folder / f"particles.mrcs{suffix}").write_bytes(compress((folder / "particles.mrcs").read_bytes()))
    path = star.write(folder, star_text(star_columns(name=f"particles.mrcs{suffix}")))
    np.testing.assert_array_equal(read_particles(path).images(), images)


def test_files_named_like_formulas_or_markup(tmp_path, capsys):
    """Names of half maps stand in titles, tables and headers: '$' must not become mathematics, nor '<' an element."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(16,) * 3)
    names = [tmp_path / f"a$\\frac$<b>&{k}.mrc" for k in (1, 2)]
    for name in names:
        write_map(name, signal + 0.1 * rng.normal(size=(16,) * 3), 2.0)
    out = tmp_path / "out"
    assert main(["fsc", *map(str, names), "--mask", "sphere", "--out", str(out)]) == 0
    assert "frac" in (out / "fsc.svg").read_text() or (out / "fsc.svg").stat().st_size > 1000
    assert "<b>" not in (out / "fsc.xml").read_text() + (out / "fsc.svg").read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_file_that_may_not_be_read(folder, capsys):
    (folder / "particles.star").chmod(0)
    assert "particles.star: the file cannot be read" in refused(folder, capsys, folder / "particles.star")
