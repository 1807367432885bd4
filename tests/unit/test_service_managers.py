"""What `speakeasyd service` writes and runs, for each service manager."""

import os
import plistlib
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from speakeasyd.errors import SpeakeasyError
from speakeasyd.system.managers.launchd import Launchd
from speakeasyd.system.managers.plan import (
    AwaitStart,
    AwaitStop,
    CopyFile,
    MakeFolder,
    Remove,
    Run,
    Scope,
    Service,
    ServiceManager,
    Steps,
    WriteFile,
)
from speakeasyd.system.managers.systemd import (
    SYSTEM_UNITS,
    Systemd,
    edit_unit,
    quote_command,
    quote_value,
    render_folders,
    render_unit,
)
from speakeasyd.system.managers.windows import TaskScheduler, WinSW

PROGRAM = Path("/opt/speakeasyd/venv/bin/speakeasyd")
SERVICE = Service(
    program=(str(PROGRAM),),
    config=Path("/etc/speakeasyd/speakeasyd.toml"),
    config_text="state = '/var/lib/speakeasyd'\n",
    state=Path("/var/lib/speakeasyd"),
    inboxes=(Path("/srv/speakeasyd/inbox"),),
    targets=(Path("/data/my texts"),),
)
SYSTEM = Systemd(Scope.SYSTEM, SYSTEM_UNITS)
USER = Systemd(Scope.USER, Path("/home/anna/.config/systemd/user"), "anna")


def commands(steps: Steps) -> list[str]:
    return [" ".join(step.command) for step in steps if isinstance(step, Run)]


def written(steps: Steps) -> dict[Path, WriteFile]:
    return {step.path: step for step in steps if isinstance(step, WriteFile)}


def test_a_systemd_service_of_the_system() -> None:
    steps = SYSTEM.install(SERVICE)
    assert commands(steps) == [
        "systemd-sysusers /etc/sysusers.d/speakeasyd.conf",
        "chmod -R o-rwx /var/lib/speakeasyd",
        "systemctl daemon-reload",
        "systemctl enable speakeasyd.service",
        "systemctl reset-failed speakeasyd.service",
        "systemctl restart speakeasyd.service",
    ]
    files = written(steps)
    unit = files[SYSTEM_UNITS / "speakeasyd.service"].content.decode()
    assert f"ExecStart={PROGRAM} run --config /etc/speakeasyd/speakeasyd.toml\n" in unit
    assert "\nUser=speakeasyd\n" in unit
    folders = files[SYSTEM_UNITS / "speakeasyd.service.d" / "folders.conf"].content.decode()
    assert folders == '[Service]\nReadWritePaths="-/data/my texts"\n'
    config = files[Path("/etc/speakeasyd/speakeasyd.toml")]
    assert (config.mode, config.keep) == (0o640, True)
    private = {step.path: step.mode for step in steps if isinstance(step, MakeFolder)}
    assert private[SERVICE.state] == private[Path("/etc/speakeasyd")] == 0o750


def test_a_gpu_gets_its_devices_and_their_absence_takes_them_back() -> None:
    drop_in = SYSTEM_UNITS / "speakeasyd.service.d" / "gpu.conf"
    assert drop_in not in written(SYSTEM.install(SERVICE))
    assert Remove((drop_in,)) in SYSTEM.install(SERVICE)
    on_gpu = Service(program=SERVICE.program, state=SERVICE.state, gpu=True)
    assert b"PrivateDevices=no" in written(SYSTEM.install(on_gpu))[drop_in].content


def test_a_systemd_service_of_a_user_needs_no_rights() -> None:
    steps = USER.install(Service(program=(str(PROGRAM),), state=Path("/home/anna/state")))
    assert commands(steps) == [
        "loginctl --no-ask-password enable-linger anna",
        "systemctl --user daemon-reload",
        "systemctl --user enable speakeasyd.service",
        "systemctl --user reset-failed speakeasyd.service",
        "systemctl --user restart speakeasyd.service",
    ]
    assert list(written(steps)) == [USER.definition]
    unit = written(steps)[USER.definition].content.decode()
    assert f"ExecStart={PROGRAM} run\n" in unit
    assert "WantedBy=default.target" in unit
    assert not any(line.startswith(("User=", "Protect")) for line in unit.splitlines())
    assert "Type=notify" in unit


def test_what_the_other_commands_run_under_systemd() -> None:
    assert commands(SYSTEM.start()) == ["systemctl start speakeasyd.service"]
    assert commands(USER.stop()) == ["systemctl --user stop speakeasyd.service"]
    assert commands(SYSTEM.logs(lines=7, follow=True)) == [
        "journalctl --quiet --unit=speakeasyd.service --lines=7 --follow"
    ]
    assert commands(USER.logs(lines=7, follow=False)) == [
        "journalctl --quiet --user-unit=speakeasyd.service --lines=7 --no-pager"
    ]
    [files] = [step for step in SYSTEM.uninstall() if isinstance(step, Remove)]
    assert SYSTEM.definition in files.paths
    assert SERVICE.config not in files.paths


def test_a_unit_keeps_its_other_keys_and_their_order() -> None:
    edited = edit_unit("[A]\n# why\nX=1\nX=2\nY=3\nZ=4\n", {"X": ["5", "6"], "Z": []})
    assert edited.splitlines()[1:] == ["[A]", "X=5", "X=6", "Y=3"]


@pytest.mark.parametrize(
    ("plain", "quoted"),
    [
        ("/a/b", "/a/b"),
        ("/a b", '"/a b"'),
        ("/100%", '"/100%%"'),
        ('/a"b\\c', '"/a\\"b\\\\c"'),
    ],
)
def test_words_of_a_unit_are_quoted(plain: str, quoted: str) -> None:
    assert quote_value(plain) == quoted
    assert quote_command(["/x", "$HOME"]) == "/x $$HOME"


def find_complaints(unit: Path, *, user: bool) -> str:
    scope = ["--user"] if user else []
    done = subprocess.run(
        ["systemd-analyze", *scope, "verify", unit],
        env=os.environ | {"XDG_RUNTIME_DIR": str(unit.parent)},  # it asks for one
        capture_output=True,
        text=True,
        check=False,
    )
    return "\n".join(line for line in done.stderr.splitlines() if "speakeasyd" in line)


needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


@needs_systemd
@pytest.mark.parametrize("scope", Scope)
def test_systemd_accepts_the_unit(tmp_path: Path, scope: Scope) -> None:
    program = tmp_path / "a folder with $ % and blanks" / "speakeasyd"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    service = Service(program=(str(program),), config=tmp_path / "my config", state=tmp_path)
    unit = tmp_path / "speakeasyd.service"
    unit.write_text(render_unit(service, scope))
    drop_in = tmp_path / "speakeasyd.service.d" / "folders.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(render_folders([tmp_path / "my texts", tmp_path / "100%"]))
    assert find_complaints(unit, user=scope is Scope.USER) == ""
    unit.write_text(unit.read_text() + "[Service]\nNonsense=1\n")
    assert "Nonsense" in find_complaints(unit, user=scope is Scope.USER)


@needs_systemd
def test_the_unit_is_exposed_little(tmp_path: Path) -> None:
    unit = tmp_path / "speakeasyd.service"
    unit.write_text(render_unit(SERVICE, Scope.SYSTEM))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge a file")
    assert done.returncode == 0, done.stdout[-200:]


@pytest.mark.parametrize("scope", Scope)
def test_launchd(scope: Scope) -> None:
    manager = Launchd(scope, Path("/Users/anna"), 501, "anna")
    steps = manager.install(SERVICE)
    agent = plistlib.loads(written(steps)[manager.definition].content)
    assert agent["ProgramArguments"] == list(SERVICE.command("run"))
    assert agent["StandardErrorPath"] == "/Users/anna/Library/Logs/speakeasyd.log"
    assert agent["KeepAlive"] is True
    system = scope is Scope.SYSTEM
    assert agent.get("UserName") == ("anna" if system else None)
    domain = "system" if system else "gui/501"
    assert commands(steps)[-1] == f"launchctl bootstrap {domain} {manager.definition}"
    assert commands(manager.stop()) == [f"launchctl bootout {domain}/io.speakeasyd"]
    assert commands(manager.logs(lines=9, follow=True)) == [f"tail -n 9 -f {manager.log}"]


def test_a_windows_service_needs_winsw_once(tmp_path: Path) -> None:
    with pytest.raises(SpeakeasyError, match="WinSW"):
        WinSW(tmp_path).install(SERVICE)
    winsw = tmp_path / "WinSW-x64.exe"
    manager = WinSW(tmp_path / "base", winsw)
    steps = manager.install(SERVICE)
    wrapper = tmp_path / "base" / "speakeasyd-service.exe"
    assert CopyFile(winsw, wrapper) in steps
    assert commands(steps) == [f"{wrapper} install", f"{wrapper} start"]
    definition = ET.fromstring(written(steps)[manager.definition].content)  # noqa: S314 - our own
    assert definition.findtext("executable") == str(PROGRAM)
    assert definition.findtext("arguments") == "run --config /etc/speakeasyd/speakeasyd.toml"
    assert definition.findtext("logpath") == str(tmp_path / "base" / "logs")
    assert definition.findtext("stoptimeout") == "60 sec"
    wrapper.parent.mkdir()
    wrapper.touch()
    manager.definition.touch()
    again = WinSW(tmp_path / "base").install(SERVICE)
    assert commands(again) == [f"{wrapper} {verb}" for verb in ("stop", "install", "start")]


def test_a_windows_task_stops_in_good_order(tmp_path: Path) -> None:
    manager = TaskScheduler(tmp_path, "PC\\anna")
    steps = manager.install(SERVICE)
    task = written(steps)[manager.definition].content
    assert task.startswith((b"\xff\xfe", b"\xfe\xff"))  # UTF-16
    text = task.decode("utf-16")
    assert text.count("<UserId>PC\\anna</UserId>") == 2
    assert "run-task.ps1" in text
    assert f"{PROGRAM} run --config" in text
    assert commands(steps)[-1] == "schtasks /Run /TN speakeasyd"
    assert manager.stop()[0] == AwaitStop(asks=True)


@pytest.mark.parametrize(
    "manager",
    [
        Launchd(Scope.USER, Path("/Users/anna"), 501, "anna"),
        WinSW(Path("/base"), Path("/winsw.exe")),
        TaskScheduler(Path("/base"), "PC\\anna"),
    ],
    ids=lambda manager: type(manager).__name__,
)
def test_a_manager_that_only_orders_the_start_is_followed_by_a_wait(
    manager: ServiceManager,
) -> None:
    assert manager.install(SERVICE)[-1] == AwaitStart()
    assert manager.start()[-1] == AwaitStart()


MANAGERS: list[ServiceManager] = [
    SYSTEM,
    USER,
    Launchd(Scope.USER, Path("/Users/anna"), 501, "anna"),
    WinSW(Path("/base"), Path("/winsw.exe")),
    TaskScheduler(Path("/base"), "PC\\anna"),
]


@pytest.mark.parametrize("manager", MANAGERS, ids=lambda manager: type(manager).__name__)
def test_every_manager_writes_and_removes_its_definition(manager: ServiceManager) -> None:
    assert manager.definition in written(manager.install(SERVICE))
    removed = [
        path for step in manager.uninstall() if isinstance(step, Remove) for path in step.paths
    ]
    assert manager.definition in removed
    assert manager.status()
