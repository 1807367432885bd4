"""The layers hold in the source and in what a parent process has loaded."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

MODELS = {"ctranslate2", "torch", "faster_whisper", "av", "onnxruntime", "tokenizers"}


def test_imports_go_downward_only() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_parent_never_loads_the_models_libraries() -> None:
    code = "import sys, speakeasyd.daemon, speakeasyd.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not MODELS & set(loaded)


LOCAL_CALLS = {
    ("daemon.py", "import_module"),
    ("services/janitor.py", "back_up_on_schedule"),
    ("services/speakers.py", "apply_change"),
    ("services/speakers.py", "find_file_speakers"),
    ("server/app.py", "FileResponse"),  # both serve files of the installed package
    ("server/app.py", "StaticFiles"),
    ("server/status.py", "find_daemon"),
}
"""What may use the event loop's shared executor or anyio's threads: local, bounded work, by module and function.

Their few threads serve the whole daemon, and the process waits for them at its end. Whatever waits for others (a
network, a folder that may be on a server, a device, a user's command) runs in a `ThreadGroup`.
"""

SHARED = {
    *("to_thread", "run_in_executor", "set_default_executor"),
    *(
        "getaddrinfo",
        "getnameinfo",
        "open_connection",
        "create_connection",
        "create_datagram_endpoint",
    ),
    *("run_in_threadpool", "iterate_in_threadpool", "start_blocking_portal"),
    *(
        "FileResponse",
        "StaticFiles",
        "UploadFile",
        "File",
        "Form",
        "BackgroundTask",
        "BackgroundTasks",
    ),
    *("Jinja2Templates", "WSGIMiddleware", "SpooledTemporaryFile"),
}
"""Names of asyncio, anyio and starlette whose calls run in shared threads, name look-ups included.
"""

OTHER_PROCESSES = {"cli", "engine", "connection.py", "driver.py", "slots.py"}
"""Packages and modules outside the daemon's event loop; the modules are of the Ray driver."""


def test_only_named_local_calls_use_the_shared_executor() -> None:
    used = {
        (file.relative_to(REPOSITORY / "speakeasyd").as_posix(), name)
        for file in sorted((REPOSITORY / "speakeasyd").rglob("*.py"))
        if OTHER_PROCESSES.isdisjoint(file.relative_to(REPOSITORY / "speakeasyd").parts)
        for name in _find_shared_calls(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert used == LOCAL_CALLS


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("await asyncio.to_thread(read, path)", {"read"}),
        ("await loop.run_in_executor(None, look.up, name)", {"look.up"}),
        ("await loop.run_in_executor(executor=None, func=read)", {"run_in_executor"}),
        ("await loop.run_in_executor(self._threads, read)", set()),
        ("run = asyncio.to_thread", {"to_thread"}),
        ("from asyncio import to_thread as thread", {"to_thread"}),
        ("from starlette.concurrency import run_in_threadpool", {"run_in_threadpool"}),
        ("await anyio.to_thread.run_sync(read)", {"to_thread"}),
        ("import anyio", {"anyio"}),
        ("from anyio import Path", {"anyio"}),
        ("await loop.getaddrinfo(host, port)", {"host"}),
        ("form = await request.form()", {"request.form"}),
    ],
)
def test_every_way_to_the_shared_executor_is_found(source: str, found: set[str]) -> None:
    tree = ast.parse(f"async def main():\n    {source}")
    assert set(_find_shared_calls(tree)) == found


def _find_shared_calls(tree: ast.Module) -> Iterator[str]:
    """Return what runs in shared threads. A use that is not a plain call counts by its name."""
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="form", value=ast.Name(id="request")):
                yield "request.form"
            case ast.Attribute(attr="run_in_executor") if call := calls.get(id(node)):
                yield from _find_executor_call(call)
            case ast.Attribute(attr=name) if name in SHARED:
                call = calls.get(id(node))
                yield ast.unparse(call.args[0]) if call and call.args else name
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] == "anyio":
                yield "anyio"
            case ast.Import(names=names):
                yield from ("anyio" for one in names if one.name.partition(".")[0] == "anyio")
            case ast.ImportFrom(names=names):
                yield from (one.name for one in names if one.name in SHARED)


def _find_executor_call(call: ast.Call) -> Iterator[str]:
    match call.args:
        case [ast.Constant(value=None), function, *_]:
            yield ast.unparse(function)
        case []:
            yield "run_in_executor"


def test_no_endpoint_and_no_dependency_runs_in_a_shared_thread() -> None:
    """FastAPI runs functions that are not coroutines in anyio's threads."""
    checked = 0
    for file in sorted((REPOSITORY / "speakeasyd" / "server").glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)}
        for name in _find_handlers(tree):
            assert isinstance(functions.get(name), ast.AsyncFunctionDef), f"{file.name}: {name}"
            checked += 1
    assert checked > 30


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _find_handlers(tree: ast.Module) -> Iterator[str]:
    """Return the names of functions that FastAPI calls: endpoints, dependencies, error handlers."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield from (name for one in node.decorator_list if _is_of_router(one))
            case ast.Call(func=ast.Name(id="Depends" | "Security"), args=[what, *_]):
                yield ast.unparse(what)
            case ast.Call(func=ast.Attribute(attr="add_exception_handler"), args=[_, what]):
                yield ast.unparse(what)
            case ast.Call(func=ast.Call() as made, args=[what]) if _is_of_router(made):
                yield ast.unparse(what)


def _is_of_router(made: ast.expr) -> bool:
    """Whether it is `router.get(...)`, `app.get(...)` or similar."""
    match made:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="router" | "app" | "api"))):
            return True
    return False


SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|PRAGMA)\s",
    re.DOTALL,
)
SQL_IN_TEXTS = {"cli/sql.py"}
"""Modules with SQL that is shown to users and not run."""


def test_only_the_ledger_has_sql() -> None:
    """All other packages call the queries of the ledger."""
    found = {
        (module, text)
        for file in sorted((REPOSITORY / "speakeasyd").rglob("*.py"))
        if (module := file.relative_to(REPOSITORY / "speakeasyd").as_posix()) not in SQL_IN_TEXTS
        if not module.startswith("ledger/")
        for text in _find_strings(file)
        if SQL.search(text)
    }
    assert not found


def _find_strings(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.JoinedStr():
                yield ast.unparse(node)
            case ast.Constant(value=str(text)):
                yield text
