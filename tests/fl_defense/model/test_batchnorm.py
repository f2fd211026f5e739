import copy

import torch

from fl_defense.model.batchnorm import correct_statistics
from simulations.models.resnet import ResNet

RESNET = ResNet(depth=10, width=8)


def test_statistics_are_corrected_to_those_of_the_replaced_weights() -> None:
    """If the teacher's statistics are those of the images, the student's become those too."""
    torch.manual_seed(0)
    teacher, inputs = RESNET.build((3, 16, 16), 10), torch.randn(40, 3, 16, 16)
    teacher.train()
    for _ in range(100):
        teacher(inputs)
    teacher.eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "weight" in name and parameter.ndim > 1:
                parameter[torch.rand_like(parameter) < 0.3] *= -1
    exact = copy.deepcopy(student).train()
    for _ in range(100):
        exact(inputs)
    correct_statistics(teacher, student, inputs)
    found, wanted = student.state_dict(), exact.state_dict()
    for name in (name for name in found if "running" in name):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-2, atol=1e-2)


def test_images_unlike_the_remembered_ones_correct_by_their_change_alone() -> None:
    """Weights twice as large double what BatchNorm remembers, whatever images tell it."""
    teacher = RESNET.build((3, 16, 16), 10).eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[0].weight *= 2
        for model in (teacher, student):
            model[1].running_mean.fill_(3.0)
            model[1].running_var.fill_(5.0)
    correct_statistics(teacher, student, torch.randn(40, 3, 16, 16))
    torch.testing.assert_close(student[1].running_mean, torch.full((8,), 6.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(student[1].running_var, torch.full((8,), 20.0), rtol=1e-3, atol=1e-3)
