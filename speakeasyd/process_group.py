"""A child process in a process group, which is killed as a whole."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import uuid
import weakref
from collections.abc import Callable

import psutil

MARK = "SPEAKEASYD_PROCESS_GROUP"  # environment variable of the command and its descendants

if sys.platform == "win32":
    _KILL_ON_JOB_CLOSE = 0x2000
    _EXTENDED_LIMIT_INFORMATION = 9

    class _BasicLimits(ctypes.Structure):
        _fields_ = (
            ("PerProcessUserTimeLimit", ctypes.c_int64),
            ("PerJobUserTimeLimit", ctypes.c_int64),
            ("LimitFlags", ctypes.c_uint32),
            ("MinimumWorkingSetSize", ctypes.c_size_t),
            ("MaximumWorkingSetSize", ctypes.c_size_t),
            ("ActiveProcessLimit", ctypes.c_uint32),
            ("Affinity", ctypes.c_size_t),
            ("PriorityClass", ctypes.c_uint32),
            ("SchedulingClass", ctypes.c_uint32),
        )

    class _ExtendedLimits(ctypes.Structure):
        _fields_ = (
            ("BasicLimitInformation", _BasicLimits),
            ("IoInfo", ctypes.c_uint64 * 6),
            ("ProcessMemoryLimit", ctypes.c_size_t),
            ("JobMemoryLimit", ctypes.c_size_t),
            ("PeakProcessMemoryUsed", ctypes.c_size_t),
            ("PeakJobMemoryUsed", ctypes.c_size_t),
        )

    def _make_killer(process: subprocess.Popen[bytes]) -> Callable[[], None]:
        """Put the process into a job object. Returns a function that ends all its processes."""
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.CreateJobObjectW.restype = ctypes.c_void_p
        job = ctypes.c_void_p(kernel.CreateJobObjectW(None, None))
        limits = _ExtendedLimits()
        limits.BasicLimitInformation.LimitFlags = _KILL_ON_JOB_CLOSE
        size = ctypes.sizeof(limits)
        kernel.SetInformationJobObject(job, _EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), size)
        kernel.AssignProcessToJobObject(job, ctypes.c_void_p(int(process._handle)))

        def kill() -> None:
            _kill_children(process.pid)
            kernel.TerminateJobObject(job, 1)

        weakref.finalize(process, kernel.CloseHandle, job)
        return kill

    def _kill_children(pid: int) -> None:
        """Kill children that started before the process was put into its job object."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            for process in [*parent.children(recursive=True), parent]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

else:

    def _make_killer(process: subprocess.Popen[bytes]) -> Callable[[], None]:
        def kill() -> None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

        return kill


class ProcessGroup:
    """Starts a command in its own process group; on Windows, in a job object.

    Raises OSError or ValueError if it cannot be started. `kill` ends every process that the command
    started, also background processes. It may be called several times, while or after the command
    runs.
    """

    def __init__(self, command: list[str], *, environment: dict[str, str], stderr: int) -> None:
        self._mark = uuid.uuid4().hex
        self._others = set(psutil.pids())
        self.process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - the administrator chose the command
            command,
            env={**environment, MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        self._kill_group = _make_killer(self.process)

    def kill(self) -> None:
        self._kill_group()
        if sys.platform != "win32":
            self._kill_marked()

    def _kill_marked(self) -> None:
        """Kill processes that created a session of their own: they have the mark, too."""
        while new := set(psutil.pids()) - self._others:
            self._others |= new
            for pid in new:
                with contextlib.suppress(psutil.Error, OSError):
                    process = psutil.Process(pid)
                    if process.environ().get(MARK) == self._mark:
                        process.kill()
