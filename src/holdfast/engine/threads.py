"""How many threads a call of the kernels may use."""

import os

import torch

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def allowed() -> int:
    """torch's number; one in a forked child.

    Of a team of OpenMP threads only the caller survives a fork, and libgomp would wait for the others for ever.
    """
    return 1 if _forked else torch.get_num_threads()
