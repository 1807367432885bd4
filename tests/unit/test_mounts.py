"""What filesystem a folder is on."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from speakeasyd.mounts import Anchor, deepest, filesystem

MOUNTS = [
    (PurePosixPath("/"), "ext4"),
    (PurePosixPath("/home"), "nfs4"),
    (PurePosixPath("/home/me/disk"), "xfs"),
    (PurePosixPath("/srv"), "autofs"),
    (PurePosixPath("/srv"), "cifs"),
]


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/home/me", "nfs4"),
        ("/home/me/disk/state", "xfs"),
        ("/homeland", "ext4"),
        ("/srv/state", "cifs"),
    ],
)
def test_the_deepest_mount_counts(folder: str, kind: str) -> None:
    assert deepest(PurePosixPath(folder), MOUNTS) == kind


def test_drives_are_mounts_too() -> None:
    drives = [(PureWindowsPath("C:\\"), "NTFS"), (PureWindowsPath("Z:\\"), "smbfs")]
    assert deepest(PureWindowsPath("z:\\state"), drives) == "smbfs"


def test_the_type_is_in_lower_case() -> None:
    assert deepest(PurePosixPath("/mnt/nas/in"), [(PurePosixPath("/mnt/nas"), "CIFS")]) == "cifs"


def test_the_disk_that_tests_run_on_is_asked_for_real(tmp_path: Path) -> None:
    assert filesystem(tmp_path)


def test_an_empty_folder_that_a_mount_left_behind_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = {tmp_path}
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) in mounted)
    inbox = tmp_path / "inbox"
    anchor = Anchor(inbox)
    assert not anchor.holds(), "there is no such folder"
    inbox.mkdir()
    assert anchor.holds()
    mounted.add(inbox)
    assert anchor.holds(), "what comes late is welcome"
    mounted.remove(inbox)
    assert not anchor.holds()
    mounted.add(inbox)
    assert anchor.holds()
