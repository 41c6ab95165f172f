"""A trained model: what a user holds, and one file on disk."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, final

import torch
from torch import nn

from ..parts import settings
from ..parts.errors import ModelFileError, SettingError
from . import model_file
from .application import Application, Batch, Codec, Encoded, Example, Output, Piece, Scores, Source, Stream

Card = dict[str, Any]  # where a model comes from: data, scores, seed, versions; JSON values only


@final
class Model(Generic[Example, Codec, Encoded, Batch, Output, Piece]):
    """An application with what it learned. Immutable in use: predicting changes nothing."""

    def __init__(
        self,
        application: Application[Example, Codec, Encoded, Batch, Output, Piece],
        codec: Codec,
        net: nn.Module,
        card: Card,
    ) -> None:
        self.application = application
        self.codec = codec
        self.net = net.eval()
        self.card = card

    def __repr__(self) -> str:
        weights = sum(p.numel() for p in self.net.parameters())
        return f"Model({self.application}, {weights:,} weights)"

    def predict(self, source: Source) -> list[Output]:
        """One output per example of a path, a data frame or a list of examples."""
        with torch.inference_mode():
            return self.application.predict(self.net, self.codec, self.application.examples(source))

    def evaluate(self, source: Source) -> Scores:
        """Scores on examples with answers: the model's row first, then the trivial baselines'."""
        with torch.inference_mode():
            return self.application.evaluate(self.net, self.codec, self.application.examples(source))

    def stream(self) -> Stream[Piece, Output]:
        """A live stream: push pieces, get outputs."""
        return self.application.stream(self.net, self.codec)

    def rows(self, outputs: Sequence[Output]) -> list[dict[str, Any]]:
        """Outputs as rows of a table."""
        return self.application.rows(outputs)

    def using(self, **changed: Any) -> "Model[Example, Codec, Encoded, Batch, Output, Piece]":
        """The same model with other settings of the kind that may change in use (a level, a number of windows)."""
        kind = type(self.application)
        settings.check_names(kind, changed)
        for name in changed:
            if not kind.__dataclass_fields__[name].metadata.get("use"):
                raise SettingError(f"{name} was fixed when the model was trained", hint="train again to change it")
        return Model(replace(self.application, **changed), self.codec, self.net, self.card)

    def save(self, path: str | Path) -> None:
        """Write the model to one file, whole or not at all. The same model gives the same bytes."""
        arrays: dict[str, Any] = {}
        header = {**describe(self.application, self.codec, arrays), "card": self.card}
        tensors = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        tensors |= {f"codec.{name}": torch.from_numpy(array) for name, array in arrays.items()}
        model_file.write(Path(path), "model", header, tensors)


def describe(
    application: Application[Any, Any, Any, Any, Any, Any], codec: Any, arrays: dict[str, Any]
) -> dict[str, Any]:
    """Application, settings and codec as JSON; the codec's arrays go to ``arrays``."""
    return {
        "application": application.task,
        "settings": settings.to_json(application, {}),
        "codec": settings.to_json(codec, arrays),
    }


def load(path: str | Path, resolve: Callable[[str], type]) -> Model[Any, Any, Any, Any, Any, Any]:
    """Open a model file. ``resolve`` gives the application class of a task, KeyError for an unknown one.

    Raises ModelFileError where the file is missing, damaged, foreign, of a later format, or does not fit its settings.
    """
    path = Path(path)
    contents = model_file.read(path, "model")
    try:
        kind = resolve(contents.header["application"])
        application = settings.from_json(kind, contents.header["settings"], {})
        arrays = {name: tensor.numpy() for name, tensor in contents.under("codec.").items()}
        codec = settings.from_json(application.codec_type, contents.header["codec"], arrays)
        card = dict(contents.header["card"])
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise ModelFileError(f"{path} does not describe a model this Holdfast knows: {error}") from None
    with torch.device("meta"):  # shapes from the settings alone; memory only once the file has proved to hold the data
        net = application.network(codec)
    model_file.fill(net, contents.under("net."), path)
    return Model(application, codec, net, card)


def versions() -> dict[str, str]:
    """What a result depends on besides data and seed."""
    from .. import __version__

    return {"holdfast": __version__, "torch": torch.__version__, "python": platform.python_version()}
