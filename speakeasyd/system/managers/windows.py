"""Windows: a service under WinSW, which runs a console program; or a task of this user without one's rights."""

import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from speakeasyd.errors import SpeakeasyError
from speakeasyd.system.managers.plan import (
    AwaitStart,
    AwaitStop,
    CopyFile,
    MakeFolder,
    Remove,
    Run,
    Service,
    Step,
    Steps,
    WriteFile,
    find_service_files,
    write_config,
)

TASK = "speakeasyd"
TASK_NAMESPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"


@dataclass(frozen=True, slots=True)
class WinSW:
    """A service of the system. Implements `ServiceManager`."""

    base: Path
    """The folder of the wrapper, its definition and its logs."""
    winsw: Path | None = None
    """The downloaded WinSW; None: the one of an earlier installation."""

    @property
    def definition(self) -> Path:
        return self.base / "speakeasyd-service.xml"

    @property
    def _wrapper(self) -> Path:
        return self.base / "speakeasyd-service.exe"

    @property
    def _logs(self) -> Path:
        return self.base / "logs"

    def install(self, service: Service) -> Steps:
        if self.winsw is None and not self._wrapper.exists():
            raise SpeakeasyError(
                "a service of the system needs WinSW, which runs a console program as a service",
                hint=(
                    "Download WinSW-x64.exe from https://github.com/winsw/winsw/releases and give "
                    "its path: --winsw FILE. Without it: speakeasyd service install --user"
                ),
            )
        folders = (*service.inboxes, *service.targets, service.state, self._logs)
        copy: Steps = (CopyFile(self.winsw, self._wrapper),) if self.winsw else ()
        return (
            *(MakeFolder(folder) for folder in folders),
            *write_config(service),
            # An upgrade: the running wrapper cannot be replaced.
            *((self._run_wrapper("stop", may_fail=True),) if self._wrapper.exists() else ()),
            *copy,
            WriteFile(self.definition, render_winsw(service, self.base, self._logs)),
            self._run_wrapper("install", may_fail=self.definition.exists()),
            *self.start(),
        )

    def uninstall(self) -> Steps:
        return (
            self._run_wrapper("stop", may_fail=True),
            self._run_wrapper("uninstall"),
            Remove((self.definition, self._wrapper)),
        )

    def start(self) -> Steps:
        return (self._run_wrapper("start"), AwaitStart())

    def stop(self) -> Steps:
        return (self._run_wrapper("stop"),)

    def status(self) -> Steps:
        return (self._run_wrapper("status"),)

    def logs(self, *, lines: int, follow: bool) -> Steps:
        return (read_log(self._logs / "speakeasyd-service.err.log", lines=lines, follow=follow),)

    def _run_wrapper(self, verb: str, *, may_fail: bool = False) -> Run:
        return Run((str(self._wrapper), verb), may_fail=may_fail)


@dataclass(frozen=True, slots=True)
class TaskScheduler:
    """A task that starts when this user logs on. Implements `ServiceManager`."""

    base: Path
    """The folder of its definition and its log."""
    user: str
    """`DOMAIN\\name`."""

    @property
    def definition(self) -> Path:
        return self.base / "speakeasyd-task.xml"

    @property
    def _log(self) -> Path:
        return self.base / "logs" / "speakeasyd.log"

    def install(self, service: Service) -> Steps:
        return (
            *write_config(service),
            MakeFolder(self._log.parent),
            *(self.stop() if self.definition.exists() else ()),
            WriteFile(self.definition, self.render_task(service)),
            _run_schtasks("/Create", "/F", "/XML", str(self.definition)),
            *self.start(),
        )

    def render_task(self, service: Service) -> bytes:
        """Return the definition of the task, as the Task Scheduler reads it: in UTF-16."""
        contrib = find_service_files() / "windows"
        ET.register_namespace("", TASK_NAMESPACE)
        task = ET.parse(contrib / "speakeasyd-task.xml").getroot()  # noqa: S314 - our own file
        for element in task.iter(f"{{{TASK_NAMESPACE}}}UserId"):
            element.text = self.user
        arguments = [
            *("-NoProfile", "-NonInteractive", "-WindowStyle", "Hidden"),
            *("-ExecutionPolicy", "Bypass", "-File", str(contrib / "run-task.ps1")),
            *("-Log", str(self._log)),
            *("-Command", subprocess.list2cmdline(service.command("run"))),
        ]
        _set_text(task, f".//{{{TASK_NAMESPACE}}}Arguments", subprocess.list2cmdline(arguments))
        return bytes(ET.tostring(task, encoding="utf-16", xml_declaration=True))

    def uninstall(self) -> Steps:
        return (*self.stop(), _run_schtasks("/Delete", "/F"), Remove((self.definition,)))

    def start(self) -> Steps:
        """The Task Scheduler only notes the order, and says that it succeeded."""
        return (_run_schtasks("/Run"), AwaitStart())

    def stop(self) -> Steps:
        """Ask the daemon to stop: the Task Scheduler itself can only kill it."""
        return (AwaitStop(asks=True), _run_schtasks("/End", may_fail=True))

    def status(self) -> Steps:
        return (_run_schtasks("/Query", "/V", "/FO", "LIST"),)

    def logs(self, *, lines: int, follow: bool) -> Steps:
        return (read_log(self._log, lines=lines, follow=follow),)


def render_winsw(service: Service, base: Path, logs: Path) -> bytes:
    """Return the definition of the service: the one in `contrib` with the paths of this service."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))  # noqa: S314 - our own file
    file = find_service_files() / "windows" / "speakeasyd.xml"
    definition = ET.parse(file, parser).getroot()  # noqa: S314
    program, *arguments = service.command("run")
    _set_text(definition, "executable", program)
    _set_text(definition, "arguments", subprocess.list2cmdline(arguments))
    _set_text(definition, "workingdirectory", str(base))
    _set_text(definition, "logpath", str(logs))
    return bytes(ET.tostring(definition, encoding="utf-8", xml_declaration=True))


def read_log(file: Path, *, lines: int, follow: bool) -> Step:
    name = str(file).replace("'", "''")
    command = f"Get-Content -Encoding UTF8 -Tail {lines} -LiteralPath '{name}'"
    wait = " -Wait" if follow else ""
    return Run(("powershell", "-NoProfile", "-Command", command + wait))


def _run_schtasks(verb: str, *words: str, may_fail: bool = False) -> Run:
    return Run(("schtasks", verb, "/TN", TASK, *words), may_fail=may_fail)


def _set_text(root: ET.Element, path: str, text: str) -> None:
    element = root.find(path)
    if element is None:
        raise LookupError(f"the definition has no {path}")
    element.text = text
