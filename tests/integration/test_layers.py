"""The layers hold: in the imports as they are written, and in what a running parent process has loaded."""

import subprocess
import sys

from tests.conftest import REPOSITORY

MODELS = {"ctranslate2", "torch", "faster_whisper", "av", "onnxruntime", "tokenizers"}


def test_imports_go_downward_only() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_parent_never_loads_the_models_libraries() -> None:
    code = "import sys, speakeasyd.daemon, speakeasyd.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not MODELS & set(loaded)
