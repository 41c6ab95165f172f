"""The compiled library: where it lies, how it is loaded, which instruction set it uses."""

import ctypes
import functools
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import holdfast

_ABI: Final = 9
_ISAS: Final = ("generic", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx")


class Library:
    """The loaded library and its entries, argument types declared once."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.dll = ctypes.CDLL(self.path)
        self.forward = self._entry("holdfast_lstm_forward", ctypes.c_void_p)
        self.backward = self._entry("holdfast_lstm_backward", ctypes.c_void_p, ctypes.c_void_p)
        self.burn = self._entry("holdfast_burn", ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        self.kept_floats = self._entry("holdfast_kept_floats", ctypes.c_void_p)
        self.scratch_bytes = self._entry("holdfast_scratch_bytes", ctypes.c_void_p, ctypes.c_int64)
        self.use_isa = self._entry("holdfast_use_isa", ctypes.c_char_p)
        self.has_isa = self._entry("holdfast_has_isa", ctypes.c_char_p)
        self.isa = self._entry("holdfast_isa", result=ctypes.c_char_p)
        self.error = self._entry("holdfast_error", ctypes.c_int64, result=ctypes.c_char_p)
        abi = self._entry("holdfast_abi")()
        if abi != _ABI:
            raise OSError(f"{path} speaks ABI {abi}, this Holdfast speaks {_ABI}: reinstall holdfast")
        wanted = os.environ.get("HOLDFAST_ISA")
        if wanted and self.isa().decode() != wanted:
            raise OSError(f"HOLDFAST_ISA={wanted} is not an instruction set of this CPU and this build")
        self._borrow_team()

    def _entry(self, name: str, *arguments: type, result: type = ctypes.c_int64) -> "ctypes._NamedFuncPointer":  # pyright: ignore[reportPrivateUsage]
        entry = self.dll[name]
        entry.argtypes = arguments
        entry.restype = result
        return entry

    def _borrow_team(self) -> None:
        """Use the OpenMP runtime that torch has mapped. A second one in the process would fight it (pytorch#98836)."""
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        for path in _mapped_openmp():
            try:
                runtime = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
                addresses = [ctypes.cast(runtime[name], ctypes.c_void_p) for name in names]
            except (OSError, AttributeError):
                continue
            borrow = self.dll["holdfast_borrow_team"]
            borrow.argtypes = [ctypes.c_void_p] * 3
            borrow.restype = None
            borrow(*addresses)
            return


def _mapped_openmp() -> list[str]:
    """Paths of the OpenMP runtimes in this process, torch's own first."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    mapped = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
    found = [path for path in mapped if Path(path).name.startswith(("libgomp", "libiomp", "libomp"))]
    return sorted(found, key=lambda path: ("torch" not in path, path))


def _library_paths() -> list[Path]:
    """Where the library may lie: an editable install keeps it in site-packages while the sources stay elsewhere."""
    named = os.environ.get("HOLDFAST_LIBRARY")
    if named:
        return [Path(named)]
    name = {"darwin": "libholdfast.dylib", "win32": "holdfast.dll"}.get(sys.platform, "libholdfast.so")
    return [Path(folder) / name for folder in holdfast.__path__]


_library: Library | None = None
_problem: str | None = None


def _load() -> Library | None:
    """Load at the first call; two threads doing so at once load the same thing twice, which is harmless."""
    global _library, _problem
    if _library is None and _problem is None:
        paths = _library_paths()
        present = [path for path in paths if path.exists()]
        if not present:
            _problem = "no native library at " + " or ".join(map(str, paths)) + " (installed without a C++ compiler?)"
            return None
        try:
            _library = Library(present[0])
        except (OSError, AttributeError) as error:
            _problem = f"the native library does not load: {error}"
    return _library


def loaded() -> Library:
    library = _library or _load()
    if library is None:
        raise RuntimeError(why_not())
    return library


def path() -> str:
    """Where the loaded library lies, for those who declare entries of their own (stream.py)."""
    return loaded().path


@functools.cache
def entry(name: str) -> Any:
    """One of the library's functions that gives a number, its arguments undeclared."""
    found = ctypes.CDLL(path())[name]
    found.restype = ctypes.c_int64
    return found


def words_for(code: int) -> str:
    """An error of the library in words."""
    return loaded().error(code).decode()


def available() -> bool:
    return _load() is not None


def why_not() -> str:
    """Why the native engine is not available, in words; empty when it is."""
    return "" if available() else str(_problem)


def multiplies_bfloat16() -> bool:
    """Whether the instruction set in use has products of bfloat16."""
    return available() and _ISAS.index(isa()) >= _ISAS.index("avx512bf16")


# torch.compile cannot read the loading of a library and need not: it takes the answers as they are. This is what
# torch.compiler.assume_constant_result does, which would import the compiler at once (1.3 s).
available._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
why_not._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
multiplies_bfloat16._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def isa() -> str:
    """The instruction set in use."""
    return loaded().isa().decode()


def isas() -> list[str]:
    """The instruction sets that this build and this CPU both have, slowest first."""
    library = loaded()
    return [name for name in _ISAS if library.has_isa(name.encode())]


def has_isa(name: str) -> bool:
    """Whether this build and this CPU have it; also "amx_emulated", which only tests want."""
    return bool(loaded().has_isa(name.encode()))


def use_isa(name: str) -> None:
    """Change the instruction set for all later calls. A `kept` buffer fits only the one that wrote it."""
    if loaded().use_isa(name.encode()):
        raise ValueError(f"instruction set {name!r} is not to be had here; there are {', '.join(isas())}")


def peak_flops(threads: int, *, halves: bool = False) -> float:
    """Floating-point operations per second of multiply-adds in registers alone: the roof for every kernel.

    `halves`: of bf16, where the instruction set in use multiplies them.
    """
    burn = loaded().burn
    best = 0.0
    for _ in range(5):  # the first run also wakes the CPU up
        start = time.perf_counter()
        done = burn(20_000_000, threads, halves)
        best = max(best, done / (time.perf_counter() - start))
    return best
