"""What a command about the service would do, as values: printed with `--dry-run`, else carried out."""

from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Protocol


class Scope(StrEnum):
    """For whom a service is installed."""

    USER = "user"
    """It runs as this user. No administrator is needed."""
    SYSTEM = "system"
    """It runs for the whole machine. Only an administrator may install it."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The user and the group of a file. None: the user who runs the command."""

    user: str
    group: str


@dataclass(frozen=True, slots=True)
class MakeFolder:
    """Create a folder with its parents. One that exists is not changed."""

    path: Path
    mode: int = 0o755
    owner: Owner | None = None


@dataclass(frozen=True, slots=True)
class WriteFile:
    path: Path
    content: bytes
    mode: int = 0o644
    owner: Owner | None = None
    keep: bool = False  # a file that exists is not changed


@dataclass(frozen=True, slots=True)
class CopyFile:
    source: Path
    target: Path


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete files, and folders that are empty, as far as they exist."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Run:
    command: tuple[str, ...]
    may_fail: bool = False


@dataclass(frozen=True, slots=True)
class AwaitStop:
    """Wait until no daemon holds the ledger. `asks`: leave it a request to stop first."""

    asks: bool = False


@dataclass(frozen=True, slots=True)
class AwaitStart:
    """Wait until a daemon holds the ledger: for service managers that only order the start."""


Step = MakeFolder | WriteFile | CopyFile | Remove | Run | AwaitStop | AwaitStart
Steps = tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is to run."""

    program: tuple[str, ...]
    """The command without arguments: the program, or an interpreter with the module's name."""
    config: Path | None = None
    """The configuration file to give it; None: it looks for one itself."""
    config_text: str = ""
    """Written to `config` if that does not exist."""
    state: Path
    inboxes: tuple[Path, ...] = ()
    targets: tuple[Path, ...] = ()
    """Folders that it writes to: outboxes, archives and folders of failed sources."""
    gpu: bool = False

    def command(self, *arguments: str) -> tuple[str, ...]:
        return (*self.program, *arguments, *(("--config", str(self.config)) if self.config else ()))


class ServiceManager(Protocol):
    """Plans what the commands do with one service manager, in one scope. Changes nothing itself."""

    @property
    def definition(self) -> Path:
        """The file that defines the service; it exists while the service is installed."""
        ...

    def install(self, service: Service) -> Steps:
        """Install, update or repair the service, then start it."""
        ...

    def uninstall(self) -> Steps:
        """Stop and remove the service. Its configuration, its ledger and its folders stay."""
        ...

    def start(self) -> Steps: ...

    def stop(self) -> Steps: ...

    def status(self) -> Steps: ...

    def logs(self, *, lines: int, follow: bool) -> Steps: ...


def find_service_files() -> Path:
    """Return the folder `contrib`: in the installed package, or in the repository."""
    installed = Path(str(resources.files("speakeasyd") / "_contrib"))
    return installed if installed.is_dir() else Path(__file__).parents[3] / "contrib"


def write_config(service: Service, *, mode: int = 0o600, owner: Owner | None = None) -> Steps:
    """Plan the configuration file, unless it exists or none is wanted."""
    if service.config is None or not service.config_text:
        return ()
    content = service.config_text.encode()
    return (WriteFile(service.config, content, mode=mode, owner=owner, keep=True),)
