import pytest
import torch
from torch import nn

from benchmarks.controls import FreeEagleFineTuning
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import apply_sanitizer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]
)
def test_the_head_is_trained_where_the_model_is(
    device: str, tiny_model: nn.Module, tiny_spec: ModelSpec
) -> None:
    control = FreeEagleFineTuning(dummies_per_class=2, steps=2)
    model = tiny_model.to(device)
    result = apply_sanitizer(control, model, tiny_spec)
    changed = [
        name
        for name, value in result.model.state_dict().items()
        if not torch.equal(value, model.state_dict()[name])
    ]
    assert changed
    assert len(changed) < len(list(model.state_dict()))
    assert all(value.device.type == device for value in result.model.state_dict().values())
