"""The layers hold: in the imports as they are written, and in what a running parent process has loaded."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
    ("daemon.py", "to_thread"),
    ("ledger/clients.py", "self._threads.shutdown"),
    ("ledger/ledger.py", "self._readers.shutdown"),
    ("services/janitor.py", "back_up_on_schedule"),
    ("services/publisher.py", "_render_formats"),
    ("server/jobs.py", "wanted.render_file"),
    ("services/speakers.py", "apply_change"),
    ("services/speakers.py", "find_file_speakers"),
    ("server/recording.py", "parts.recorder.list_devices"),
    ("server/recording.py", "parts.recorder.start"),
    ("server/recording.py", "parts.recorder.stop"),
    ("server/service.py", "remove_stale_uploads"),
}
"""What may use the event loop's shared executor: local, bounded work, by module and function.

Its few threads serve the whole daemon, and the process waits for them at its end. Whatever waits for others (a network,
a folder that may be on a server, a device, a user's command) runs in a `ThreadGroup`.
"""


def test_only_named_local_calls_use_the_shared_executor() -> None:
    used = set()
    for file in sorted((REPOSITORY / "speakeasyd").rglob("*.py")):
        module = file.relative_to(REPOSITORY / "speakeasyd").as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in {"to_thread", "run_in_executor"}:
                used |= {(module, name) for name in _find_shared_calls(file, node)}
    assert used <= LOCAL_CALLS, used - LOCAL_CALLS


def _find_shared_calls(file: Path, used: ast.Attribute) -> Iterator[str]:
    """What is given to the shared executor here; a use that is no plain call counts by its own name."""
    for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        is_call = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        if is_call and (call.func.lineno, call.func.col_offset) == (used.lineno, used.col_offset):
            executor = call.args[0] if used.attr == "run_in_executor" else None
            if executor is None or (isinstance(executor, ast.Constant) and executor.value is None):
                yield ast.unparse(call.args[0 if executor is None else 1])
            return
    yield used.attr
