"""Drops broken and hostile files, names and sidecars; the real engine processes them."""

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from speakeasyd.ledger.new_jobs import display_path
from tests.conftest import SPEECH
from tests.integration.test_engine import SAMPLES
from tests.torture.daemon_under_test import REAL, DaemonUnderTest
from tests.torture.real_engine import transcribe_files
from tests.torture.scenario import Run, Scenario

UNREADABLE = frozenset({"not_media", "no_audio", "no_samples", "decode_failed", "empty_file"})
EXPECTED_NAMES = {"inbox", "outbox", "state", "speakeasyd.toml", "daemon.log"}
HOSTILE_NAMES = (
    b"new\nline.flac",
    b"-rf.flac",
    b"caf\xe9 (no UTF-8).flac",
    b"half a character \xed\xa0\x80.flac",
    b"a" * 250 + b".flac",  # 255 bytes
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}.flac".encode(),
    "cafe\N{COMBINING ACUTE ACCENT}.flac".encode(),
    b"CON.flac",
    b"aux.flac",
    b"COM1.x.flac",
    b"back\\slash.flac",
    b'<>:"|?*.flac',
    b"{stem}{0}%s.flac",
    b"space at the end .flac",
    b"a;rm -rf $HOME`id`.flac",
    b"\x1b[2J\x07.flac",
    "\N{RIGHT-TO-LEFT OVERRIDE}calf.flac".encode(),
    b"dotted.. folder/x.flac",
)
BAD_SIDECARS: Mapping[str, bytes] = {
    "no TOML": b"\x00\xff = [",
    "no UTF-8": b'language = "\xe9"',
    "unknown key": b"launguage = 'en'",
    "wrong value": b"beam_size = 'many'",
    "leads out": b"name = '../../out'",
    "leads out below": b"name = '{stem}/../../../out'",
    "absolute": b"name = '/tmp/out'",
    "format string": b"name = '{stem.__class__}'",
    "too deep": b"a = " + b"[" * 30_000,
}


def drop_bad_input(run: Run) -> None:
    """Drop all of them at once beside good files.

    The good ones succeed, the others fail with their codes.
    """
    sample = SAMPLES / "voice_memo.flac"
    text = transcribe_files(run, [sample])[sample]
    with run.create_daemon(program=REAL, settings={"watch": {"empty_s": 1}}) as daemon:
        for raw in HOSTILE_NAMES:
            daemon.drop_file(sample, os.fsdecode(raw), text=text)
        for name, content in BAD_SIDECARS.items():
            (daemon.inbox / f"{name}.flac.toml").write_bytes(content)
            expect_failure(daemon, daemon.drop_file(sample, f"{name}.flac"), {"bad_sidecar"})
        with (daemon.inbox / "100 MB.flac.toml").open("wb") as file:
            file.truncate(100_000_000)
        expect_failure(daemon, daemon.drop_file(sample, "100 MB.flac"), {"bad_sidecar"})
        expect_failure(daemon, create_bomb(daemon, sample), {"too_long"})
        if not run.quick:
            expect_failure(daemon, move_sparse_file_in(daemon), UNREADABLE)
            drop_broken_recordings(daemon)
        create_special_files(daemon)
        run.rounds = len(daemon.texts)
        daemon.run_until_done()
        if stray := {path.name for path in daemon.root.iterdir()} - EXPECTED_NAMES:
            run.report_violation(f"something was written outside: {stray}")


def expect_failure(daemon: DaemonUnderTest, path: Path, codes: set[str] | frozenset[str]) -> None:
    daemon.codes[display_path(os.fsencode(path.relative_to(daemon.inbox)))] = frozenset(codes)


def create_bomb(daemon: DaemonUnderTest, sample: Path) -> Path:
    """A FLAC file of a few seconds whose header claims 2**36 - 1 samples, over 1000 hours at 16
    kHz.
    """
    data = bytearray(sample.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    (daemon.root.parent / "bomb").write_bytes(data)
    return daemon.drop_file(daemon.root.parent / "bomb", "bomb.flac")


def move_sparse_file_in(daemon: DaemonUnderTest) -> Path:
    """A file of zeros that uses no disk space."""
    with (daemon.root.parent / "sparse").open("wb") as file:
        file.truncate(5 * 1024**3)
    return daemon.move_in(daemon.root.parent / "sparse", "sparse.wav")


def create_special_files(daemon: DaemonUnderTest) -> None:
    """Create links, folders and devices with names of audio files. They get no jobs."""
    (daemon.inbox / "link.wav").symlink_to("/etc/passwd")
    (daemon.inbox / "up").symlink_to("..")
    (daemon.inbox / "folder.wav").mkdir()
    if sys.platform != "win32":
        os.mkfifo(daemon.inbox / "fifo.wav")
        with socket.socket(socket.AF_UNIX) as server:
            working_folder = Path.cwd()
            os.chdir(daemon.inbox)  # the path of a socket has a length limit
            server.bind("socket.wav")
            os.chdir(working_folder)
        if os.geteuid() == 0:
            os.mknod(daemon.inbox / "zero.wav", 0o020644, os.makedev(1, 5))


def drop_broken_recordings(daemon: DaemonUnderTest) -> None:
    """Drop the broken recordings of the shared data, if there are any."""
    for file, expect in list_broken_recordings():
        path = daemon.drop_file(file, f"broken/{file.name}")
        if "error" in expect:
            others = {None} if "_or_" in expect else set()
            daemon.codes[path.relative_to(daemon.inbox).as_posix()] = (
                UNREADABLE | {"too_long"} | others
            )


def list_broken_recordings() -> Iterator[tuple[Path, str]]:
    manifest = SPEECH / "manifest.jsonl"
    if manifest.is_file():
        for line in manifest.read_text("utf-8").splitlines():
            row = json.loads(line)
            if row["kind"] == "broken" and "silence" not in row["path"]:
                yield SPEECH / row["path"], row["expect"]


SCENARIOS = (
    Scenario(
        "bad-input",
        "broken or hostile files, names and sidecars",
        drop_bad_input,
        in_quick=True,
    ),
)
