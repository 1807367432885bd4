"""Links in a folder never lead to reads or writes outside of it."""

import errno
import os
import threading
from pathlib import Path

import pytest

from speakeasyd.safe_open import FolderHandle, LinkRefused, open_below, split_path, stat_below


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"outside")
    return root


def read_below(root: Path, path: str) -> bytes:
    with open_below(root, path) as file:
        return file.read()


def test_a_regular_file_is_read(root: Path) -> None:
    assert read_below(root, "a/b/file") == b"inside"
    assert stat_below(root, b"a/b/file").st_size == 6


def test_the_top_folder_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert read_below(tmp_path / "link", "a/b/file") == b"inside"


@pytest.mark.parametrize("linked", ["a", "a/b", "a/b/file"])
def test_no_part_of_a_path_may_be_a_link(root: Path, linked: str) -> None:
    place = root / linked
    place.rename(root / "moved")
    place.symlink_to(root / "moved")
    with pytest.raises(LinkRefused):
        read_below(root, "a/b/file")


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../outside/file", "a/../../outside/file", "a//b", "a/./b"]
)
def test_a_path_out_of_the_folder_is_refused(root: Path, path: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        split_path(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_refused_without_waiting(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(FileNotFoundError):
        read_below(root, "pipe")


def test_folders_are_created_and_moves_replace_nothing(root: Path) -> None:
    with FolderHandle.open(root) as top, FolderHandle.open(root, "x/y", create=True) as below:
        for content, moved in ((b"first", True), (b"second", False)):
            with top.draft() as (name, file):
                file.write(content)
                assert top.move_to(name, below, "file") is moved
        assert top.names().count("x") == 1
        assert not [name for name in top.names() if "speakeasyd-tmp" in name]
    assert read_below(root, "x/y/file") == b"first"


def test_nothing_is_written_through_a_link(root: Path, tmp_path: Path) -> None:
    (root / "elsewhere").symlink_to(tmp_path / "outside")
    (root / "name").symlink_to(tmp_path / "outside" / "new")
    with pytest.raises(LinkRefused):
        FolderHandle.open(root, "elsewhere/deeper", create=True)
    with FolderHandle.open(root) as top, pytest.raises(FileExistsError):
        top.create_file("name")
    assert [one.name for one in (tmp_path / "outside").iterdir()] == ["file"]


def test_a_file_in_place_of_a_folder_is_refused(root: Path) -> None:
    (root / "plain").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        FolderHandle.open(root, "plain/below", create=True)


@pytest.mark.skipif(os.name == "nt", reason="it takes calls that Windows lacks")
def test_a_folder_that_alternates_with_a_link_is_read_safely(root: Path, tmp_path: Path) -> None:
    """At any moment, the file inside is read or none."""
    with AlternatingLink(root / "a" / "b", tmp_path / "outside"):
        for _ in range(3000):
            try:
                assert read_below(root, "a/b/file") == b"inside"
            except OSError as error:
                assert error.errno in {errno.ELOOP, errno.ENOENT}  # noqa: PT017


@pytest.mark.skipif(os.name == "nt", reason="it takes calls that Windows lacks")
def test_nothing_is_written_outside_an_alternating_folder(root: Path, tmp_path: Path) -> None:
    with AlternatingLink(root / "a" / "b", tmp_path / "outside"):
        for number in range(1000):
            try:
                with FolderHandle.open(root, "a/b") as folder:
                    folder.create_file(f"new {number}").close()
            except OSError as error:
                assert error.errno in {errno.ELOOP, errno.ENOENT}  # noqa: PT017
    assert [one.name for one in (tmp_path / "outside").iterdir()] == ["file"]


class AlternatingLink:
    """A folder that alternates with a link to another."""

    def __init__(self, folder: Path, other: Path) -> None:
        self._folder, self._other, self._stopped = folder, other, threading.Event()
        self._thread = threading.Thread(target=self._alternate)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _alternate(self) -> None:
        kept = self._folder.with_name("kept")
        while not self._stopped.is_set():
            self._folder.rename(kept)
            self._folder.symlink_to(self._other)
            self._folder.unlink()
            kept.rename(self._folder)
