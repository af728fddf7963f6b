"""Which file the name of a stack in metadata leads to."""

from __future__ import annotations

import pytest
from particle_files import star_columns, star_text, write_images
from test_relion import write

from gsworkbench.errors import InputError
from gsworkbench.particles.read import read_particles


class TestPaths:
    """Where stacks are looked for: the metadata's folder, the current one, datadir/path, datadir/last part."""

    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        self.metadata, self.work, self.data = (tmp_path / name for name in ("metadata", "work", "data"))
        for folder in (self.metadata, self.work, self.data / "job"):
            folder.mkdir(parents=True)
        monkeypatch.chdir(self.work)

    def read(self, name="job/x.mrcs", **options):
        return read_particles(write(self.metadata, star_text(star_columns(name=name))), **options).files

    def test_beside_the_metadata(self):
        (self.metadata / "job").mkdir()
        write_images(self.metadata / "job" / "x.mrcs")
        assert self.read() == (self.metadata / "job" / "x.mrcs",)

    def test_from_the_current_folder(self):
        (self.work / "job").mkdir()
        write_images(self.work / "job" / "x.mrcs")
        assert self.read() == (self.work / "job" / "x.mrcs",)

    def test_in_datadir_by_path_and_by_last_part(self):
        write_images(self.data / "job" / "x.mrcs")
        assert self.read(datadir=self.data) == (self.data / "job" / "x.mrcs",)
        assert self.read("other/x.mrcs", datadir=self.data / "job") == (self.data / "job" / "x.mrcs",)
        assert self.read("/gone/x.mrcs", datadir=self.data / "job") == (self.data / "job" / "x.mrcs",)

    def test_one_file_found_by_two_ways_is_no_ambiguity(self):
        write_images(self.data / "job" / "x.mrcs")
        (self.work / "job").symlink_to(self.data / "job")
        assert len(self.read(datadir=self.data)) == 1

    def test_two_different_files_are_ambiguous(self):
        (self.work / "job").mkdir()
        for folder in (self.work, self.data):
            write_images(folder / "job" / "x.mrcs")
        with pytest.raises(InputError, match=r"job/x.mrcs is ambiguous: it leads to .*work/job.* and to .*data/job"):
            self.read(datadir=self.data)

    def test_two_names_with_one_last_part_are_ambiguous(self):
        write_images(self.data / "x.mrcs")
        names = [f"{k + 1}@{folder}/x.mrcs" for k, folder in enumerate("ababab")]
        path = write(self.metadata, star_text(star_columns() | {"rlnImageName": names}))
        with pytest.raises(InputError, match=r"a/x.mrcs and b/x.mrcs both lead to"):
            read_particles(path, datadir=self.data)

    def test_datadir_must_exist(self):
        with pytest.raises(InputError, match="no such folder"):
            self.read(datadir=self.data / "gone")

    @pytest.mark.parametrize("name", ["x" * 300, "job"])  # too long a name, a folder
    def test_names_that_are_no_files_are_missing(self, name):
        with pytest.raises(InputError, match="1 of 1 image files are missing"):
            self.read(name, datadir=self.data)

    def test_link_that_leads_to_itself_is_missing(self):
        (self.metadata / "loop.mrcs").symlink_to(self.metadata / "loop.mrcs")
        with pytest.raises(InputError, match=r"missing: loop.mrcs"):
            self.read("loop.mrcs")
