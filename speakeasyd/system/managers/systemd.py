"""systemd: a service of the system with a user of its own, or a service of this user."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from speakeasyd.system.managers.plan import (
    MakeFolder,
    Owner,
    Remove,
    Run,
    Scope,
    Service,
    Step,
    Steps,
    WriteFile,
    find_service_files,
    write_config,
)

UNIT = "speakeasyd.service"
ACCOUNT = Owner("speakeasyd", "speakeasyd")
READERS = Owner("root", "speakeasyd")  # of the configuration, which may contain secrets

SYSTEM_UNITS = Path("/etc/systemd/system")
ACCOUNT_FILE = Path("/etc/sysusers.d/speakeasyd.conf")
WRITABLE = (Path("/srv/speakeasyd"), Path("/var/lib/speakeasyd"))  # by the unit itself

NOT_FOR_USERS = (
    "After", "User", "Group", "UMask", "StateDirectory", "StateDirectoryMode", "ReadWritePaths",
    "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateMounts", "PrivateDevices", "ProtectClock",
    "ProtectProc", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
    "ProtectControlGroups", "ProtectHostname", "CapabilityBoundingSet",
)  # fmt: skip
"""Keys that a user's systemd cannot carry out, or not without user namespaces."""


@dataclass(frozen=True, slots=True)
class Systemd:
    """Implements `ServiceManager`."""

    scope: Scope
    units: Path
    """The folder of the unit files."""
    user: str = ""
    """Who calls, for a service of a user."""

    @property
    def definition(self) -> Path:
        return self.units / UNIT

    @property
    def _folders_file(self) -> Path:
        return self.units / f"{UNIT}.d" / "folders.conf"

    @property
    def _gpu_file(self) -> Path:
        return self.units / f"{UNIT}.d" / "gpu.conf"

    def install(self, service: Service) -> Steps:
        unit = WriteFile(self.definition, render_unit(service, self.scope).encode())
        begin: Steps = (
            self._run_systemctl("daemon-reload"),
            self._run_systemctl("enable", UNIT),
            self._run_systemctl(
                "reset-failed", UNIT, may_fail=True
            ),  # it may have failed too often
            self._run_systemctl("restart", UNIT),
        )
        if self.scope is Scope.USER:
            # Without it, the service runs only while the user is logged in.
            command = ("loginctl", "--no-ask-password", "enable-linger", self.user)
            linger = Run(command, may_fail=True)
            return (*write_config(service), unit, linger, *begin)
        return (*_prepare_system(service), unit, *self._write_drop_ins(service), *begin)

    def _write_drop_ins(self, service: Service) -> Iterable[Step]:
        folders = list_unwritable_folders(service)
        if folders:
            yield WriteFile(self._folders_file, render_folders(folders).encode())
        else:
            yield Remove((self._folders_file,))
        if service.gpu:
            content = (find_service_files() / "systemd" / "gpu.conf").read_bytes()
            yield WriteFile(self._gpu_file, content)
        else:
            yield Remove((self._gpu_file,))

    def uninstall(self) -> Steps:
        files = [self.definition, self._folders_file, self._gpu_file, self._gpu_file.parent]
        if self.scope is Scope.SYSTEM:
            files.append(ACCOUNT_FILE)
        return (
            self._run_systemctl("disable", "--now", UNIT, may_fail=True),
            Remove(tuple(files)),
            self._run_systemctl("daemon-reload"),
        )

    def start(self) -> Steps:
        return (self._run_systemctl("start", UNIT),)

    def stop(self) -> Steps:
        return (self._run_systemctl("stop", UNIT),)

    def status(self) -> Steps:
        return (self._run_systemctl("status", "--no-pager", "--lines=5", UNIT),)

    def logs(self, *, lines: int, follow: bool) -> Steps:
        unit = "--user-unit" if self.scope is Scope.USER else "--unit"
        command = ["journalctl", "--quiet", f"{unit}={UNIT}", f"--lines={lines}"]
        return (Run((*command, "--follow" if follow else "--no-pager")),)

    def _run_systemctl(self, *words: str, may_fail: bool = False) -> Run:
        scope = ("--user",) if self.scope is Scope.USER else ()
        return Run(("systemctl", *scope, *words), may_fail=may_fail)


def _prepare_system(service: Service) -> Iterable[Step]:
    """The user, the folders and the configuration, private to the user and its group."""
    account = (find_service_files() / "systemd" / "sysusers.conf").read_bytes()
    yield WriteFile(ACCOUNT_FILE, account)
    yield Run(("systemd-sysusers", str(ACCOUNT_FILE)))
    for folder in (*service.inboxes, *service.targets):
        yield MakeFolder(folder, 0o2775, ACCOUNT)
    if service.config:
        yield MakeFolder(service.config.parent, 0o750, READERS)
        yield from write_config(service, mode=0o640, owner=READERS)
    yield MakeFolder(service.state, 0o750, ACCOUNT)
    yield Run(("chmod", "-R", "o-rwx", str(service.state)))


def list_unwritable_folders(service: Service) -> list[Path]:
    """Return the folders that the service writes to and that the unit alone does not open to it."""
    folders = (service.state, *service.inboxes, *service.targets)
    return [
        folder
        for folder in dict.fromkeys(folders)
        if not any(folder.is_relative_to(above) for above in WRITABLE)
    ]


def render_folders(folders: Iterable[Path]) -> str:
    """Return a drop-in that lets the service write to these folders, and to those that are missing now."""
    lines = [f"ReadWritePaths={quote_value(f'-{folder}')}" for folder in folders]
    return "\n".join(["[Service]", *lines, ""])


def render_unit(service: Service, scope: Scope) -> str:
    """Return the unit: the one in `contrib` with the paths of this service."""
    contrib = find_service_files()
    text = (contrib / "systemd" / UNIT).read_text(encoding="utf-8")
    check = quote_command(service.command("config", "check"))
    values = {
        "Documentation": [quote_specifiers((contrib / "README.md").as_uri())],
        "ExecStart": [quote_command(service.command("run"))],
        "ExecReload": [check, '/bin/sh -c "kill -HUP ${MAINPID}"'],
    }
    if scope is Scope.USER:
        values |= {"WantedBy": ["default.target"]} | {key: [] for key in NOT_FOR_USERS}
    return edit_unit(text, values)


def edit_unit(text: str, values: Mapping[str, list[str]]) -> str:
    """Return a unit with these values, each key at its first place, and without comments.

    A key with no values is removed.
    """
    left = dict(values)
    lines = ["# Written by `speakeasyd service install`. For changes: systemctl edit speakeasyd"]
    for line in text.splitlines():
        key, _, _ = line.partition("=")
        if key in values:
            lines += [f"{key}={value}" for value in left.pop(key, [])]
        elif not line.startswith("#"):
            lines.append(line)
    return "\n".join(lines) + "\n"


def quote_specifiers(text: str) -> str:
    return text.replace("%", "%%")


def quote_value(text: str) -> str:
    """Quote a word of a unit file, where backslashes, quotes, blanks and `%` have a meaning."""
    escaped = quote_specifiers(text).replace("\\", "\\\\").replace('"', '\\"')
    plain = escaped == text and not any(letter.isspace() or letter in "';" for letter in text)
    return text if plain else f'"{escaped}"'


def quote_command(words: Iterable[str]) -> str:
    """Quote a command line of a unit file, where `$` has a meaning too, except in the program's path."""
    first, *rest = words
    return " ".join([quote_value(first), *(quote_value(word.replace("$", "$$")) for word in rest)])
