"""What every test may ask for."""

from pathlib import Path

import pytest
import torch

# Small layers on one thread: a team of spinning threads is slow where the machine has other work. Tests of threading
# set their own number.
torch.set_num_threads(1)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the checkout; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data of ../shared/data is not on this machine")
    return SHARED_DATA
