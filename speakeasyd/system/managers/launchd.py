"""launchd of macOS: an agent of this user, or a daemon of the machine that runs as this user."""

import plistlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakeasyd.system.managers.plan import (
    AwaitStart,
    AwaitStop,
    MakeFolder,
    Remove,
    Run,
    Scope,
    Service,
    Steps,
    WriteFile,
    find_service_files,
    write_config,
)

LABEL = "io.speakeasyd"


@dataclass(frozen=True, slots=True)
class Launchd:
    """Implements `ServiceManager`."""

    scope: Scope
    home: Path
    uid: int
    user: str
    """The user that the daemon runs as, also in the scope of the system."""

    @property
    def definition(self) -> Path:
        system = self.scope is Scope.SYSTEM
        folder = Path("/Library/LaunchDaemons") if system else self.home / "Library/LaunchAgents"
        return folder / f"{LABEL}.plist"

    @property
    def log(self) -> Path:
        return self.home / "Library" / "Logs" / "speakeasyd.log"

    @property
    def _domain(self) -> str:
        return "system" if self.scope is Scope.SYSTEM else f"gui/{self.uid}"

    @property
    def _target(self) -> str:
        return f"{self._domain}/{LABEL}"

    def install(self, service: Service) -> Steps:
        return (
            *write_config(service),
            MakeFolder(self.log.parent),
            WriteFile(self.definition, self.render_agent(service)),
            Run(("launchctl", "bootout", self._target), may_fail=True),  # an earlier version
            AwaitStop(),
            Run(("launchctl", "enable", self._target)),
            Run(("launchctl", "bootstrap", self._domain, str(self.definition))),
            AwaitStart(),
        )

    def render_agent(self, service: Service) -> bytes:
        """Return the property list: the one in `contrib` with the paths of this service."""
        file = find_service_files() / "macos" / f"{LABEL}.plist"
        agent: dict[str, Any] = plistlib.loads(file.read_bytes())
        agent["ProgramArguments"] = list(service.command("run"))
        agent["StandardErrorPath"] = str(self.log)
        if self.scope is Scope.SYSTEM:
            agent["UserName"] = self.user
        return plistlib.dumps(agent)

    def uninstall(self) -> Steps:
        return (
            Run(("launchctl", "bootout", self._target), may_fail=True),
            Remove((self.definition,)),
        )

    def start(self) -> Steps:
        return (
            Run(("launchctl", "bootstrap", self._domain, str(self.definition)), may_fail=True),
            Run(("launchctl", "kickstart", self._target)),
            AwaitStart(),
        )

    def stop(self) -> Steps:
        """Unload it until `start` or the next login: launchd restarts what only ends."""
        return (Run(("launchctl", "bootout", self._target)), AwaitStop())

    def status(self) -> Steps:
        return (Run(("launchctl", "print", self._target)),)

    def logs(self, *, lines: int, follow: bool) -> Steps:
        return (Run(("tail", "-n", str(lines), *(["-f"] if follow else []), str(self.log))),)
