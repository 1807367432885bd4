"""The compilation of the packed network, with compilers that fail."""

import os
import platform
import shutil
from pathlib import Path

import pytest

from tools.compile_network import NotCompiled, compile_network

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="the compilers are shell scripts"),
    pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="there is no packed network for it"),
]


def write_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    compiler = folder / "some compiler"
    compiler.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", f"'{compiler}'")


@pytest.mark.parametrize(
    ("unknown", "compiled"),
    [("-mamx-int8", ["avx512.so", "avx2.so"]), ("-mavx512vnni", ["avx2.so"])],
)
def test_a_compiler_without_some_instructions_compiles_the_other_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unknown: str, compiled: list[str]
) -> None:
    script = f'case "$*" in *{unknown}*) echo "unknown option" >&2; exit 1;; esac; exec cc "$@"'
    write_compiler(tmp_path, monkeypatch, script)
    target = tmp_path / "target"
    target.mkdir()
    assert compile_network(target) == [target / name for name in compiled]
    assert sorted(file.name for file in target.iterdir()) == sorted(compiled)


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo 'no header' >&2; exit 1", "no header"), ("exit 3", "status 3"), ("exit 0", "No such")],
)
def test_a_compiler_that_fails_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    write_compiler(tmp_path, monkeypatch, script)
    with pytest.raises(NotCompiled, match=f"some compiler.*{reason}"):
        compile_network(tmp_path)
    assert not list(tmp_path.glob("*.so"))
