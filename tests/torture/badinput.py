"""What people drop by mistake or by malice, to the real engine."""

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from speakeasyd.ledger.new_jobs import display_path
from tests.conftest import SPEECH
from tests.integration.test_engine import SAMPLES
from tests.torture.place import REAL, Place
from tests.torture.real import undisturbed
from tests.torture.scenario import Run, Scenario

UNREADABLE = frozenset({"not_media", "no_audio", "no_samples", "decode_failed", "empty_file"})
OURS = {"inbox", "outbox", "state", "speakeasyd.toml", "daemon.log"}
HOSTILE = (
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
SIDECARS: Mapping[str, bytes] = {
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


def bad_input(run: Run) -> None:
    """All of it at once, among files that are well: those come through, and each of the others says why it does not."""
    sample = SAMPLES / "voice_memo.flac"
    text = undisturbed(run, [sample])[sample]
    with run.place(program=REAL, settings={"watch": {"empty_s": 1}}) as place:
        for raw in HOSTILE:
            place.drop(sample, os.fsdecode(raw), text=text)
        for name, content in SIDECARS.items():
            (place.inbox / f"{name}.flac.toml").write_bytes(content)
            bad(place, place.drop(sample, f"{name}.flac"), {"bad_sidecar"})
        with (place.inbox / "100 MB.flac.toml").open("wb") as file:
            file.truncate(100_000_000)
        bad(place, place.drop(sample, "100 MB.flac"), {"bad_sidecar"})
        bad(place, a_bomb(place, sample), {"too_long"})
        if not run.quick:
            bad(place, five_gigabytes(place), UNREADABLE)
            drop_broken(place)
        no_files(place)
        run.rounds = len(place.texts)
        place.start()
        place.wait_for_end()
        place.stop()
        if stray := {path.name for path in place.root.iterdir()} - {
            "inbox",
            "outbox",
            "state",
            "speakeasyd.toml",
            "daemon.log",
        }:
            run.complain(f"something was written outside: {stray}")


def bad(place: Place, path: Path, codes: set[str] | frozenset[str]) -> None:
    place.codes[display_path(os.fsencode(path.relative_to(place.inbox)))] = frozenset(codes)


def a_bomb(place: Place, sample: Path) -> Path:
    """A few seconds that claim to be 2**36 - 1 samples, at 16 kHz: over 1000 hours."""
    data = bytearray(sample.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    (place.root.parent / "bomb").write_bytes(data)
    return place.drop(place.root.parent / "bomb", "bomb.flac")


def five_gigabytes(place: Place) -> Path:
    """Of nothing, on no disk space."""
    with (place.root.parent / "sparse").open("wb") as file:
        file.truncate(5 * 1024**3)
    return place.adopt(place.root.parent / "sparse", "sparse.wav")


def no_files(place: Place) -> None:
    """What has the name of audio and is no file: it gets no job."""
    (place.inbox / "link.wav").symlink_to("/etc/passwd")
    (place.inbox / "up").symlink_to("..")
    (place.inbox / "folder.wav").mkdir()
    if sys.platform != "win32":
        os.mkfifo(place.inbox / "fifo.wav")
        with socket.socket(socket.AF_UNIX) as server:
            here = Path.cwd()
            os.chdir(place.inbox)  # a socket's name may not be long
            server.bind("socket.wav")
            os.chdir(here)
        if os.geteuid() == 0:
            os.mknod(place.inbox / "zero.wav", 0o020644, os.makedev(1, 5))


def drop_broken(place: Place) -> None:
    """Real files that are broken, where they are."""
    for file, expect in broken_files():
        path = place.drop(file, f"broken/{file.name}")
        if "error" in expect:
            others = {None} if "_or_" in expect else set()
            place.codes[path.relative_to(place.inbox).as_posix()] = (
                UNREADABLE | {"too_long"} | others
            )


def broken_files() -> Iterator[tuple[Path, str]]:
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
        bad_input,
        in_quick=True,
    ),
)
