"""What a scan finds in a real file system, and why it ignores the rest."""

import os
import socket
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from speakeasyd.config import InboxSettings, Settings, WatchSettings
from speakeasyd.domain.job import Signature
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.inbox.scanner import InboxMissing, scan_inbox

posix = pytest.mark.skipif(sys.platform == "win32", reason="names and files that only POSIX has")
as_user = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="nothing is denied to root"
)


def fail_on_error(path: bytes, error: OSError) -> None:
    raise AssertionError(path) from error


def scan_paths(root: Path, rules: InboxRules | None = None, folder: bytes = b"") -> set[bytes]:
    return {
        s.path
        for s in scan_inbox(
            root, rules or InboxRules(WatchSettings()), folder=folder, on_error=fail_on_error
        )
    }


def create_files(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_audio_and_video_are_found_at_any_depth(tmp_path: Path) -> None:
    wanted = ["a.wav", "B.MP3", "deep/er/c.m4a", "v.mkv"]
    create_files(
        tmp_path,
        *wanted,
        "a.wav.toml",
        "notes.txt",
        "noextension",
        ".hidden.wav",
        "x.wav.part",
        "d/._a.wav",
    )
    create_files(tmp_path, ".stversions/a.wav", "@eaDir/a.wav", "~lock.wav", "a.CRDOWNLOAD")
    assert scan_paths(tmp_path) == {name.encode() for name in wanted}


def test_unknown_extensions_are_optional(
    tmp_path: Path,
) -> None:
    create_files(tmp_path, "a.xyz", "noextension", "a.xyz.toml", "b.toml", "c.tmp")
    assert scan_paths(tmp_path, InboxRules(WatchSettings(unknown="try"))) == {
        b"a.xyz",
        b"noextension",
    }


def test_known_extensions_are_accepted(tmp_path: Path) -> None:
    endings = [
        "3gpp",
        "3g2",
        "m4r",
        "wave",
        "mpga",
        "mpa",
        "dss",
        "ds2",
        "qta",
        "qt",
        "bwf",
        "rf64",
        "f4v",
    ]
    endings += ["m4p", "amr", "awb", "caf", "ogx", "wtv", "rmvb", "sph", "MP3", "Wav"]
    create_files(tmp_path, *(f"a.{ending}" for ending in endings))
    assert scan_paths(tmp_path) == {f"a.{ending}".encode() for ending in endings}


def test_recycle_bins_and_snapshots_are_ignored(tmp_path: Path) -> None:
    folders = [
        "#recycle",
        "@Recycle",
        "#snapshot",
        "@Recently-Snapshot",
        "@eaDir",
        ".Trash-1000",
        "$RECYCLE.BIN",
    ]
    create_files(tmp_path, "a.wav", *(f"{folder}/a.wav" for folder in folders))
    assert scan_paths(tmp_path) == {b"a.wav"}


def test_a_sighting_has_the_fields_of_stat(tmp_path: Path) -> None:
    create_files(tmp_path, "a.wav")
    [sighting] = scan_inbox(tmp_path, InboxRules(WatchSettings()), on_error=fail_on_error)
    assert sighting.signature == Signature.of((tmp_path / "a.wav").lstat())


def test_large_times_and_inodes_fit_the_ledger(tmp_path: Path) -> None:
    create_files(tmp_path, "a.wav")
    real = (tmp_path / "a.wav").lstat()
    strange = SimpleNamespace(
        st_size=real.st_size, st_mtime_ns=253402300799 * 10**9, st_ino=2**64 - 1
    )  # the year 9999
    signature = Signature.of(cast(os.stat_result, strange))
    assert 0 <= signature.inode < 2**63
    assert 0 <= signature.mtime_ns < 2**63


@posix
def test_names_are_kept_as_bytes(tmp_path: Path) -> None:
    names = [
        b"a\nb.wav",
        b"-rf.wav",
        b"\xff\xfe.wav",
        b"n" * 251 + b".wav",
        "\u00e9.wav".encode(),
        b"e\xcc\x81.wav",
    ]
    create_files(tmp_path, *names)
    assert scan_paths(tmp_path) == set(names)


@posix
def test_links_pipes_and_sockets_are_never_followed_or_opened(tmp_path: Path) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    create_files(inbox, "a.wav")
    create_files(outside, "secret.wav")
    (inbox / "link.wav").symlink_to(outside / "secret.wav")
    (inbox / "folder").symlink_to(outside)
    (inbox / "loop").symlink_to(inbox)
    os.mkfifo(inbox / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(inbox / "s.wav"))
        assert scan_paths(inbox) == {b"a.wav"}
        assert scan_paths(inbox, folder=b"folder") == set()


def test_one_folder_can_be_scanned_alone(tmp_path: Path) -> None:
    create_files(tmp_path, "a.wav", "d/b.wav", "d/e/c.wav", ".hidden/d.wav")
    assert scan_paths(tmp_path, folder=b"d") == {b"d/b.wav", b"d/e/c.wav"}
    assert scan_paths(tmp_path, folder=b".hidden") == set()
    assert scan_paths(tmp_path, folder=b"gone") == set()


def test_a_missing_root_is_an_error(tmp_path: Path) -> None:
    assert scan_paths(tmp_path) == set()
    for path in (tmp_path / "gone", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(InboxMissing, match="cannot be read"):
            list(scan_inbox(path, InboxRules(WatchSettings()), on_error=fail_on_error))


@as_user
def test_an_unreadable_folder_is_reported_and_others_are_scanned(tmp_path: Path) -> None:
    create_files(tmp_path, "closed/a.wav", "open/b.wav")
    (tmp_path / "closed").chmod(0)
    reported: list[bytes] = []
    try:
        rest = [
            s.path
            for s in scan_inbox(
                tmp_path,
                InboxRules(WatchSettings()),
                on_error=lambda path, _: reported.append(path),
            )
        ]
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert (rest, reported) == ([b"open/b.wav"], [b"closed"])


def test_excluded_folders_are_ignored(tmp_path: Path) -> None:
    root = tmp_path / "in"
    inbox = InboxSettings(
        path=root,
        outbox=root / "out",
        archive=root / "done" / "archive",
        failed=tmp_path / "failed",
    )
    other = InboxSettings(name="other", path=tmp_path / "in2", outbox=root / "theirs")
    create_files(
        root,
        "a.wav",
        "out/b.wav",
        "done/archive/c.wav",
        "done/d.wav",
        "theirs/e.wav",
        "outer/f.wav",
    )
    rules = InboxRules.for_inbox(Settings(inboxes=(inbox, other)), inbox)
    assert scan_paths(root, rules) == {b"a.wav", b"done/d.wav", b"outer/f.wav"}
    assert rules.why_ignored(b"out/deep/b.wav") == "'out' is an outbox"
    assert rules.why_ignored(b"done/archive/c.wav") == "'done/archive' is an archive"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (b"a.wav.part", "'*.part' of watch.ignore"),
        (b"Talk/.Trash/a.wav", "'.Trash' matches the pattern '.*'"),
        (b"desktop.INI", "'desktop.ini'"),
        (b"a.wav.toml", "sidecar"),
        (b"a.pdf", "extension '.pdf'"),
        (b"README", "no extension"),
        (b"\xff.\xff", "'.\\\\xff'"),
    ],
)
def test_the_reason_for_an_ignored_file_is_given(path: bytes, words: str) -> None:
    reason = InboxRules(WatchSettings()).why_ignored(path)
    assert reason
    assert words in reason


def test_without_patterns_nothing_is_ignored() -> None:
    assert InboxRules(WatchSettings(ignore=())).why_ignored(b".a/~b.wav") is None


def test_a_large_folder_is_streamed(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}.wav").touch()
    tracemalloc.start()
    try:
        count = sum(
            1 for _ in scan_inbox(tmp_path, InboxRules(WatchSettings()), on_error=fail_on_error)
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 3000
    assert peak < 200_000


def test_an_abandoned_scan_closes_its_folder(tmp_path: Path) -> None:
    create_files(tmp_path, "a.wav", "b.wav")
    sightings: Iterator[object] = scan_inbox(
        tmp_path, InboxRules(WatchSettings()), on_error=fail_on_error
    )
    thread = threading.Thread(target=next, args=(sightings,))
    thread.start()
    thread.join()
    del sightings  # a ResourceWarning would fail the test
