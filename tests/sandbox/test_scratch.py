"""What a session without a file system of its own leaves on the disk is removed whole."""

import os

from palestra.sandbox.local.scratch import remove_tree


def test_deeper_than_python_recurses_and_a_path_is_long(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("deep" * 9, dir_fd=here)
        below = os.open("deep" * 9, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(str(folder))
    assert not folder.exists()


def test_folders_that_nobody_may_list_and_files_nobody_may_write(tmp_path):
    folder = tmp_path / "folder"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "c").mkdir()
    (folder / "a" / "b" / "file").write_text("x")
    (folder / "a" / "b" / "file").chmod(0)
    (folder / "link").symlink_to(tmp_path)
    (folder / "a" / "b").chmod(0)
    (folder / "a").chmod(0o300)
    (tmp_path / "kept").write_text("x")
    remove_tree(str(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_is_not_there_is_no_error(tmp_path):
    remove_tree(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("x")
    remove_tree(str(tmp_path / "file"))
    assert (tmp_path / "file").exists()
