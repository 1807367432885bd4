"""The file system of a folder."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from speakeasyd import mounts
from speakeasyd.mounts import MountAnchor, find_deepest_mount, find_filesystem_type

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
def test_the_deepest_mount_is_used(folder: str, kind: str) -> None:
    assert find_deepest_mount(PurePosixPath(folder), MOUNTS) == kind


def test_drives_are_mounts() -> None:
    drives = [(PureWindowsPath("C:\\"), "NTFS"), (PureWindowsPath("Z:\\"), "smbfs")]
    assert find_deepest_mount(PureWindowsPath("z:\\state"), drives) == "smbfs"


def test_the_type_is_in_lower_case() -> None:
    assert (
        find_deepest_mount(PurePosixPath("/mnt/nas/in"), [(PurePosixPath("/mnt/nas"), "CIFS")])
        == "cifs"
    )


def test_the_file_system_of_this_machine_is_found(tmp_path: Path) -> None:
    assert find_filesystem_type(tmp_path)


def test_an_empty_mount_point_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = {tmp_path}
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) in mounted)
    inbox = tmp_path / "inbox"
    anchor = MountAnchor(inbox)
    assert not anchor.is_present(), "there is no such folder"
    inbox.mkdir()
    assert anchor.is_present()
    mounted.add(inbox)
    assert anchor.is_present(), "what comes late is welcome"
    mounted.remove(inbox)
    assert not anchor.is_present()
    mounted.add(inbox)
    assert anchor.is_present()


def test_a_mount_point_in_fstab_must_be_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "fstab"
    monkeypatch.setattr(mounts, "FSTAB", table)
    inbox = tmp_path / "my disk"
    inbox.mkdir()
    assert MountAnchor(inbox).is_present(), "there is no such table"
    table.write_text(
        f"# a disk\nUUID=1 / ext4 defaults 0 1\nUUID=2 none swap sw 0 0\n/dev/sdb1 {tmp_path}/other ext4\n"
    )
    assert MountAnchor(inbox).is_present()
    escaped = str(inbox).replace(" ", "\\040")
    table.write_text(f"/dev/sdb1 {escaped} ext4 noauto 0 0\n")
    assert not MountAnchor(inbox).is_present()
