"""`speakeasyd service`"""

import getpass
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from platformdirs import user_data_path

from speakeasyd.cli import parameters as given
from speakeasyd.cli.flags import Flags, load_settings, load_with_flags
from speakeasyd.cli.output import print_text
from speakeasyd.cli.service_steps import carry_out, describe_steps
from speakeasyd.config import Settings
from speakeasyd.config.reference import format_toml
from speakeasyd.domain.devices import CPU
from speakeasyd.errors import SpeakeasyError
from speakeasyd.setting_sources import find_file, list_candidates
from speakeasyd.system.managers.launchd import Launchd
from speakeasyd.system.managers.plan import Scope, Service, ServiceManager, Steps
from speakeasyd.system.managers.systemd import SYSTEM_UNITS, Systemd
from speakeasyd.system.managers.windows import TaskScheduler, WinSW

GPU = Path("/dev/nvidiactl")

System = Annotated[
    bool | None,
    typer.Option(
        "--system/--user", help="For the whole machine, or for this user.", show_default=False
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]

command = typer.Typer(no_args_is_help=True)


@command.command()
def install(
    *,
    system: System = None,
    inbox: given.Inbox = None,
    outbox: given.Outbox = None,
    config: given.Config = None,
    winsw: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="WinSW, for a service of the system on Windows."),
    ] = None,
    dry_run: DryRun = False,
) -> int:
    """Install, update or repair the service, and start it. It starts again with the machine or the user's session.

    Without --system or --user: for the whole machine as root, else for this user. Without a configuration file,
    one is written for a service of the system, or with --inbox and --outbox. Run it again after a change of folders.
    """
    scope = _scope_of(system) or (Scope.SYSTEM if _is_root() else Scope.USER)
    _require_rights(scope, dry_run)
    service = _describe_service(scope, config, inbox, outbox)
    steps = _find_manager(scope, winsw).install(service)
    status = _perform_steps(steps, dry_run, state=service.state)
    if status == 0 and not dry_run:
        inboxes = given.format_list(service.inboxes)
        print_text(
            f"\nspeakeasyd runs. Put audio into {inboxes}.\nThe log: speakeasyd service logs"
        )
    return status


@command.command()
def uninstall(system: System = None, dry_run: DryRun = False) -> int:
    """Stop and remove the service. Configuration, ledger, inbox and outbox stay."""
    return _perform_installed(lambda manager: manager.uninstall(), system, dry_run)


@command.command()
def start(system: System = None, dry_run: DryRun = False) -> int:
    """Start the service."""
    return _perform_installed(lambda manager: manager.start(), system, dry_run)


@command.command()
def stop(system: System = None, dry_run: DryRun = False) -> int:
    """Stop the service until `start` or the next start of the machine. Chunks in flight are finished."""
    return _perform_installed(lambda manager: manager.stop(), system, dry_run)


@command.command()
def status(system: System = None, dry_run: DryRun = False) -> int:
    """What the service manager says. For the work itself: speakeasyd status"""
    return _perform_installed(lambda manager: manager.status(), system, dry_run, silent=True)


@command.command()
def logs(
    system: System = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many.")] = 100,
    dry_run: DryRun = False,
) -> int:
    """The last lines of the log."""

    def plan(manager: ServiceManager) -> Steps:
        return manager.logs(lines=lines, follow=follow)

    return _perform_installed(plan, system, dry_run, silent=True)


def render_config(settings: Settings) -> str:
    """Return a configuration file with the folders of these settings."""
    [inbox] = settings.inboxes
    return f"""\
# The configuration of the service. To print every key with its default: speakeasyd config init --stdout
state = {format_toml(str(settings.state))}

[[inboxes]]
path = {format_toml(str(inbox.path))}
outbox = {format_toml(str(inbox.outbox))}
"""


def _perform_installed(
    plan: Callable[[ServiceManager], Steps],
    system: bool | None,
    dry_run: bool,
    *,
    silent: bool = False,
) -> int:
    """Do something with the service that is installed, else with that of this user."""
    scopes = [_scope_of(system)] if system is not None else list(Scope)
    managers = [(scope, _find_manager(scope)) for scope in scopes if scope]
    found = next((pair for pair in managers if pair[1].definition.exists()), None)
    if found is None and not dry_run:
        raise SpeakeasyError("the service is not installed", hint="speakeasyd service install")
    scope, manager = found or managers[0]
    if not silent:
        _require_rights(scope, dry_run)
    return _perform_steps(plan(manager), dry_run, silent=silent)


def _perform_steps(
    steps: Steps, dry_run: bool, *, silent: bool = False, state: Path | None = None
) -> int:
    if dry_run:
        for line in describe_steps(steps):
            print_text(line)
        return 0
    return carry_out(steps, state=state or load_settings(None).state, silent=silent)


def _scope_of(system: bool | None) -> Scope | None:
    return None if system is None else Scope.SYSTEM if system else Scope.USER


def _find_manager(scope: Scope, winsw: Path | None = None) -> ServiceManager:
    """Return the service manager of this operating system."""
    if sys.platform == "win32":
        if scope is Scope.SYSTEM:
            return WinSW(list_candidates()[1].parent, winsw)
        user = f"{os.environ.get('USERDOMAIN', '.')}\\{getpass.getuser()}"
        return TaskScheduler(user_data_path("speakeasyd", appauthor=False), user)
    if sys.platform == "darwin":
        user = os.environ.get("SUDO_USER") or getpass.getuser()
        return Launchd(scope, Path(f"~{user}").expanduser(), os.getuid(), user)
    if scope is Scope.SYSTEM:
        return Systemd(scope, SYSTEM_UNITS)
    return Systemd(scope, _find_user_units(), getpass.getuser())


def _find_user_units() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "systemd" / "user"


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def _require_rights(scope: Scope, dry_run: bool) -> None:
    if scope is Scope.SYSTEM and sys.platform != "win32" and not (_is_root() or dry_run):
        command = f"sudo {_find_program()[0]} {' '.join(sys.argv[1:])}"
        raise SpeakeasyError("only root may change a service of the system", hint=command)


def _describe_service(
    scope: Scope, config: Path | None, inbox: Path | None, outbox: Path | None
) -> Service:
    """Raises SpeakeasyError if the program cannot run as this service; ConfigError."""
    program = _find_program()
    if scope is Scope.SYSTEM and sys.platform == "linux":
        _require_reach(Path(program[0]))
    file, settings, text = _settle_configuration(scope, config, inbox, outbox)
    targets = [folder for one in settings.inboxes for folder in one.targets.values()]
    return Service(
        program=program,
        config=file,
        config_text=text,
        state=settings.state,
        inboxes=tuple(one.path for one in settings.inboxes),
        targets=tuple(dict.fromkeys(targets)),
        gpu=sys.platform == "linux" and GPU.exists() and settings.workers.device != CPU,
    )


def _settle_configuration(
    scope: Scope, config: Path | None, inbox: Path | None, outbox: Path | None
) -> tuple[Path | None, Settings, str]:
    """Return the file that the service reads, what it says, and its text if it is to be written."""
    user_file, machine_file = list_candidates()
    default = machine_file if scope is Scope.SYSTEM else user_file
    file = config or (default if default.exists() else None)
    if scope is Scope.USER:
        file = find_file(file)
    if file:
        settings = load_settings(file)
        _require_folders(file, settings, inbox, outbox)
        return file, settings, ""
    base = _system_folders() if scope is Scope.SYSTEM else {}
    flags = Flags(
        inbox=inbox or base.get("inbox"),
        outbox=outbox or base.get("outbox"),
        state=base.get("state"),
    )
    settings = load_with_flags(None, flags).settings
    if scope is Scope.USER and not (inbox or outbox):
        return None, settings, ""
    return default, settings, render_config(settings)


def _system_folders() -> dict[str, Path]:
    if sys.platform == "linux":
        data, state = Path("/srv/speakeasyd"), Path("/var/lib/speakeasyd")
    elif sys.platform == "win32":
        data = list_candidates()[1].parent
        state = data / "state"
    else:  # a daemon of macOS runs as its user, with that user's folders
        return {}
    return {"inbox": data / "inbox", "outbox": data / "outbox", "state": state}


def _require_folders(
    file: Path, settings: Settings, inbox: Path | None, outbox: Path | None
) -> None:
    """The configuration that exists decides; flags must not contradict it."""
    for key, wanted, present in (
        ("path", inbox, [one.path for one in settings.inboxes]),
        ("outbox", outbox, [one.outbox for one in settings.inboxes]),
    ):
        if wanted and wanted not in present:
            raise SpeakeasyError(
                f"{file} exists already, and no inbox in it has {key} = {format_toml(str(wanted))}",
                hint="Set it there, then run this again without --inbox and --outbox.",
            )


def _find_program() -> tuple[str, ...]:
    """Return the command of this installation: the script beside the interpreter, else the module."""
    suffix = ".exe" if sys.platform == "win32" else ""
    script = Path(sys.executable).with_name(f"speakeasyd{suffix}")
    return (str(script),) if script.exists() else (sys.executable, "-m", "speakeasyd")


def _require_reach(program: Path) -> None:
    """Raises SpeakeasyError if other users cannot run the program."""
    for place in _places_of(program):
        if not place.stat().st_mode & 0o001:
            raise SpeakeasyError(
                f"the user of the service cannot run {program}: {place} is closed to other users",
                hint=(
                    "Install speakeasyd where every user can run it, such as /opt/speakeasyd "
                    "(contrib/systemd/install.sh does that), or run: speakeasyd service install --user"
                ),
            )


def _places_of(program: Path) -> Iterator[Path]:
    """The program, its interpreter, and all folders on the way to them."""
    for path in dict.fromkeys(
        (program, Path(sys.executable), program.resolve(), Path(sys.executable).resolve())
    ):
        yield path
        yield from path.parents
