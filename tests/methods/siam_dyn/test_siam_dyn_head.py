"""The dynamic head against a loop over objects."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from siam_dyn_cases import close, random

from lightning_vos.methods.siam_dyn.cells import cell_positions
from lightning_vos.methods.siam_dyn.dynamic_head import DynamicHead, HeadSettings, upsample_masks


def test_9_the_grouped_form_is_a_loop_over_objects() -> None:
    head = DynamicHead()
    assert head.numbers == 169
    assert head.weights == [80, 64, 8]
    features, theta, cells = random(5, 8, 9, 11), random(5, 169, seed=1), 8.0 * torch.arange(10).view(5, 2).double()
    out = head(features, theta, cells)
    for n in range(5):
        weights = theta[n].split([80, 64, 8, 8, 8, 1])
        y, x = torch.meshgrid(4.0 * torch.arange(9), 4.0 * torch.arange(11), indexing="ij")
        relative = torch.stack([cells[n, 0] - x, cells[n, 1] - y]).double() / 64
        hidden = torch.cat([relative, features[n]])[None]
        hidden = F.relu(F.conv2d(hidden, weights[0].view(8, 10, 1, 1), weights[3]))
        hidden = F.relu(F.conv2d(hidden, weights[1].view(8, 8, 1, 1), weights[4]))
        close(out[n], F.conv2d(hidden, weights[2].view(1, 8, 1, 1), weights[5])[0, 0], atol=1e-10)


def test_10_one_kernel_for_all_and_the_linear_form() -> None:
    features, theta = random(4, 6, 7, 7), random(1, 6 * 8 + 16 + 1 + 0, seed=1)
    head = DynamicHead(HeadSettings(mask_channels=6, layers=2, coordinates=False))
    assert head.numbers == theta.shape[1]
    cells = torch.zeros(4, 2).double()
    (first, second), (bias, last) = head.split(theta)
    plain = F.conv2d(
        F.relu(F.conv2d(features, first[0, :, :, None, None], bias[0])), second[0, :, :, None, None], last[0]
    )
    close(head(features, theta.expand(4, -1), cells), plain[:, 0])

    linear = DynamicHead(HeadSettings(mask_channels=6, layers=1, coordinates=False))
    assert linear.numbers == 7
    one = random(1, 7, seed=2)
    close(linear(features, one.expand(4, -1), cells), F.conv2d(features, one[:, :6, None, None], one[0, 6:])[:, 0])
    many = random(4, 7, seed=3)
    grouped = F.conv2d(features.reshape(1, 24, 7, 7), many[:, :6, None, None], many[:, 6], groups=4)
    close(linear(features, many, cells), grouped[0])


def test_11_zero_kernels() -> None:
    head, features, cells = DynamicHead(), random(2, 8, 5, 5), torch.zeros(2, 2).double()
    theta = torch.zeros(2, 169).double()
    assert not head(features, theta, cells).any()
    theta[:, -1] = 2
    close(torch.sigmoid(head(features, theta, cells)), torch.full((2, 5, 5), 0.880797), atol=1e-6)


def test_12_a_kernel_that_sees_coordinates_only() -> None:
    head, theta = DynamicHead(), torch.zeros(1, 169).double()
    theta[0, 0] = theta[0, 80] = theta[0, 144] = 1
    for px in (24.0, 128.0):
        cells = torch.tensor([[px, 64.0]]).double()
        expected = ((px - 4 * torch.arange(65)) / 64).clamp(min=0).expand(1, 65, 65)
        close(head(random(1, 8, 65, 65), theta, cells), expected)
        close(head(random(1, 8, 65, 65, seed=1), theta, cells), expected)


def test_13_relative_coordinates_are_zero_at_the_cell() -> None:
    cells = cell_positions(27, torch.zeros(1))
    relative = DynamicHead().relative(cells, 65, 65)
    rows = torch.arange(len(cells))
    assert not relative[rows, :, (cells[:, 1] / 4).long(), (cells[:, 0] / 4).long()].any()


def test_6_a_ramp_stays_a_ramp() -> None:
    ramp = 8 * torch.arange(33, dtype=torch.float64).expand(1, 33, 33)
    close(upsample_masks(ramp, 2), 4 * torch.arange(65.0).double().expand(1, 65, 65), atol=1e-10)
    close(upsample_masks(ramp, 8), torch.arange(257.0).double().expand(1, 257, 257), atol=1e-10)
