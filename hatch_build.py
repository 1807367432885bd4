"""Compiles the packed decoder when speakeasyd is installed or its wheel is built.

Without a C compiler, the wheel is pure Python, and CTranslate2 decodes alone.
"""

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from speakeasyd.engine.whisper.packed_library import SOURCE
from tools.compile_decoder import NotCompiled, compile_decoder


class CompileDecoder(BuildHookInterface):  # type: ignore[misc]
    """See https://hatch.pypa.io/latest/plugins/build-hook/custom/."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        in_place = version == "editable"
        package = SOURCE.parent
        self._built = tempfile.TemporaryDirectory()
        try:
            libraries = compile_decoder(package if in_place else Path(self._built.name))
        except NotCompiled as error:
            self.app.display_warning(f"CTranslate2 decodes, which is slower: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"  # ctypes loads it: one wheel for every Python
        if not in_place:
            folder = package.relative_to(Path(__file__).parent)
            build_data["force_include"].update(
                {str(library): str(folder / library.name) for library in libraries}
            )

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._built.cleanup()
