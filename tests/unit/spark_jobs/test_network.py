import pytest
import torch

from spark_jobs.network import Classifier, ResNet, network_from


@pytest.mark.parametrize(("image_size", "channels", "depth"), [(8, 1, 1), (32, 3, 1), (64, 3, 2)])
def test_logits_for_every_class(image_size, channels, depth):
    network = ResNet(classes=7, channels=channels, width=4, image_size=image_size, depth=depth)
    assert network(torch.zeros(2, channels, image_size, image_size)).shape == (2, 7)


def test_shortcuts_carry_the_image_past_silent_blocks():
    torch.manual_seed(0)  # some initialisations of so small a network are dead
    network = ResNet(classes=3, channels=1, width=4, image_size=8).eval()
    for name, parameter in network.named_parameters():
        if "residual" in name:
            torch.nn.init.zeros_(parameter)
    answers = network(torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]))
    assert not torch.allclose(answers[0], answers[1])


def test_width_and_depth_add_parameters():
    def parameters(width, depth):
        network = ResNet(classes=3, channels=1, width=width, image_size=8, depth=depth)
        return sum(parameter.numel() for parameter in network.parameters())

    assert parameters(4, 1) < parameters(8, 1) < parameters(8, 2)


def test_a_saved_network_answers_the_same():
    network = ResNet(classes=3, channels=1, width=4, image_size=8).eval()
    again = network_from({"configuration": network.configuration, "state": network.state_dict()})
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(network(images), again(images))
    assert torch.allclose(Classifier(again)(images).sum(dim=1), torch.ones(4))
