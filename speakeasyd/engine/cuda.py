"""NVIDIA GPUs: loads cuBLAS from its pip package and asks the driver for the memory size."""

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

_LIBRARIES = (
    ("cublasLt64_12.dll", "cublas64_12.dll")
    if sys.platform == "win32"
    else ("libcublasLt.so.12", "libcublas.so.12")
)
_FOLDER = "bin" if sys.platform == "win32" else "lib"
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def preload_cublas() -> None:
    """Load cuBLAS 12 from `nvidia-cublas-cu12`, if it is installed.

    CTranslate2 looks for the library by its bare name only. cublasLt is loaded first, since cublas
    needs it. Must run before the first call of the encoder. Raises OSError if a library cannot be
    loaded.
    """
    spec = find_spec("nvidia.cublas") if find_spec("nvidia") else None
    for folder in spec.submodule_search_locations or () if spec else ():
        for name in _LIBRARIES:
            library = Path(folder) / _FOLDER / name
            if library.exists():
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def read_total_memory(index: int) -> int:
    """Return the memory of a GPU in bytes; 0 if the driver does not report it."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return 0
    device, size = ctypes.c_int(), ctypes.c_size_t()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    )
    return 0 if failed else size.value


def release_torch_cache() -> None:
    """Free the GPU memory that torch caches, if torch is loaded in this process."""
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()
