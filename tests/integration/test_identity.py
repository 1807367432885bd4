"""Observation and hashing of real files."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from speakeasyd.domain.debounce import AccessProblem, Observation
from speakeasyd.domain.job import Signature
from speakeasyd.errors import ErrorCode, FileFault
from speakeasyd.inbox import file_identity
from tests.conftest import PATIENCE_S

posix = pytest.mark.skipif(sys.platform == "win32", reason="files that only POSIX has")
as_user = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="nothing is denied to root"
)


def hash_file(root: Path, path: bytes, expected: Signature | None = None) -> str | AccessProblem:
    if expected is None:
        expected = Signature.of((root / os.fsdecode(path)).lstat())
    return file_identity.hash_file(root, path, expected, stopped=lambda: False)


def test_a_file_is_identified_by_its_bytes(tmp_path: Path) -> None:
    data = os.urandom(3 * 1024 * 1024 + 5)
    (tmp_path / "a.wav").write_bytes(data)
    assert hash_file(tmp_path, b"a.wav") == hashlib.sha256(data).hexdigest()
    assert file_identity.observe_file(tmp_path, b"a.wav") == Observation(
        Signature.of((tmp_path / "a.wav").stat())
    )


def test_an_observation_includes_the_sidecar(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"1")
    (tmp_path / "a.wav.toml").write_bytes(b"beam_size = 2")
    seen = file_identity.observe_file(tmp_path, b"a.wav")
    assert isinstance(seen, Observation)
    assert seen.sidecar == Signature.of((tmp_path / "a.wav.toml").stat())
    assert file_identity.read_sidecar(tmp_path, b"a.wav", seen.sidecar) == b"beam_size = 2"


KERNEL_TICK_S = 0.05  # seconds; the resolution of file times


@posix
def test_settable_times_do_not_make_a_file_older(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    own = file_identity.find_local_device(tmp_path)

    def observe_rest() -> float:
        seen = file_identity.observe_file(tmp_path, b"a.wav", own=own)
        assert isinstance(seen, Observation)
        return seen.rested

    before = time.time() - KERNEL_TICK_S
    file.write_bytes(b"1")
    os.utime(file, (0, 0))
    written = time.time()
    assert observe_rest() <= time.time() - before
    while time.time() < written + 0.2:
        assert observe_rest() <= time.time() - file.stat().st_ctime
    assert own is None or observe_rest() >= 0.2
    before = time.time() - KERNEL_TICK_S
    (tmp_path / "a.wav.toml").write_bytes(b"beam_size = 2")
    assert observe_rest() <= time.time() - before
    assert file_identity.observe_file(tmp_path, b"a.wav", own=None).rested == 0.0  # type: ignore[union-attr]


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"1")
    before = Signature.of(file.stat())
    file.write_bytes(b"22")
    assert hash_file(tmp_path, b"a.wav", before) is AccessProblem.CHANGED


def test_a_change_during_hashing_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(bytes(4 * file_identity.BLOCK))

    def write_during_hashing() -> bool:
        with file.open("ab") as other:
            other.write(b"more")
        return False

    expected = Signature.of(file.stat())
    assert (
        file_identity.hash_file(tmp_path, b"a.wav", expected, stopped=write_during_hashing)
        is AccessProblem.CHANGED
    )


def test_hashing_ends_when_the_daemon_stops(tmp_path: Path) -> None:
    with (tmp_path / "a.wav").open("wb") as file:
        file.truncate(8 * 1024**4)  # sparse; hashing it would take hours
    started = time.monotonic()
    stop = threading.Event()
    stop.set()
    signature = Signature.of((tmp_path / "a.wav").stat())
    assert (
        file_identity.hash_file(tmp_path, b"a.wav", signature, stopped=stop.is_set)
        is AccessProblem.CHANGED
    )
    assert time.monotonic() - started < PATIENCE_S


def test_a_missing_file_is_gone(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").touch()
    nothing = Signature(1, 1, 1)
    for path in (b"a.wav", b"file/a.wav", b"folder.wav"):
        assert file_identity.observe_file(tmp_path, path) is AccessProblem.GONE
        assert hash_file(tmp_path, path, nothing) is AccessProblem.GONE


@posix
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert file_identity.observe_file(tmp_path, b"pipe.wav") is AccessProblem.GONE
    assert hash_file(tmp_path, b"pipe.wav") is AccessProblem.GONE


@posix
def test_links_out_of_the_inbox_are_refused(tmp_path: Path) -> None:
    inbox, outside = tmp_path / "inbox", tmp_path / "outside"
    inbox.mkdir()
    outside.mkdir()
    (outside / "secret.wav").write_bytes(b"secret")
    (inbox / "link.wav").symlink_to(outside / "secret.wav")
    (inbox / "folder").symlink_to(outside)
    secret = Signature.of((outside / "secret.wav").stat())
    assert file_identity.observe_file(inbox, b"link.wav") is AccessProblem.GONE
    assert hash_file(inbox, b"link.wav", secret) is AccessProblem.GONE
    assert hash_file(inbox, b"folder/secret.wav", secret) is AccessProblem.GONE
    (inbox / "a.wav").touch()
    (inbox / "a.wav.toml").symlink_to(outside / "secret.wav")
    assert file_identity.observe_file(inbox, b"a.wav") == Observation(
        Signature.of((inbox / "a.wav").stat())
    )


def test_the_inbox_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.wav").write_bytes(b"1")
    try:
        (tmp_path / "inbox").symlink_to(tmp_path / "real", target_is_directory=True)
    except OSError:
        pytest.skip("links are not allowed here")
    assert hash_file(tmp_path / "inbox", b"a.wav") == hashlib.sha256(b"1").hexdigest()


@posix
def test_hostile_names_are_accepted(tmp_path: Path) -> None:
    for name in (b"a\nb.wav", b"-rf.wav", b"\xff\xfe.wav", b"n" * 251 + b".wav"):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
        assert isinstance(file_identity.observe_file(tmp_path, name), Observation)
        assert hash_file(tmp_path, name) == hashlib.sha256(name).hexdigest()


@as_user
def test_a_file_without_permission_is_denied(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"1")
    (tmp_path / "a.wav").chmod(0)
    assert hash_file(tmp_path, b"a.wav") is AccessProblem.DENIED


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs root to step down from"
)
def test_a_file_without_permission_is_denied_to_a_user(tmp_path: Path) -> None:
    """Root has all rights, so the test uses another user."""
    code = """if True:
        import os, sys
        from pathlib import Path
        from speakeasyd.domain.job import Signature
        from speakeasyd.inbox import file_identity
        root = Path(sys.argv[1])
        signature = Signature.of((root / "a.wav").stat())
        os.setuid(65534)
        print(file_identity.hash_file(root, b"a.wav", signature, stopped=lambda: False).name)
    """
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.wav").write_bytes(b"1")
    (inbox / "a.wav").chmod(0)
    for folder in (inbox, *inbox.parents):
        if folder.stat().st_uid == os.geteuid() and folder.is_relative_to(tmp_path.parents[1]):
            folder.chmod(0o755)
    answer = subprocess.run(
        [sys.executable, "-c", code, inbox], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "DENIED"


@pytest.mark.parametrize("size", [64 * 1024 + 1, 100 * 1024 * 1024])
def test_a_large_sidecar_is_not_read(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.wav").touch()
    with (tmp_path / "a.wav.toml").open("wb") as file:
        file.truncate(size)
    signature = Signature.of((tmp_path / "a.wav.toml").stat())
    with pytest.raises(FileFault, match=str(size)) as caught:
        file_identity.read_sidecar(tmp_path, b"a.wav", signature)
    assert caught.value.code is ErrorCode.BAD_SIDECAR


def test_a_changed_sidecar_delays_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert (
        file_identity.read_sidecar(tmp_path, b"a.wav", Signature(1, 1, 1)) is AccessProblem.CHANGED
    )
    (tmp_path / "a.wav.toml").write_bytes(b"22")
    assert (
        file_identity.read_sidecar(tmp_path, b"a.wav", Signature(1, 1, 1)) is AccessProblem.CHANGED
    )


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("unshare"), reason="counts open files in /proc"
)
def test_no_descriptor_remains_open(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "a.wav").write_bytes(b"1")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (b"a.wav", b"folder.wav", b"gone.wav"):
        hash_file(tmp_path, path, Signature(1, 1, 1))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
