import torch
from torch import nn

from fl_defense.model.counting import CountingModel


def test_images_are_counted_by_their_share_and_logits_are_the_networks() -> None:
    network = nn.Linear(4, 2)
    counted = CountingModel(network, share=0.5)
    inputs = torch.rand(6, 4)
    assert torch.equal(counted(inputs), network(inputs))
    counted(inputs[:1])
    assert counted.forward_images == 3.5


def test_it_is_in_the_networks_mode_and_sets_it() -> None:
    network = nn.Dropout().eval()
    counted = CountingModel(network)
    assert not counted.training
    counted.train()
    assert network.training
