"""Which errors of the file system wait, and which fail one job."""

import errno
from pathlib import Path

import pytest

from speakeasyd.durable import to_long_path
from speakeasyd.errors import ErrorCode, FileFault, OutboxUnavailable
from speakeasyd.outbox.os_errors import is_outage, translate_os_errors


@pytest.mark.parametrize(
    "number",
    [
        "ENOSPC",
        "EROFS",
        "EACCES",
        "EPERM",
        "EIO",
        "ENOENT",
        "EMFILE",
        "EDQUOT",
        "ESTALE",
        "ENOTCONN",
    ],
)
def test_a_full_or_missing_folder_waits(number: str) -> None:
    code = getattr(errno, number, None)
    if code is None:
        pytest.skip(f"{number} is unknown here")
    error = OSError(code, "no")
    assert is_outage(error)
    with (
        pytest.raises(OutboxUnavailable, match="/out cannot be written") as outage,
        translate_os_errors(Path("/out")),
    ):
        raise error
    assert outage.value.hint


@pytest.mark.parametrize(
    "number", ["ENAMETOOLONG", "EINVAL", "ENOTDIR", "EISDIR", "EILSEQ", "EFBIG"]
)
def test_an_impossible_name_fails_the_job(number: str) -> None:
    error = OSError(getattr(errno, number), "no")
    assert not is_outage(error)
    with pytest.raises(FileFault) as refusal, translate_os_errors(Path("/out")):
        raise error
    assert refusal.value.code is ErrorCode.OUTPUT_REFUSED


def test_an_unplugged_drive_on_windows_waits() -> None:
    error = OSError(errno.EINVAL, "a device attached to the system is not functioning")
    error.winerror = 59  # type: ignore[attr-defined,unused-ignore]  # only Windows knows it
    assert is_outage(error)


@pytest.mark.parametrize(
    ("path", "long"),
    [
        ("C:\\out\\a", "\\\\?\\C:\\out\\a"),
        ("\\\\server\\share\\a", "\\\\?\\UNC\\server\\share\\a"),
        ("\\\\?\\C:\\out", "\\\\?\\C:\\out"),
    ],
)
def test_windows_gets_paths_without_a_length_limit(path: str, long: str) -> None:
    assert to_long_path(path, platform="win32") == long
    assert to_long_path(path, platform="linux") == path
