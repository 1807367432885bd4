"""What a scan finds on a real filesystem, and why it leaves out the rest."""

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


def no_errors(path: bytes, error: OSError) -> None:
    raise AssertionError(path) from error


def found(root: Path, rules: InboxRules | None = None, folder: bytes = b"") -> set[bytes]:
    return {
        s.path
        for s in scan_inbox(
            root, rules or InboxRules(WatchSettings()), folder=folder, on_error=no_errors
        )
    }


def put(root: Path, *names: str | bytes) -> None:
    for name in names:
        place = root / os.fsdecode(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")


def test_audio_and_video_are_found_at_any_depth_and_the_rest_is_left_out(tmp_path: Path) -> None:
    wanted = ["a.wav", "B.MP3", "deep/er/c.m4a", "v.mkv"]
    put(
        tmp_path,
        *wanted,
        "a.wav.toml",
        "notes.txt",
        "noextension",
        ".hidden.wav",
        "x.wav.part",
        "d/._a.wav",
    )
    put(tmp_path, ".stversions/a.wav", "@eaDir/a.wav", "~lock.wav", "a.CRDOWNLOAD")
    assert found(tmp_path) == {name.encode() for name in wanted}


def test_unknown_extensions_are_tried_by_setting_but_never_sidecars_or_ignored_names(
    tmp_path: Path,
) -> None:
    put(tmp_path, "a.xyz", "noextension", "a.xyz.toml", "b.toml", "c.tmp")
    assert found(tmp_path, InboxRules(WatchSettings(unknown="try"))) == {b"a.xyz", b"noextension"}


def test_endings_that_phones_recorders_and_old_programs_write_are_taken(tmp_path: Path) -> None:
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
    put(tmp_path, *(f"a.{ending}" for ending in endings))
    assert found(tmp_path) == {f"a.{ending}".encode() for ending in endings}


def test_recycle_bins_and_snapshots_of_file_servers_are_left_alone(tmp_path: Path) -> None:
    folders = [
        "#recycle",
        "@Recycle",
        "#snapshot",
        "@Recently-Snapshot",
        "@eaDir",
        ".Trash-1000",
        "$RECYCLE.BIN",
    ]
    put(tmp_path, "a.wav", *(f"{folder}/a.wav" for folder in folders))
    assert found(tmp_path) == {b"a.wav"}


def test_a_sighting_tells_what_stat_says(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    [sighting] = scan_inbox(tmp_path, InboxRules(WatchSettings()), on_error=no_errors)
    assert sighting.signature == Signature.of((tmp_path / "a.wav").lstat())


def test_dates_and_inodes_of_any_length_fit_the_ledger(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    real = (tmp_path / "a.wav").lstat()
    strange = SimpleNamespace(
        st_size=real.st_size, st_mtime_ns=253402300799 * 10**9, st_ino=2**64 - 1
    )  # the year 9999
    signature = Signature.of(cast(os.stat_result, strange))
    assert 0 <= signature.inode < 2**63
    assert 0 <= signature.mtime_ns < 2**63


@posix
def test_names_are_kept_as_the_system_gives_them(tmp_path: Path) -> None:
    names = [
        b"a\nb.wav",
        b"-rf.wav",
        b"\xff\xfe.wav",
        b"n" * 251 + b".wav",
        "\u00e9.wav".encode(),
        b"e\xcc\x81.wav",
    ]
    put(tmp_path, *names)
    assert found(tmp_path) == set(names)


@posix
def test_links_pipes_and_sockets_are_never_followed_or_opened(tmp_path: Path) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    put(inbox, "a.wav")
    put(outside, "secret.wav")
    (inbox / "link.wav").symlink_to(outside / "secret.wav")
    (inbox / "folder").symlink_to(outside)
    (inbox / "loop").symlink_to(inbox)
    os.mkfifo(inbox / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(inbox / "s.wav"))
        assert found(inbox) == {b"a.wav"}
        assert found(inbox, folder=b"folder") == set()


def test_one_folder_can_be_scanned_alone(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "d/b.wav", "d/e/c.wav", ".hidden/d.wav")
    assert found(tmp_path, folder=b"d") == {b"d/b.wav", b"d/e/c.wav"}
    assert found(tmp_path, folder=b".hidden") == set()
    assert found(tmp_path, folder=b"gone") == set()


def test_a_missing_root_is_not_an_empty_one(tmp_path: Path) -> None:
    assert found(tmp_path) == set()
    for place in (tmp_path / "gone", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(InboxMissing, match="cannot be read"):
            list(scan_inbox(place, InboxRules(WatchSettings()), on_error=no_errors))


@as_user
def test_a_folder_that_cannot_be_read_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    put(tmp_path, "closed/a.wav", "open/b.wav")
    (tmp_path / "closed").chmod(0)
    told: list[bytes] = []
    try:
        rest = [
            s.path
            for s in scan_inbox(
                tmp_path, InboxRules(WatchSettings()), on_error=lambda path, _: told.append(path)
            )
        ]
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert (rest, told) == ([b"open/b.wav"], [b"closed"])


def test_folders_of_others_inside_the_inbox_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "in"
    inbox = InboxSettings(
        path=root,
        outbox=root / "out",
        archive=root / "done" / "archive",
        failed=tmp_path / "failed",
    )
    other = InboxSettings(name="other", path=tmp_path / "in2", outbox=root / "theirs")
    put(
        root,
        "a.wav",
        "out/b.wav",
        "done/archive/c.wav",
        "done/d.wav",
        "theirs/e.wav",
        "outer/f.wav",
    )
    rules = InboxRules.for_inbox(Settings(inboxes=(inbox, other)), inbox)
    assert found(root, rules) == {b"a.wav", b"done/d.wav", b"outer/f.wav"}
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
def test_people_are_told_why_a_file_is_left_out(path: bytes, words: str) -> None:
    reason = InboxRules(WatchSettings()).why_ignored(path)
    assert reason
    assert words in reason


def test_no_pattern_at_all_ignores_nothing() -> None:
    assert InboxRules(WatchSettings(ignore=())).why_ignored(b".a/~b.wav") is None


def test_a_huge_folder_is_read_as_it_comes(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}.wav").touch()
    tracemalloc.start()
    try:
        count = sum(
            1 for _ in scan_inbox(tmp_path, InboxRules(WatchSettings()), on_error=no_errors)
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 3000
    assert peak < 200_000


def test_a_scan_left_half_way_lets_go_of_its_folder(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b.wav")
    sightings: Iterator[object] = scan_inbox(
        tmp_path, InboxRules(WatchSettings()), on_error=no_errors
    )
    thread = threading.Thread(target=next, args=(sightings,))
    thread.start()
    thread.join()
    del sightings  # a ResourceWarning would fail the test
