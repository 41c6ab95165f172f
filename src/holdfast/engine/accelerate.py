"""Make every torch.nn.LSTM inside an existing model fast, and back again, without touching its weights."""

from typing import TypeVar

from torch import nn

from .module import LSTM

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def accelerate(model: AnyModule) -> AnyModule:
    """Turn every torch.nn.LSTM in ``model`` (itself included) into a holdfast.LSTM, in place; the model is returned.

    The objects stay the same ones, so parameters, optimisers, hooks and whoever holds a reference are untouched.
    Subclasses and parametrised modules are left alone: their forward may differ from torch's.
    """
    for module in model.modules():
        if type(module) is nn.LSTM:
            module.__class__ = LSTM
    return model


def restore(model: AnyModule) -> AnyModule:
    """Undo accelerate: every holdfast.LSTM becomes a torch.nn.LSTM, in place; the model is returned."""
    for module in model.modules():
        if type(module) is LSTM:
            module.__class__ = nn.LSTM  # pyright: ignore[reportAttributeAccessIssue]  the inverse of accelerate
    return model
