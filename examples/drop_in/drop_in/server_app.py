import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from drop_in.task import Net
from fl_defense import DHBE, Attribution, ModelSpec, Pixels, SanitizingStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    pixels = Pixels(mean=(0.3,), std=(0.4,))  # as your clients normalize
    spec = ModelSpec(build=Net, input_shape=(1, 8, 8), num_classes=10, pixels=pixels)
    strategy = SanitizingStrategy(FedAvg(), DHBE.per_round(), spec, screens=[Attribution()])
    result = strategy.start(grid, ArrayRecord(Net().state_dict()), num_rounds=3)
    torch.save(result.arrays.to_torch_state_dict(), "repaired.pt")
