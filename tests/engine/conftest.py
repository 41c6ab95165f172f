"""Every test of the engine leaves the instruction set and the number of threads as it found them."""

from collections.abc import Iterator

import pytest
import torch

from holdfast.engine import native


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    isa, threads = native.isa() if native.available() else "", torch.get_num_threads()
    yield
    if isa:
        native.use_isa(isa)
    torch.set_num_threads(threads)
