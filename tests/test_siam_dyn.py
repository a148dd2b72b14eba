"""SiamDyn against plain loops and the numerical invariants of its specification (numbers in the names of the tests)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import small, squares
from torch import Tensor, nn
from torchvision.models import resnet50

from lightning_vos import SiamDyn
from lightning_vos.blocks.backbone import Backbone
from lightning_vos.frame_callback import TargetTracker
from lightning_vos.functional import merge_by_maximum, one_hot
from lightning_vos.methods.siam_dyn.crop import (
    Target,
    crop_frames,
    crop_masks,
    crop_templates,
    offsets,
    paste,
    target_of,
    to_frame,
    to_window,
)
from lightning_vos.methods.siam_dyn.dynamic_head import DynamicHead, upsample
from lightning_vos.methods.siam_dyn.losses import best_positives, detection_losses, dice, mask_losses
from lightning_vos.methods.siam_dyn.network import (
    Prediction,
    SiameseNetwork,
    cell_positions,
    depthwise_correlation,
)
from lightning_vos.methods.siam_dyn.pairs import DRAWS, NOTHING, SPOIL, draw, make_pairs, map_size, previous_masks
from lightning_vos.methods.siam_dyn.targets import (
    CellTargets,
    box_distances,
    cell_targets,
    centre_of_mass,
    centreness,
    distances_to_box,
)
from lightning_vos.methods.siam_dyn.tracking import Choice, change_penalty, choose, follow, hann, largest_components
from lightning_vos.types import Clip, ClipBatch

UNIT = 128


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def target(x: float, y: float, width: float, height: float) -> Target:
    """One target ``(1, 1)``."""
    return Target(*(torch.tensor([[pair]], dtype=torch.float64) for pair in ((x, y), (width, height))))


def close(actual: Tensor, expected: Tensor | list | float, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=0, atol=atol)


def rectangle(height: int, width: int, x: int, y: int, w: int, h: int) -> Tensor:
    """``(1, 1, H, W)`` bool with the given first column and row, width and height."""
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    mask[..., y : y + h, x : x + w] = True
    return mask


def predicted(
    cls: float = 4.0, ctr: float = 4.0, size: int = 11, mask: Tensor | None = None, box: float = 16.0
) -> Prediction:
    """What a network might say of one window of 129: constant maps; a mask ``(33, 33)`` of logits through theta."""
    constant = torch.full((1, size, size), 1.0)
    theta = torch.zeros(1, 169, size, size)
    theta[:, 2], theta[:, 80], theta[:, 144] = 1, 1, 1  # h1 = relu(F_0), h2 = relu(h1_0), logit = h2_0 + b3
    theta[:, 168] = -1
    features = torch.zeros(1, 8, 33, 33) if mask is None else F.pad(mask.float()[None, None] * 2, (0, 0, 0, 0, 0, 7))
    return Prediction(
        cls * constant, ctr * constant, box * constant.unsqueeze(1).expand(1, 4, size, size), theta, features
    )


# ------------------------------------------------------------------------------------------------ geometry


def test_1_a_window_of_128_is_a_slice() -> None:
    frame = uniform(1, 3, 300, 340)
    place = target(150, 140, 64, 64)
    assert place.side.item() == 128
    close(crop_frames(frame, place, UNIT, 257), frame[..., 140 - 128 : 140 + 129, 150 - 128 : 150 + 129])
    single = crop_frames(frame.float(), Target(*(x.float() for x in place)), UNIT, 257)
    # The coordinates themselves are rounded to 1e-5 of a pixel.
    close(single, frame[..., 12:269, 22:279].float(), atol=5e-5)
    small_window = crop_frames(frame, place, UNIT, 129)
    close(small_window, frame[..., 140 - 64 : 140 + 65, 150 - 64 : 150 + 65])


@pytest.mark.parametrize(("size", "side"), [((120, 120), 240), ((200, 60), 250.40), ((60, 60), 120), ((1, 2), 20)])
def test_2_side_with_context(size: tuple[int, int], side: float) -> None:
    assert target(0, 0, *size).side.item() == pytest.approx(side, abs=5e-3)
    if size[0] == size[1]:
        assert size[0] * UNIT / side == 64


@pytest.mark.parametrize("size", [(120, 120), (200, 60), (60, 60)])
def test_3_pasting_undoes_cropping(size: tuple[int, int]) -> None:
    mask = rectangle(300, 400, 101, 93, *size).double()
    place = target(101 + size[0] / 2 + 0.37, 93 + size[1] / 2 - 0.21, *size)
    # Cropping fills with the mean of the frame; far from the rectangle that is below a half.
    back = paste(crop_frames(mask, place, UNIT, 257), place, UNIT, (300, 400)) > 0.5
    both, either = (back & (mask > 0)).sum(), (back | (mask > 0)).sum()
    assert both / either > 0.999


@pytest.mark.parametrize("factor", [2, 4])
def test_a_shrinking_window_is_the_mean_of_what_it_covers(factor: int) -> None:
    frame = uniform(1, 3, 72 * factor, 72 * factor)
    # Its centre lies where a crop pixel covers `factor` whole pixels of the frame.
    middle = 36 * factor + (factor - 1) / 2
    place = target(middle, middle, 64 * factor, 64 * factor)  # side 128 factor
    covered = F.avg_pool2d(frame, factor)[..., 36 - 32 : 36 + 33, 36 - 32 : 36 + 33]
    close(crop_frames(frame, place, UNIT, 65), covered)


def test_4_a_picture_twice_as_large_gives_the_same_window() -> None:
    def picture(scale: int) -> Tensor:
        y, x = torch.meshgrid(
            *(torch.arange(scale * side, dtype=torch.float64) / scale for side in (260, 280)), indexing="ij"
        )
        return torch.sin(x / 23 + y / 31)[None, None]

    one = crop_frames(picture(1), target(140, 130, 50, 40), UNIT, 257)
    two = crop_frames(picture(2), target(280, 260, 100, 80), UNIT, 257)
    close(one, two, atol=1e-3)


def test_the_window_against_a_plain_loop_with_the_mean_outside() -> None:
    frame = uniform(2, 2, 9, 12)
    place = Target(uniform(2, 3, 2, seed=1) * 9, 4 + 20 * uniform(2, 3, 2, seed=2))
    windows = crop_frames(frame, place, 16, 17).view(2, 3, 2, 17, 17)
    for b, k, row, column in ((0, 0, 3, 4), (0, 2, 16, 0), (1, 1, 8, 8), (1, 2, 0, 16), (1, 0, 12, 5)):
        scale = place.side[b, k] / 16
        middle = [float(place.centre[b, k, axis] + (at - 8) * scale) for axis, at in ((0, column), (1, row))]
        reach = max(0.0, min(float(scale - 1) / 2, float(scale) / 4))  # of the four readings
        for channel in range(2):
            mean, value = float(frame[b, channel].mean()), 0.0
            for x, y in ((middle[0] + dx * reach, middle[1] + dy * reach) for dx in (-1, 1) for dy in (-1, 1)):
                for j, i in ((math.floor(y) + dj, math.floor(x) + di) for dj in (0, 1) for di in (0, 1)):
                    pixel = float(frame[b, channel, j, i]) if 0 <= j < 9 and 0 <= i < 12 else mean
                    value += pixel * (1 - abs(y - j)) * (1 - abs(x - i)) / 4
            assert float(windows[b, k, channel, row, column]) == pytest.approx(value, abs=1e-12)


def test_masks_are_sampled_at_every_second_pixel_of_the_window() -> None:
    mask = (uniform(1, 40, 50) > 0.5).double()
    place = target(20, 18, 8, 8)  # clamped to 10: a side of 20
    window = crop_masks(mask, place, 32, 65, 2)
    assert window.shape == (1, 1, 33, 33)
    steps = (torch.arange(0, 65, 2) - 32) * 20 / 32
    for row, column in ((0, 0), (16, 16), (5, 30), (31, 2)):
        x, y = 20 + float(steps[column]), 18 + float(steps[row])
        if abs(x % 1 - 0.5) > 1e-6 and abs(y % 1 - 0.5) > 1e-6:
            inside = 0 <= round(y) < 40 and 0 <= round(x) < 50
            assert float(window[0, 0, row, column]) == (float(mask[0, round(y), round(x)]) if inside else 0)


def test_window_coordinates_and_their_inverse() -> None:
    place = Target(uniform(5, 2) * 100, 20 + uniform(5, 2, seed=1) * 100)
    points = uniform(5, 2, seed=2) * 300
    close(to_frame(to_window(points, place, UNIT, 257), place, UNIT, 257), points, atol=1e-10)
    close(to_window(place.centre, place, UNIT, 257), torch.full((5, 2), 128.0))
    assert offsets(257)[0] == -128
    assert offsets(257, 2).tolist() == list(range(-128, 129, 2))


def test_targets_of_masks() -> None:
    masks = torch.cat([rectangle(20, 30, 3, 5, 7, 4), torch.zeros(1, 1, 20, 30, dtype=torch.bool)], dim=1)
    masks[0, 0, 6, 5] = False
    place, seen = target_of(masks)
    assert place.centre[0].tolist() == [[6, 6.5], [14.5, 9.5]]
    assert place.size[0].tolist() == [[7, 4], [30, 20]]
    assert seen.tolist() == [[True, False]]
    far = Target(torch.tensor([-5.0, 50.0]), torch.tensor([2.0, 400.0])).clamped((20, 30))
    assert [x.tolist() for x in far] == [[0, 19], [10, 20]]


# ------------------------------------------------------------------------------------------------ network


def network(norm: str = "group", **settings: Any) -> SiameseNetwork:
    torch.manual_seed(0)
    arguments = {"trunk": "resnet10", "dim": 16, "mask_dim": 16, "mask_channels": 8, "kernel": "dynamic", **settings}
    head = arguments.pop("head", DynamicHead())
    return SiameseNetwork(norm=norm, weights=None, head=head, **arguments).eval()


@torch.inference_mode()
def test_5_sizes() -> None:
    net = network()
    pyramid = net.trunk(torch.zeros(1, 3, 257, 257))
    assert [feature.shape[-1] for feature in pyramid] == [65, 33, 33]
    assert [feature.shape[-1] for feature in net.trunk(torch.zeros(1, 3, 129, 129))] == [33, 17, 17]
    seen = []
    net.where.template.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    kernels = net.templates(torch.zeros(2, 3, 129, 129))
    assert seen == [7]
    assert [kernel.shape for kernel in kernels] == [(2, 16, 5, 5)] * 2
    assert net.where.search(net.adjust(pyramid.f16)).shape[-1] == 31
    out = net(torch.zeros(2, 3, 257, 257), *kernels)
    assert [part.shape[1:] for part in out] == [(27, 27), (27, 27), (4, 27, 27), (169, 27, 27), (8, 65, 65)]
    assert [map_size(size) for size in (257, 129)] == [27, 11]
    cells = cell_positions(27, out.cls)
    assert cells[0].tolist() == [24, 24]
    assert cells[-1].tolist() == [232, 232]
    assert cells[13 * 27 + 13].tolist() == [128, 128]
    assert cells[1].tolist() == [32, 24]  # x first, row by row


def test_parameters_at_full_size() -> None:
    with torch.device("meta"):
        model = SiameseNetwork("resnet50", "frozen_batch", None, 256, 128, DynamicHead(), 8, "dynamic")
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert count["trunk"] == 8_543_296
    assert sum(p.numel() for p in model.parameters()) == 18_952_440


def test_6_a_ramp_stays_a_ramp() -> None:
    ramp = 8 * torch.arange(33, dtype=torch.float64).expand(1, 33, 33)
    close(upsample(ramp, 2), 4 * torch.arange(65.0).double().expand(1, 65, 65), atol=1e-10)
    close(upsample(ramp, 8), torch.arange(257.0).double().expand(1, 257, 257), atol=1e-10)


@pytest.mark.parametrize(("size", "symmetric"), [(257, True), (129, True), (65, True), (255, False), (256, False)])
@torch.inference_mode()
def test_7_a_mirrored_window_has_mirrored_features(size: int, symmetric: bool) -> None:
    trunk = network().trunk
    for conv in trunk.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight.copy_((conv.weight + conv.weight.flip(-1)) / 2)
    image = random(1, 3, size, size, dtype=torch.float32)
    plain, mirrored = trunk(image).f16, trunk(image.flip(-1)).f16.flip(-1)
    error = (plain - mirrored).abs().max() / plain.abs().max()
    assert (error < 1e-4) == symmetric


@torch.inference_mode()
def test_dilated_trunks() -> None:
    """A dilated stage keeps what the strided one computes, at every second cell; bottlenecks are torchvision's."""
    image = random(1, 3, 65, 65, dtype=torch.float32)
    for name in ("resnet18", "resnet50"):
        strided, dilated = (Backbone(name, stride=stride).eval() for stride in (16, 8))
        dilated.load_state_dict(strided.state_dict())
        assert [a.shape == b.shape for a, b in zip(strided(image), dilated(image), strict=True)] == [True, True, False]
        torch.testing.assert_close(dilated(image).f16[..., ::2, ::2], strided(image).f16, rtol=1e-4, atol=1e-4)
    stock = resnet50(replace_stride_with_dilation=[False, True, False]).eval()
    dilated = Backbone("resnet50", stride=8).eval()
    parts = ((dilated.stem[0], stock.conv1), (dilated.stem[1], stock.bn1), (dilated.layer1, stock.layer1))
    for ours, theirs in (*parts, (dilated.layer2, stock.layer2), (dilated.layer3, stock.layer3)):
        ours.load_state_dict(theirs.state_dict())
    x = stock.maxpool(stock.relu(stock.bn1(stock.conv1(image))))
    assert torch.equal(dilated(image).f16, stock.layer3(stock.layer2(stock.layer1(x))))


def test_8_depthwise_correlation_is_the_double_loop() -> None:
    maps, kernels = random(3, 4, 9, 10), random(3, 4, 5, 5, seed=1)
    out = depthwise_correlation(maps, kernels)
    assert out.shape == (3, 4, 5, 6)
    for n, channel, row, column in ((0, 0, 0, 0), (1, 3, 2, 5), (2, 1, 4, 3)):
        expected = sum(
            maps[n, channel, row + i, column + j] * kernels[n, channel, i, j] for i in range(5) for j in range(5)
        )
        close(out[n, channel, row, column], expected)
    other = kernels.clone()
    other[1] += 1
    changed = (depthwise_correlation(maps, other) != out).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False]


def test_14_at_the_start_every_box_is_of_about_8_pixels_and_few_cells_are_believed() -> None:
    net = network()
    with torch.inference_mode():
        out = net(
            random(2, 3, 129, 129, dtype=torch.float32), *net.templates(random(2, 3, 65, 65, dtype=torch.float32))
        )
    assert (out.box - 8).abs().mean() < 1
    assert (torch.sigmoid(out.cls) - 0.01).abs().mean() < 0.002


# ------------------------------------------------------------------------------------------------ dynamic head


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
    head = DynamicHead(channels=6, dim=8, layers=2, coordinates=False)
    assert head.numbers == theta.shape[1]
    cells = torch.zeros(4, 2).double()
    (first, second), (bias, last) = head.split(theta)
    plain = F.conv2d(
        F.relu(F.conv2d(features, first[0, :, :, None, None], bias[0])), second[0, :, :, None, None], last[0]
    )
    close(head(features, theta.expand(4, -1), cells), plain[:, 0])

    linear = DynamicHead(channels=6, layers=1, coordinates=False)
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


# ------------------------------------------------------------------------------------------------ targets, losses


def test_14_boxes_as_distances() -> None:
    boxes, cells = torch.tensor([[50.0, 60.0, 90.0, 100.0]]), cell_positions(27, torch.zeros(1))
    distances = box_distances(boxes, cells)
    close(distances_to_box(distances, cells), boxes.expand(1, 729, 4), atol=1e-4)
    assert centreness(torch.tensor([20.0, 30.0, 20.0, 30.0])).item() == 1
    assert centreness(torch.tensor([8.0, 16.0, 24.0, 16.0])).item() == pytest.approx(0.57735, abs=1e-5)
    assert centreness(torch.tensor([-8.0, 16.0, 24.0, 16.0])).item() == 0


def test_cells_near_the_middle_are_positive() -> None:
    boxes = torch.tensor([[96.0, 96.0, 160.0, 160.0], [100.0, 124.0, 180.0, 131.0], [96.0, 96.0, 160.0, 160.0]])
    middle = torch.tensor([[128.0, 128.0], [130.0, 127.0], [128.0, 128.0]])
    targets = cell_targets(boxes, middle, torch.tensor([True, True, False]), 27)
    expected = torch.zeros(3, 27, 27, dtype=torch.bool)
    for n in range(2):
        for i in range(27):
            for j in range(27):
                x, y = 8 * (j + 3), 8 * (i + 3)
                inside = boxes[n, 0] < x < boxes[n, 2] and boxes[n, 1] < y < boxes[n, 3]
                expected[n, i, j] = inside and max(abs(x - middle[n, 0]), abs(y - middle[n, 1])) <= 12
    assert torch.equal(targets.positive, expected)
    assert targets.positive.sum(dim=(1, 2)).tolist() == [9, 3, 0]
    assert targets.distances[0, :, 13, 14].tolist() == [40, 32, 24, 32]


def test_centre_of_mass() -> None:
    mask = rectangle(10, 12, 2, 3, 4, 2)[0, 0] | rectangle(10, 12, 8, 8, 1, 1)[0, 0]
    points = mask.nonzero().float()
    close(centre_of_mass(mask), points.mean(dim=0).flip(0), atol=1e-6)
    assert centre_of_mass(torch.zeros(3, 3, dtype=torch.bool)).tolist() == [0, 0]


def cell_losses(positive: Tensor, box: Tensor, wanted: Tensor, ctr: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of one window with 3 x 3 cells; box and wanted ``(4,)``."""
    grid = torch.zeros(1, 3, 3).double()
    maps = [x.view(1, 4, 1, 1).expand(1, 4, 3, 3) for x in (box, wanted)]
    prediction = Prediction(random(1, 3, 3), random(1, 3, 3, seed=1), maps[0], grid, grid)
    return detection_losses(prediction, CellTargets(positive, maps[1], grid + ctr))


def test_15_generalised_iou_without_a_pixel_more() -> None:
    positive = torch.ones(1, 3, 3, dtype=torch.bool)
    ten, twenty = torch.full((4,), 10.0).double(), torch.full((4,), 20.0).double()
    close(cell_losses(positive, ten, ten)[1], [0.0])
    close(cell_losses(positive, ten, twenty)[1], [0.75])


def test_focal_loss_and_centreness_by_hand() -> None:
    positive = torch.zeros(1, 3, 3, dtype=torch.bool)
    positive[0, 1, 1] = positive[0, 0, 2] = True
    focal, _, entropy = cell_losses(positive, torch.ones(4).double(), torch.ones(4).double(), ctr=0.5)
    logits, ctr = random(1, 3, 3)[0], random(1, 3, 3, seed=1)[0]
    total, centre = 0.0, 0.0
    for i in range(3):
        for j in range(3):
            p = 1 / (1 + math.exp(-float(logits[i, j])))
            q = 1 / (1 + math.exp(-float(ctr[i, j])))
            hit = bool(positive[0, i, j])
            total -= 0.25 * (1 - p) ** 2 * math.log(p) if hit else 0.75 * p**2 * math.log(1 - p)
            centre -= 0.5 * (math.log(q) + math.log(1 - q)) if hit else 0
    close(focal, [total / 2])
    close(entropy, [centre / 2])


def test_16_dice() -> None:
    mask = (uniform(1, 20, 20) > 0.5).double()
    assert 0 <= dice(mask, mask).item() < 1e-5
    assert dice(mask, 1 - mask).item() == 1
    logits = random(1, 2, 20, 20)
    overlap, entropy = mask_losses(logits, mask, torch.tensor([[True, False]]))
    p = torch.sigmoid(logits[0, 0])
    close(overlap, [1 - 2 * float((p * mask[0]).sum()) / (float((p**2).sum() + mask.sum()) + 1e-5)])
    close(entropy, [-float((mask[0] * p.log() + (1 - mask[0]) * (1 - p).log()).mean())])
    assert [x.item() for x in mask_losses(logits, mask, torch.zeros(1, 2, dtype=torch.bool))] == [0, 0]


def clips(count: int, objects: int = 2, frames: int = 3, size: int = 64) -> ClipBatch:
    pictures, labels = squares(count, frames, objects, size=(size, size))
    return ClipBatch.collate([Clip(pictures[b], labels[b], objects) for b in range(count)])


def trained_parts(model: SiamDyn, batch: ClipBatch, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    parts: dict[str, Tensor] = {}

    def kept(losses: dict[str, Tensor], size: int) -> Tensor:
        parts.update(losses)
        return torch.stack(list(losses.values())).sum()

    monkeypatch.setattr(model, "log_losses", kept)
    parts["sum"] = model.training_step(batch, 0)
    return parts


@pytest.mark.parametrize("hidden", [False, True])
def test_16_17_without_a_positive_pair_only_the_cells_learn(hidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("SiamDyn", negatives=0.0 if hidden else 1.0).train()
    batch = clips(2)
    if hidden:
        batch.masks[:, 1:] = 0
    parts = trained_parts(model, batch, monkeypatch)
    assert [parts[name].item() for name in ("box", "centreness", "dice", "mask_entropy")] == [0, 0, 0, 0]
    assert parts["cls"] > 0
    parts["sum"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert not any(p.grad.any() for p in model.network.controller.parameters())
    assert any(p.grad.any() for p in model.network.cls.parameters())


def test_17_the_normaliser_is_one_without_positives() -> None:
    focal, box, entropy = cell_losses(
        torch.zeros(1, 3, 3, dtype=torch.bool), torch.ones(4).double(), -torch.ones(4).double()
    )
    p = torch.sigmoid(random(1, 3, 3))
    close(focal, [-float((0.75 * p**2 * (1 - p).log()).sum())])
    assert box.item() == entropy.item() == 0


def test_at_most_eight_kernels_of_a_sample_those_of_the_largest_scores() -> None:
    prediction = predicted()._replace(cls=random(1, 11, 11), ctr=random(1, 11, 11, seed=1))
    positive = torch.zeros(1, 11, 11, dtype=torch.bool)
    positive[0, 3:6, 3:6] = True
    cells, valid = best_positives(prediction, positive)
    score = torch.sigmoid(prediction.cls) * torch.sigmoid(prediction.ctr)
    worst = score.masked_fill(~positive, 2).flatten().argmin()
    assert valid.all()
    assert set(cells[0].tolist()) == set(positive.flatten().nonzero()[:, 0].tolist()) - {int(worst)}
    assert best_positives(prediction, positive & (torch.arange(11) == 4))[1].sum() == 3


def test_22_what_the_mask_loss_alone_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("SiamDyn", negatives=0.0).train()
    parts = trained_parts(model, clips(2), monkeypatch)
    (parts["dice"] + parts["mask_entropy"]).backward()
    net = model.network
    for moved in (net.controller, net.masks, net.what.template, net.what.search, net.trunk.layer3, net.adjust):
        assert all(p.grad.any() for p in moved.parameters() if p.ndim > 1)
    for still in (net.cls, net.ctr, net.where_tower, net.where):
        assert not any(p.grad is not None and p.grad.any() for p in still.parameters())


# ------------------------------------------------------------------------------------------------ pairs


def paired(
    batch: ClipBatch, objects: Tensor, negatives: float = 0.0, jitter: float = 0.0, draws: Tensor | None = None
) -> Any:
    size, pairs = objects.shape
    draws = torch.full((size, pairs, DRAWS), 0.5) if draws is None else draws
    return make_pairs(batch.frames.float(), batch.masks, objects, draws, 64, 129, negatives, jitter)


def test_pairs_show_the_target_in_the_middle_and_other_objects_as_background() -> None:
    batch = clips(2, objects=2, frames=3, size=96)
    objects = torch.tensor([[1, 2], [2, 1]])
    pairs = paired(batch, objects)
    for b in range(2):
        for p in range(2):
            n, first, later = 2 * b + p, batch.masks[b, 0] == objects[b, p], batch.masks[b, p + 1] == objects[b, p]
            places = [target_of(mask[None, None])[0] for mask in (first, later)]
            frames = [batch.frames[b, t].float()[None] for t in (0, p + 1)]
            close(pairs.templates[n], crop_frames(frames[0], places[0], 64, 65)[0], atol=1e-3)
            close(pairs.searches[n], crop_frames(frames[1], places[1], 64, 129)[0], atol=1e-3)
            assert torch.equal(pairs.masks[n], crop_masks(later[None].float(), places[1], 64, 129, 1)[0, 0])
            seen = pairs.masks[n].nonzero().float()
            assert ((seen.amin(dim=0) + seen.amax(dim=0)) / 2 - 64).abs().max() <= 2
    assert pairs.source.tolist() == [0, 1, 2, 3]
    assert (pairs.cells.positive.flatten(1).sum(dim=1) > 0).all()
    assert pairs.cells.positive[:, 5, 5].all()


def test_the_box_of_a_jittered_window_is_that_of_its_mask() -> None:
    batch = clips(2, objects=1, size=96)
    draws = draw(3, 7, range(2), 2, torch.device("cpu"))
    pairs = paired(batch, torch.ones(2, 2, dtype=torch.long), jitter=1.0, draws=draws)
    for n in range(4):
        rows, columns = pairs.masks[n].nonzero().unbind(dim=1)
        cell = pairs.cells.positive[n].nonzero()[0]
        position = cell_positions(11, torch.zeros(1))[cell[0] * 11 + cell[1]]
        box = distances_to_box(pairs.cells.distances[n][:, cell[0], cell[1]], position)
        seen = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()]).float()
        inside = (box.clamp(0, 128) - seen).abs()
        assert inside.max() < 4  # a frame pixel is up to two crop pixels, and a mask is read at the nearest


def test_draws_depend_on_the_place_of_the_clip_alone() -> None:
    cpu = torch.device("cpu")
    together = draw(0, 5, range(4), 2, cpu)
    assert torch.equal(together[2:], draw(0, 5, range(2, 4), 2, cpu))
    assert len({tuple(row) for row in together.flatten(0, 1).tolist()}) == 8
    assert not torch.equal(together, draw(0, 6, range(4), 2, cpu))
    assert not torch.equal(together, draw(1, 5, range(4), 2, cpu))
    assert together.min() >= 0
    assert together.max() < 1


def test_jitter_stays_within_its_limits() -> None:
    batch = clips(1, objects=1, frames=2, size=96)
    one = torch.ones(1, 1, dtype=torch.long)
    place = target_of(batch.masks[:, 1:] == 1)[0]
    for way, at in ((-1, 0.0), (1, 1.0)):
        draws = torch.full((1, 1, DRAWS), at)
        pairs = paired(batch, one, jitter=1.0, draws=draws)
        moved = Target(place.centre + way * 0.5 * place.side.unsqueeze(-1), place.size * (1 + 0.18 * way))
        expected = crop_frames(batch.frames[:, 1].float(), Target(*(x.float() for x in moved)), 64, 129)
        close(pairs.searches, expected, atol=1e-2)


def test_negative_pairs_get_the_template_of_another_target() -> None:
    two = paired(clips(2), torch.tensor([[1, 2], [1, 2]]), negatives=1.0)
    assert two.source.tolist() == [2, 3, 0, 1]
    assert not two.cells.positive.any()
    alone = paired(clips(1), torch.tensor([[1, 2]]), negatives=1.0)
    assert alone.source.tolist() == [1, 0]
    single = paired(clips(1, objects=1), torch.tensor([[1, 1]]), negatives=1.0)
    assert single.source.tolist() == [0, 1]  # there is no other target
    assert single.cells.positive.flatten(1).any(dim=1).all()
    share = draw(0, 0, range(500), 1, torch.device("cpu"))[..., 0] < 0.2
    assert 0.15 < share.float().mean() < 0.25


def test_a_single_picture_is_paired_with_itself() -> None:
    model = small("SiamDyn").train()
    assert torch.isfinite(model.training_step(clips(2, frames=1), 0))


def test_every_object_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("SiamDyn").train()
    seen: list[list[list[int]]] = []

    def spy(frames: Tensor, labels: Tensor, objects: Tensor, *rest: Any) -> Any:
        seen.append(objects.tolist())
        return make_pairs(frames, labels, objects, *rest)

    monkeypatch.setattr("lightning_vos.methods.siam_dyn.module.make_pairs", spy)
    pictures, labels = squares(2, 4, 3, size=(48, 48))
    labels[1][labels[1] > 1] = 0
    model.training_step(ClipBatch.collate([Clip(pictures[0], labels[0], 3), Clip(pictures[1], labels[1], 1)]), 0)
    assert seen == [[[1, 2, 3], [1, 1, 1]]]


def test_masked_templates_show_nothing_but_the_target() -> None:
    frames, labels = squares(2, 1, 2, size=(64, 96))
    frame, masks = frames[:, 0].float(), one_hot(labels[:, 0], 2)
    place = target_of(masks > 0)[0]
    open_ones, masked = (crop_templates(frame, masks, place, 64, hidden) for hidden in (False, True))
    assert torch.equal(open_ones, crop_frames(frame, place, 64, 65))
    for n, (b, k) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        one = Target(place.centre[b : b + 1, k : k + 1], place.size[b : b + 1, k : k + 1])
        inside = crop_masks(masks[b : b + 1, k], one, 64, 65, 1)[0, 0] > 0
        assert 0 < inside.float().mean() < 0.5
        close(masked[n][:, inside], open_ones[n][:, inside], atol=1e-4)
        colour = frame[b].mean(dim=(1, 2)).unsqueeze(1)
        close(masked[n][:, ~inside], colour.expand(3, int((~inside).sum())), atol=1e-3)


def test_masked_templates_are_used_in_training_and_at_the_start() -> None:
    frames, labels = squares(2, 3, 1, size=(48, 48))
    masks = one_hot(labels[:, 0], 1)
    other = frames.clone()
    for b in range(2):  # the pixels of the background change places, its mean colour stays
        elsewhere = F.max_pool2d(masks[b], 5, stride=1, padding=2)[0] == 0  # what no pixel of the target is mixed with
        pixels = frames[b, 0][:, elsewhere]
        other[b, 0][:, elsewhere] = pixels[:, torch.randperm(pixels.shape[1])]
    for hidden in (False, True):
        model = small("SiamDyn", masked_template=hidden, jitter=0.0)
        kernels, templates = [], []
        for version in (frames, other):
            with model.sequence():
                model.step(version[:, 0], masks)
                kernels.append(model.templates.what.clone())
            draws = torch.full((2, 2, DRAWS), 0.5)
            objects = torch.ones(2, 2, dtype=torch.long)
            pairs = make_pairs(version.float(), labels, objects, draws, 64, 129, 0.0, 0.0, hidden)
            templates.append(pairs.templates)
        apart = [((one - two).abs().mean() / one.abs().mean()).item() for one, two in (kernels, templates)]
        assert all((share < 1e-4) == hidden for share in apart), apart


def test_a_previous_mask_is_moved_with_other_edges_or_nothing() -> None:
    mask = rectangle(129, 129, 40, 50, 32, 24)[0].float()
    draws = torch.full((1, SPOIL), 0.5)
    still = previous_masks(mask, draws, 64, 0.0)
    assert set(still.unique().tolist()) == {0.0, 1.0}
    assert ((still > 0) & (mask > 0)).sum() / ((still > 0) | (mask > 0)).sum() > 0.95  # corners are rounded

    moved = draws.clone()
    moved[:, 0] = 1.0  # seen from 1/16 of the unit further to the right: 4 crop pixels to the left
    close(previous_masks(mask, moved, 64, 1.0)[..., :-4], still[..., 4:])

    spoiled = draws.clone()
    spoiled[:, 4:] = uniform(1, SPOIL - 4)
    differ = (previous_masks(mask, spoiled, 64, 1.0) - still)[0]
    assert 0.02 < differ.abs().sum() / still.sum() < 0.5
    rows, columns = differ.nonzero().unbind(dim=1)  # nowhere but near the edges
    assert (
        ((rows - 50).abs().minimum((rows - 73).abs()) <= 3)
        .logical_or((columns - 40).abs().minimum((columns - 71).abs()) <= 3)
        .all()
    )

    share = torch.linspace(0, 0.999, 1000)
    none = draws.repeat(1000, 1)
    none[:, 3] = share
    found = previous_masks(mask.expand(1000, -1, -1), none, 64, 1.0)
    assert torch.equal(found.flatten(1).any(dim=1), share >= NOTHING)


def test_every_second_pair_sees_the_networks_own_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("SiamDyn", mask_input=True).train()
    own = torch.zeros(33, 33)
    own[10:20, 12:22] = 1
    seen: list[Tensor] = []
    forward = model.network.forward

    def spy(windows: Tensor, *kernels: Tensor) -> Prediction:
        seen.append(windows)
        if len(seen) > 1:
            return forward(windows, *kernels)
        one = predicted(mask=own)
        return Prediction(*(part.expand(len(windows), *part.shape[1:]) for part in one))

    monkeypatch.setattr(model.network, "forward", spy)
    batch = clips(2, frames=4)  # three pairs a clip
    model.training_step(batch, 0)
    first, second = seen
    assert len(first) == 2
    assert len(second) == 6
    draws = draw(torch.initial_seed(), 0, range(2), 3, torch.device("cpu"))
    objects = torch.arange(3).expand(2, 3) % batch.num_objects.unsqueeze(1) + 1
    frames = model.normalize(batch.frames.flatten(0, 1)).unflatten(0, (2, 4))
    pairs = make_pairs(frames, batch.masks, objects, draws, 64, 129, model.negatives, 1.0)
    expected = previous_masks(pairs.masks, pairs.spoil, 64, 1.0)
    for place, n in enumerate((1, 4)):
        aided = pairs.spoil[n, 3] < 0.5
        assert torch.equal(first[place, 3], expected[n] * aided)
        found = F.interpolate(own[None, None], size=129, mode="bilinear", align_corners=True)[0] > 0.5
        expected[n] = previous_masks(found.float(), pairs.spoil[n : n + 1], 64, 1.0)[0]
    assert torch.equal(second[:, 3], expected)


def test_search_windows_carry_the_mask_found_before_and_templates_their_own() -> None:
    frames, labels = squares(1, 4, 2, size=(64, 64))
    masks = one_hot(labels[:, 0], 2)
    model = small("SiamDyn", mask_input=True, threshold=0.4)
    seen: list[Tensor] = []
    model.network.trunk.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    def windows(labels: Tensor, size: int) -> Tensor:
        one_each = Target(model.templates.centre[0].unsqueeze(1), model.templates.size[0].unsqueeze(1))
        return crop_masks(one_hot(labels, 2)[0], one_each, 64, size, 1).squeeze(1)

    with model.sequence():
        model.step(frames[:, 0], masks)
        assert torch.equal(seen[0][:, 3], windows(labels[:, 0], 65))
        found = labels[:, 0]
        for t in range(1, 4):
            expected = windows(found, 129)
            found = model.step(frames[:, t]).argmax(dim=1)
            assert found.any()
            assert torch.equal(seen[t][:, 3], expected)
    batch = clips(2)
    draws = draw(0, 0, range(2), 2, torch.device("cpu"))
    objects = torch.ones(2, 2, dtype=torch.long)
    plain, marked = (
        make_pairs(batch.frames.float(), batch.masks, objects, draws, 64, 129, 0.2, 1.0, False, m)
        for m in (False, True)
    )
    assert torch.equal(plain.templates, marked.templates[:, :3])
    assert set(marked.templates[:, 3].unique().tolist()) == {0.0, 1.0}


def test_threshold_moves_the_boundary_and_nothing_else() -> None:
    frames, labels = squares(1, 3, 1, size=(64, 64))
    found = {}
    for threshold in (0.3, 0.5, 0.7):
        model = small("SiamDyn", threshold=threshold)
        with model.sequence():
            model.step(frames[:, 0], one_hot(labels[:, 0], 1))
            found[threshold] = [model.step(frames[:, t]).softmax(dim=1)[:, 1] for t in (1, 2)]
    for t in range(2):
        for threshold, probs in found.items():
            assert torch.equal(probs[t] > 0.5, found[0.5][t] > threshold)
        assert (found[0.3][t] > 0.5).sum() > (found[0.7][t] > 0.5).sum()


def test_the_mean_kernel_of_equal_kernels_is_the_kernel() -> None:
    frames, labels = squares(1, 2, 1, size=(64, 64))
    for kernel in ("static", "dynamic"):
        out = []
        for average in (False, True):
            model = small("SiamDyn", kernel=kernel, average_kernels=average)
            with model.sequence():
                model.step(frames[:, 0], one_hot(labels[:, 0], 1))
                out.append(model.step(frames[:, 1]))
        assert torch.allclose(*out, atol=1e-5) == (kernel == "static")


# ------------------------------------------------------------------------------------------------ tracking


def test_18_penalty_and_window() -> None:
    previous = torch.tensor([64.0, 64.0]).double()
    for size, value in (((64, 64), 1.0), ((80, 64), 0.98397), ((32, 32), 0.96079)):
        assert change_penalty(torch.tensor(size).double(), previous, 0.04).item() == pytest.approx(value, abs=1e-5)
    window = hann(27, previous)
    assert window[13, 13] == 1
    assert window[13, 12].item() == pytest.approx(0.98547, abs=1e-5)
    assert window[0].abs().max() < 1e-12


def test_the_best_cell_against_a_loop() -> None:
    cls, ctr, box = random(2, 11, 11), random(2, 11, 11, seed=1), 8 * random(2, 4, 11, 11, seed=2).exp()
    prediction = predicted()._replace(cls=cls, ctr=ctr, box=box)
    previous = torch.tensor([[30.0, 40.0], [20.0, 20.0]]).double()
    found = choose(prediction, previous, 0.04, 0.4)
    window = hann(11, cls)
    for n in range(2):
        best = (-1.0, 0)
        for i in range(11):
            for j in range(11):
                score = float(torch.sigmoid(cls[n, i, j]) * torch.sigmoid(ctr[n, i, j]))
                left, top, right, bottom = box[n, :, i, j].tolist()
                penalty = float(
                    change_penalty(torch.tensor([left + right, top + bottom], dtype=torch.float64), previous[n], 0.04)
                )
                best = max(best, (0.6 * penalty * score + 0.4 * float(window[i, j]), i * 11 + j, score, penalty))
        assert int(found.cell[n]) == best[1]
        assert (float(found.score[n]), float(found.penalty[n])) == pytest.approx(best[2:], abs=1e-9)
        i, j = divmod(best[1], 11)
        assert found.position[n].tolist() == [24 + 8 * j, 24 + 8 * i]
        expected = [24 + 8 * j - box[n, 0, i, j], 24 + 8 * i - box[n, 1, i, j]]
        close(found.box[n, :2], [float(x) for x in expected], atol=1e-9)


def flooded(mask: Tensor) -> list[int]:
    """Box of the largest 8-connected part by flood fill."""
    todo, best = {tuple(p) for p in mask.nonzero().tolist()}, []
    while todo:
        part, stack = [], [todo.pop()]
        while stack:
            y, x = stack.pop()
            part.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
            todo -= near
            stack += near
        best = part if len(part) > len(best) else best
    rows, columns = [y for y, _ in best], [x for _, x in best]
    return [min(columns), min(rows), max(columns), max(rows)]


def test_largest_parts_touch_at_corners() -> None:
    masks = torch.zeros(3, 8, 9, dtype=torch.bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 2, 2] = True  # a diagonal of three
    masks[0, 5, 5:7] = True
    masks[1] = uniform(8, 9) > 0.6
    boxes = largest_components(masks)
    assert boxes[0].tolist() == [0, 0, 2, 2]
    assert boxes[1].tolist() == flooded(masks[1])
    assert boxes[2].tolist() == [0, 0, 0, 0]


def chosen(score: float, penalty: float, box: list[float]) -> Choice:
    values = [torch.tensor([x]) for x in (score, penalty)]
    return Choice(torch.zeros(1, dtype=torch.long), torch.zeros(1, 2), *values, torch.tensor([box]))


def test_the_state_after_a_frame_by_hand() -> None:
    place = Target(torch.tensor([[100.0, 80.0]]), torch.tensor([[32.0, 32.0]]))  # side 64: a crop pixel is a pixel
    probs = torch.zeros(1, 129, 129)
    probs[0, 60:80, 50:90] = 0.9  # 40 x 20, centre (69.5, 69.5)
    probs[0, 0:5, 0:5] = 0.9  # another part, smaller
    arguments = (probs, 64, (200, 220), 0.1, 100.0)
    moved, lost = follow(place, chosen(0.5, 0.8, [50, 50, 80, 80]), *arguments)
    assert not lost.item()
    close(moved.centre, [[105.5, 85.5]])
    close(moved.size, [[0.6 * 32 + 0.4 * 40, 0.6 * 32 + 0.4 * 20]], atol=1e-5)

    for kept, lost in (follow(place, chosen(0.05, 0.8, [50, 50, 80, 80]), *arguments),):  # a bad score: it stays
        assert lost.item()
        assert [x.tolist() for x in kept] == [x.tolist() for x in place]

    moved, lost = follow(place, chosen(0.5, 0.8, [54, 44, 84, 94]), probs * 0.5, *arguments[1:])  # no mask: the box
    assert lost.item()
    close(moved.centre, [[105.0, 85.0]], atol=1e-5)
    close(moved.size, [[0.6 * 32 + 0.4 * 30, 0.6 * 32 + 0.4 * 50]], atol=1e-5)
    always, _ = follow(place, chosen(0.5, 0.8, [54, 44, 84, 94]), *arguments, from_mask=False)
    close(always.centre, moved.centre)


def test_a_state_stays_where_others_have_taken_the_pixels() -> None:
    place = Target(torch.tensor([[100.0, 80.0]]), torch.tensor([[32.0, 32.0]]))  # a crop pixel is a pixel
    probs = torch.zeros(1, 129, 129)
    probs[0, 60:80, 50:90] = 0.9
    won = torch.ones(1, 129, 129, dtype=torch.bool)
    arguments = (place, chosen(0.5, 1.0, [50, 60, 90, 80]), probs, 64, (200, 220), 0.1, 100.0, True)
    for one, two in zip(follow(*arguments, won)[0], follow(*arguments)[0], strict=True):
        assert torch.equal(one, two)
    won[0, :, 70:] = False  # another object has the right half
    moved, lost = follow(*arguments, won)
    assert not lost.item()
    close(moved.centre, [[100 + 59.5 - 64, 80 + 69.5 - 64]])
    won[0, :, 54:] = False  # 80 pixels are left: behind another object
    kept, lost = follow(*arguments, won)
    assert lost.item()
    assert [x.tolist() for x in kept] == [x.tolist() for x in place]


def test_two_targets_that_look_alike_do_not_both_follow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.zeros(33, 33)
    mask[12:21, 12:21] = 1
    sure, unsure = predicted(mask=2 * mask), predicted(mask=mask)
    both = Prediction(*(torch.cat(parts) for parts in zip(sure, unsure, strict=True)))
    frames, _ = squares(1, 4, 2, size=(64, 64))
    given = torch.zeros(1, 2, 64, 64)
    given[:, 0, 20:40, 20:40:2], given[:, 1, 20:40, 21:40:2] = 1, 1  # in one place, the first is the surer one
    stayed = []
    for compete in (False, True):
        model = tracker(monkeypatch, both, compete=compete)
        with model.sequence():
            model.step(frames[:, 0], given)
            start = model.templates.centre.clone()
            for t in range(1, 4):
                model.step(frames[:, t])
            stayed.append((model.templates.centre - start).abs().amax(dim=2)[0, 1].item())
            assert model.lost_targets is not None
            assert model.lost_targets[0, 1].item() is compete
    assert stayed[1] == 0


def test_what_lies_outside_of_the_frame_does_not_move_the_state() -> None:
    place = Target(torch.tensor([[2.0, 50.0]]), torch.tensor([[32.0, 32.0]]))
    probs = torch.ones(1, 129, 129)  # everything, and half of it is not there
    moved, _ = follow(place, chosen(1.0, 1.0, [0, 0, 1, 1]), probs, 64, (100, 120), 0.1, 100.0)
    close(moved.centre, [[33.0, 49.5]])  # columns 0..66 and rows 0..99
    close(moved.size, [[67.0, 100.0]])


def tracker(monkeypatch: pytest.MonkeyPatch, *predictions: Prediction, **settings: Any) -> SiamDyn:
    """A model whose network says what it is told, frame by frame; the last prediction goes on."""
    model = small("SiamDyn", **{"lost_score": 0.1, "lost_area": 20.0, **settings})
    left = list(predictions)
    monkeypatch.setattr(model.network, "forward", lambda *inputs: left.pop(0) if len(left) > 1 else left[0])
    return model


def test_a_target_that_leaves_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.zeros(33, 33)
    mask[14:22, 14:22] = 1
    there, gone = predicted(mask=mask), predicted(cls=-9.0)
    model = tracker(monkeypatch, there, gone, gone, gone, there)
    frames, labels = squares(1, 7, 1, size=(64, 64))
    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 1))
        states, lost = [], []
        assert isinstance(model, TargetTracker)
        for t in range(1, 6):
            out = model.step(frames[:, t])
            assert model.lost_targets is not None
            lost.append(model.lost_targets.tolist())
            states.append((model.templates.centre.clone(), model.templates.size.clone()))
            assert (out.argmax(dim=1).any()).item() == (t in (1, 5))
        assert lost == [[[gone]] for gone in (False, True, True, True, False)]
    assert model.lost_targets is None
    for kept in states[1:4]:
        assert torch.equal(kept[0], states[0][0])
        assert torch.equal(kept[1], states[0][1])
    assert not torch.equal(states[4][0], states[0][0])


@pytest.mark.parametrize(
    ("rows", "columns"), [((0, 8), (0, 8)), ((56, 64), (60, 64)), ((20, 21), (30, 32)), ((0, 64), (0, 64))]
)
def test_targets_at_the_border_tiny_and_as_large_as_the_frame(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    model = small("SiamDyn")
    frames, labels = squares(1, 6, 1, size=(64, 64))
    labels = torch.zeros_like(labels)
    labels[:, 0, rows[0] : rows[1], columns[0] : columns[1]] = 1
    with model.sequence():
        out = model.step(frames[:, 0], one_hot(labels[:, 0], 1))
        assert torch.equal(out.argmax(1), labels[:, 0].long())
        assert (model.templates.size >= 10).all()
        for t in range(1, 6):
            assert torch.isfinite(model.step(frames[:, t])).all()
            assert ((model.templates.centre >= 0) & (model.templates.centre <= 63)).all()
            assert ((model.templates.size >= 10) & (model.templates.size <= 64)).all()


def test_19_the_largest_probability_above_a_half_wins() -> None:
    probs = torch.tensor([[0.6, 0.4], [0.7, 0.3]]).view(1, 2, 1, 2)
    assert merge_by_maximum(probs).argmax(dim=1).flatten().tolist() == [2, 0]
    assert merge_by_maximum(probs.flip(1)).argmax(dim=1).flatten().tolist() == [1, 0]
    single = uniform(1, 1, 5, 5)
    close(torch.softmax(merge_by_maximum(single), dim=1)[:, 1], single[:, 0], atol=1e-6)


def test_21_nothing_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.zeros(33, 33)
    mask[10:20, 12:22] = 1
    model = tracker(monkeypatch, predicted(mask=mask))
    frames, labels = squares(1, 2, 1, size=(16, 24))

    def sizes() -> dict[str, tuple[int, ...]]:
        return {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}

    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 1))
        model.step(frames[:, 1])
        before = sizes()
        for _ in range(400):
            model.step(frames[:, 1])
        assert sizes() == before


def test_the_network_sees_windows_of_one_size_whatever_the_frame() -> None:
    model = small("SiamDyn")
    shapes = []
    model.network.trunk.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    for size in ((40, 40), (90, 130)):
        frames, labels = squares(1, 2, 3, size=size)
        with model.sequence():
            model.step(frames[:, 0], one_hot(labels[:, 0], 3))
            model.step(frames[:, 1])
    assert shapes == [(3, 3, 65, 65), (3, 3, 129, 129)] * 2  # one pass for all objects


def test_an_object_is_tracked_as_if_it_were_alone() -> None:
    model = small("SiamDyn", compete=False).double()
    frames, labels = squares(1, 6, 2)
    states = []
    for chosen_ones in ([1, 2], [1], [2]):
        with model.sequence():
            masks = one_hot(labels[:, 0], 2)[:, [k - 1 for k in chosen_ones]]
            for t in range(6):
                model.step(frames[:, t], masks if t == 0 else None)
            states.append(torch.cat([model.templates.centre, model.templates.size], dim=-1)[0])
    close(states[0], torch.cat(states[1:]), atol=1e-9)


def test_a_correction_moves_the_state_and_keeps_the_template() -> None:
    model = small("SiamDyn")
    frames, labels = squares(1, 3, 1, size=(64, 64))
    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 1))
        kernel = model.templates.what
        model.step(frames[:, 1], rectangle(64, 64, 4, 6, 12, 14).float())
        assert torch.equal(model.templates.what, kernel)
        assert model.templates.centre[0, 0].tolist() == [9.5, 12.5]


# ------------------------------------------------------------------------------------------------ settings


def test_a_pretrained_trunk_is_frozen_at_first_and_its_first_layers_for_good() -> None:
    model = small("SiamDyn", norm="frozen_batch", frozen_until=0.5).train()
    trunk = model.network.trunk
    fixed = [*trunk.stem.parameters(), *trunk.layer1.parameters()]
    assert not any(p.requires_grad for p in fixed)
    groups = model.parameter_groups()
    assert [factor for _, factor in groups] == [1.0, 0.1]
    assert {id(p) for p in groups[1][0]} == {
        id(p) for stage in (trunk.layer2, trunk.layer3) for p in stage.parameters()
    }
    assert sum(len(group) for group, _ in groups) == sum(p.requires_grad for p in model.parameters())
    model.training_step(clips(2), 0).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.on_before_optimizer_step(torch.optim.SGD(groups[1][0], lr=1.0))
    assert all(p.grad is None for p in trunk.parameters())
    assert all(p.grad is not None for p in groups[0][0])

    free = small("SiamDyn").train()
    free.training_step(clips(2), 0).backward()
    free.on_before_optimizer_step(torch.optim.SGD(free.parameters(), lr=1.0))
    assert all(p.grad is not None for p in free.parameters())
    assert [factor for _, factor in free.parameter_groups()] == [1.0, 1.0]
    marked = small("SiamDyn", norm="frozen_batch", mask_input=True)  # no pretrained stem knows a mask
    assert all(p.requires_grad for p in marked.network.trunk.stem.parameters())


@pytest.mark.parametrize(
    "form",
    [
        {"kernel": "static"},
        {"kernel_layers": 1, "mask_channels": 24, "coordinates": False},
        {"coordinates": False},
        {"state_from": "box"},
        {"mask_input": True},
    ],
)
def test_other_forms_train_and_track(form: dict[str, Any]) -> None:
    model = small("SiamDyn", **form)
    frames, labels = squares(1, 3, 2)
    with model.sequence():
        model.step(frames[:, 0], one_hot(labels[:, 0], 2))
        assert torch.isfinite(model.step(frames[:, 1])).all()
    model.train().training_step(clips(2), 0).backward()
    assert all(p.grad is not None for p in model.parameters())
    if form.get("kernel") == "static":
        assert model.network.controller is None
        assert model.network.theta.grad.any()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kernel": "none"}, "kernel=none: choose from dynamic, static"),
        ({"state_from": "x"}, "state_from=x: choose from mask, box"),
        ({"search_size": 255}, "search_size=255: must be 1 mod 16"),
        ({"template_size": 49}, "template_size=49: .*at least 65"),
        ({"kernel_layers": 0}, "kernel_layers=0: must be at least 1"),
        ({"negatives": 1.5}, "negatives=1.5: must be from 0 to 1"),
        ({"window": -1}, "window=-1: must be from 0 to 1"),
    ],
)
def test_wrong_settings_are_explained(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("SiamDyn", **setting)
