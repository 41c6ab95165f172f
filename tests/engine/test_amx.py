"""Which machine gets AMX: one whose products by it come out right, and nobody gets the emulation unasked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from holdfast.engine import native

from .single_layer import make, needs_native, run, same_bits

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"
EMULATED = native.available() and native.has_isa("amx_emulated")
pytestmark = [needs_native, pytest.mark.skipif(not EMULATED, reason="this CPU has no AVX512-BF16 to emulate AMX with")]


def asked(isa: str) -> str:
    code = "from holdfast.engine import native; print(native.isa() if native.available() else native.why_not())"
    environment = {**os.environ, "HOLDFAST_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


@pytest.mark.skipif(EMULATED and native.has_isa("amx"), reason="this CPU has AMX")
def test_without_the_hardware_amx_is_refused() -> None:
    assert "HOLDFAST_ISA=amx is not an instruction set of this CPU" in asked("amx")
    with pytest.raises(ValueError, match=r"'amx' is not to be had here; there are generic"):
        native.use_isa("amx")


def test_the_emulation_is_there_for_the_asking_only() -> None:
    assert asked("amx_emulated") == "amx_emulated"
    assert "amx_emulated" not in (native.isa(), *native.isas())


def test_high_means_three_products_where_they_pay() -> None:
    case, found = make(4, 3, 5, 19), {}
    for isa in ("avx512bf16", "amx_emulated"):
        for precision in ("highest", "high", "medium"):
            native.use_isa(isa)
            torch.set_float32_matmul_precision(precision)
            found[isa, precision] = run(case)
    torch.set_float32_matmul_precision("highest")
    same_bits(found["avx512bf16", "highest"], found["avx512bf16", "high"])
    same_bits(found["avx512bf16", "highest"], found["amx_emulated", "highest"])
    exact, high, medium = (found["amx_emulated", name]["y"] for name in ("highest", "high", "medium"))
    assert 0 < (high - exact).abs().max() < (medium - exact).abs().max() / 50


def proof(tmp_path: Path, *how: str) -> int:
    """Compile amx_proof.cc and run it."""
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("no C++ compiler")
    flags = [f"-mavx512{feature}" for feature in ("f", "dq", "bw", "vl", "vnni", "bf16")]
    source, program = HERE / "amx_proof.cc", tmp_path / "proof"
    common = ["-std=gnu++17", "-O2", "-Wno-psabi", "-mfma", "-DHOLDFAST_X86", "-DHOLDFAST_AMX", f"-I{KERNELS}"]
    subprocess.run([compiler, *common, *flags, *how, str(source), "-o", str(program)], check=True)
    return subprocess.run([str(program)], check=False).returncode


def test_the_check_before_amx_finds_errors(tmp_path: Path) -> None:
    assert proof(tmp_path, "-DHOLDFAST_EMULATED_TILES") == 0


@pytest.mark.skipif(sys.platform != "linux" or (native.available() and native.has_isa("amx")), reason="needs SIGILL")
def test_the_instructions_themselves_are_right(tmp_path: Path) -> None:
    """The kernel as it is compiled for AMX, its instructions done one by one where the CPU refuses them."""
    assert proof(tmp_path, "-mamx-tile", "-mamx-bf16", str(HERE / "amx_instructions.cc")) == 0
