"""Going on from a trained model: its weights become the first ones of another training."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..parts.errors import SettingError

Rows = Mapping[str, Sequence[str]]  # parameter -> names of its rows


@torch.no_grad()
def inherit(net: nn.Module, rows: Rows, before: nn.Module, rows_before: Rows) -> None:
    """Copy the weights of one network into another of the same settings.

    Of a parameter whose rows have names, every row that both know by name is copied; the others stay as they begin.
    Raises SettingError where a parameter has another shape and no names.
    """
    old = dict(before.named_parameters())
    for name, parameter in net.named_parameters():
        if name not in old:
            raise SettingError(f"the model to start from has no {name}", hint="start from one of the same settings")
        if name in rows:
            copy_rows(parameter, rows[name], old[name], rows_before[name])
        elif parameter.shape == old[name].shape:
            parameter.copy_(old[name])
        else:
            raise SettingError(
                f"{name} is {list(old[name].shape)} in the model to start from, and would be {list(parameter.shape)}",
                hint="start from a model of the same settings",
            )


def copy_rows(to: Tensor, names: Sequence[str], before: Tensor, names_before: Sequence[str]) -> None:
    """Row by name."""
    numbers = {name: number for number, name in enumerate(names_before)}
    known = [(place, numbers[name]) for place, name in enumerate(names) if name in numbers]
    places, sources = torch.tensor(known, dtype=torch.int64).reshape(-1, 2).T
    to[places] = before[sources]
