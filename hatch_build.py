"""Compiles the packed network when speakeasyd is installed or its wheel is built.

Without a C compiler, the wheel is pure Python, and CTranslate2 computes alone.
"""

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from speakeasyd.engine.whisper.packed_library import SOURCES
from tools.compile_network import NotCompiled, compile_network


class CompileNetwork(BuildHookInterface):  # type: ignore[misc]
    """See https://hatch.pypa.io/latest/plugins/build-hook/custom/."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        in_place = version == "editable"
        self._built = tempfile.TemporaryDirectory()
        try:
            libraries = compile_network(SOURCES if in_place else Path(self._built.name))
        except NotCompiled as error:
            self.app.display_warning(f"CTranslate2 computes alone, which is slower: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"  # ctypes loads it: one wheel for every Python
        if not in_place:
            folder = SOURCES.relative_to(Path(__file__).parent)
            build_data["force_include"].update(
                {str(library): str(folder / library.name) for library in libraries}
            )

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._built.cleanup()
