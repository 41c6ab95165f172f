"""A stack leaves Python as an ONNX file, a whole model as a torch.export program; both answer as they did before."""

from pathlib import Path

import onnxruntime
import torch
from torch import nn

import holdfast
from holdfast.engine.onnx import export_onnx

torch.manual_seed(0)
layer = holdfast.LSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)

# The stack alone, with ragged rows: how many steps each of the three rows has is an input of the file.
export_onnx(layer, "lstm.onnx", state=False)
session = onnxruntime.InferenceSession("lstm.onnx")
x, lengths = torch.randn(3, 10, 8), torch.tensor([10, 4, 7])
y, h, c = session.run(None, {"x": x.numpy(), "lengths": lengths.numpy()})
packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
with torch.no_grad():
    ours, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True)
apart = (torch.from_numpy(y) - ours).abs().max().item()
print(f"lstm.onnx: {Path('lstm.onnx').stat().st_size} bytes, {apart:.1e} from the module: {apart < 1e-5}")


class Tagger(nn.Module):
    """A model with a stack inside."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = layer, nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # x [batch, time, 8]
        return self.head(self.lstm(x)[0])


# The whole model, for any batch and time.
model = Tagger().eval()
dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}
program = torch.export.export(model, (x,), dynamic_shapes={"x": dims})
torch.export.save(program, "model.pt2")
loaded = torch.export.load("model.pt2").module()
other = torch.randn(2, 23, 8)
apart = (loaded(other) - model(other)).abs().max().item()
print(f"model.pt2: at another batch and time {apart:.1e} from the model: {apart < 1e-5}")
