"""The contract that every method keeps, whatever it is made of."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from conftest import METHODS, SMALL, small, squares
from lightning import Trainer
from torch import Tensor

from lightning_vos import VOSModule
from lightning_vos.functional import one_hot
from lightning_vos.memory import SequenceState
from lightning_vos.streaming import stream as stream_video
from lightning_vos.types import Clip, ClipBatch
from lightning_vos.video import Video

pytestmark = pytest.mark.parametrize("method", METHODS)

# Where the order of the objects matters by design, the part that makes it matter is switched off.
ORDERLESS = {"DMMNet": {"decoder.across_objects": False}}
# Where clips of a batch meet by design (templates of other clips), or a draw goes by the clip's place in the batch.
APART = {"SiamDyn": {"negatives": 0.0, "jitter": 0.0}}


def stream(
    model: VOSModule, frames: Tensor, labels: Tensor, objects: int, later: dict[int, Tensor] | None = None
) -> Tensor:
    """Logits of all frames ``(B, T, K+1, H, W)``; ``later`` gives further masks by frame number."""
    out = []
    with model.sequence():
        for t in range(frames.shape[1]):
            mask = one_hot(labels[:, 0], objects) if t == 0 else (later or {}).get(t)
            out.append(model.step(frames[:, t], mask))
    return torch.stack(out, dim=1)


def test_every_method_has_a_small_version(method: str) -> None:
    assert method in SMALL


def test_an_object_too_small_for_the_working_size_is_followed(method: str) -> None:
    model = small(method)
    frames, labels = squares(1, 4, 1)
    prompt = labels[0, 0].repeat_interleave(4, dim=0).repeat_interleave(4, dim=1)
    prompt[0, 0] = 2
    video = Video(0, "v", tuple(prompt.shape), (1, 2), {0: prompt}, "abcd", lambda t: frames[0, t], lambda t: None)
    given = []
    model.memorize, memorize = lambda *args: (given.append(args[-1]), memorize(*args)), model.memorize
    assert len(list(stream_video(model, video))) == 4
    assert given[0].flatten(2).sum(dim=2).int().tolist()[0][1] == 1


@pytest.mark.parametrize("objects", [1, 5])
def test_streamed_twice_is_the_same(method: str, objects: int) -> None:
    model = small(method)
    frames, labels = squares(1, 12, objects)
    first = stream(model, frames, labels, objects)
    stream(model, *squares(1, 5, 2, seed=3), 2)  # another video in between leaves nothing behind
    assert torch.equal(stream(model, frames, labels, objects), first)
    assert first.shape == (1, 12, objects + 1, 48, 64)
    assert torch.isfinite(first).all()


def test_batch_is_one_by_one(method: str) -> None:
    model = small(method).double()
    frames, labels = squares(3, 14, 2)
    together = stream(model, frames, labels, 2)
    for b in range(3):
        alone = stream(model, frames[b : b + 1], labels[b : b + 1], 2)
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-9)


def test_permuted_objects_permute_the_output(method: str) -> None:
    model = small(method, **ORDERLESS.get(method, {})).double()
    frames, labels = squares(1, 12, 3)
    order = torch.tensor([0, 3, 1, 2])  # label -> new label
    out = stream(model, frames, labels, 3)
    permuted = stream(model, frames, order[labels.long()].to(torch.uint8), 3)
    torch.testing.assert_close(permuted[:, :, order], out, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [(33, 47), (17, 90), (16, 16), (5, 3)])
def test_any_size_and_the_given_mask_comes_back(method: str, size: tuple[int, int]) -> None:
    model = small(method)
    frames = torch.randint(0, 255, (1, 3, 3, *size), dtype=torch.uint8)
    labels = torch.zeros(1, 3, *size, dtype=torch.uint8)
    labels[:, :, : size[0] // 2, : size[1] // 2 + 1] = 1
    out = stream(model, frames, labels, 1)
    assert out.shape == (1, 3, 2, *size)
    assert torch.equal(out[:, 0].argmax(1), labels[:, 0].long())


def test_an_object_that_starts_later(method: str) -> None:
    model = small(method).double()
    frames, labels = squares(1, 10, 2)
    both = one_hot(labels[:, 4], 2)
    both[:, 0] = 0  # only the second object is given on frame 4
    only_first = torch.where(labels == 1, 1, 0).to(torch.uint8)
    plain = stream(model, frames, only_first, 1)
    late = []
    with model.sequence():
        for t in range(10):
            mask = one_hot(only_first[:, 0], 1) if t == 0 else both if t == 4 else None
            late.append(model.step(frames[:, t], mask))
    assert [out.shape[1] for out in late] == [2] * 4 + [3] * 6
    for t in range(4):
        assert torch.equal(late[t], plain[:, t])  # the future has no effect
    given = both[:, 1] > 0
    assert (late[4].argmax(1)[given] == 2).all()
    assert not (late[4].argmax(1)[~given] == 2).any()


def test_a_given_mask_is_remembered_in_any_case(method: str) -> None:
    model = small(method).double()
    frames, labels = squares(1, 6, 2)
    masks = one_hot(labels[:, 0], 2)
    outputs = []
    for remember in (True, False):
        with model.sequence():
            model.step(frames[:, 0], masks[:, :1], remember=remember)
            model.step(frames[:, 1], masks, remember=remember)
            outputs.append(torch.stack([model.step(frames[:, t]) for t in range(2, 6)]))
            model.step(frames[:, 5], remember=False)
    assert torch.equal(*outputs)


def test_clips_of_a_batch_share_the_first_frame_of_an_object(method: str) -> None:
    model = small(method)
    frames, labels = squares(2, 3, 2)
    masks = one_hot(labels[:, 0], 2)
    masks[1, 1] = 0
    with model.sequence():
        model.step(frames[:, 0], masks)
        with pytest.raises(ValueError, match="share the first frame of an object"):
            model.step(frames[:, 1], one_hot(labels[:, 0], 2))


def test_state_is_empty_outside_a_sequence_and_after_an_exception(method: str) -> None:
    model = small(method)
    keys = set(model.state_dict())
    frames, labels = squares(1, 4, 1)
    states = [module for module in model.modules() if isinstance(module, SequenceState)]
    assert states

    def fail() -> None:
        with model.sequence():
            model.step(frames[:, 0], one_hot(labels[:, 0], 1))
            model.step(frames[:, 1])
            assert any(not state.is_empty for state in states)
            assert set(model.state_dict()) == keys  # a checkpoint written now would hold no state
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert all(state.is_empty for state in states)
    copy.deepcopy(model)


def test_checkpoint_round_trip(method: str, tmp_path: Path) -> None:
    model = small(method)
    frames, labels = squares(1, 6, 2)
    expected = stream(model, frames, labels, 2)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = small(method, seed=1)
    assert not torch.equal(stream(other, frames, labels, 2), expected)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(stream(other, frames, labels, 2), expected)


def test_training_step_reaches_every_parameter(method: str) -> None:
    model = small(method).train()
    frames, labels = squares(2, 5, 2, size=(64, 64))
    labels[1][labels[1] == 2] = 0  # the clips of a batch may differ in their number of objects
    batch = ClipBatch.collate([Clip(frames[0], labels[0], 2), Clip(frames[1], labels[1], 1)])
    loss = model.training_step(batch, 0)
    loss.backward()
    assert torch.isfinite(loss)
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_fused_optimiser_steps_as_the_plain_one(method: str) -> None:
    """Also where the moments it goes on from were saved in the other memory format."""
    frames, labels = squares(2, 3, 2, size=(64, 64))
    batch = ClipBatch.collate([Clip(frames[b], labels[b], 2) for b in range(2)])
    weights, saved = [], {}
    for fused, channels_last, steps in ((True, False, 1), (True, True, 1), (False, True, 2)):
        model = small(method, channels_last=channels_last, lr=1e-3).double().train()
        model.configure_model()
        model.trainer = Trainer(accelerator="cpu", logger=False, precision="64-true" if fused else "bf16-mixed")
        optimizer = model.configure_optimizers()["optimizer"]
        model.trainer = None  # which would not let it log outside of a run
        assert bool(optimizer.defaults["fused"]) == fused
        if saved:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
        for _ in range(steps):
            optimizer.zero_grad()
            model.training_step(batch, 0).backward()
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()} if len(weights) == 1 else {}
    torch.testing.assert_close(weights[1], weights[2], rtol=0, atol=1e-9)


def test_a_clip_of_one_frame_is_refused_where_it_teaches_nothing(method: str) -> None:
    model = small(method).train()
    frames, labels = squares(2, 1, 1, size=(64, 64))
    batch = ClipBatch.collate([Clip(frames[b], labels[b], 1) for b in range(2)])
    if method == "SiamDyn":  # a picture and itself, shifted, are a pair
        assert model.training_step(batch, 0) > 0
        return
    with pytest.raises(ValueError, match=r"data\.clip_length=1: the first frame's masks are given .* set at least 2"):
        model.training_step(batch, 0)


def test_a_negative_learning_rate_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"model\.lr=-0\.1: the learning rate must not be negative"):
        small(method, lr=-0.1)


def test_training_reads_what_it_would_have_streamed(method: str) -> None:
    """A batch of two clips trains on the mean of what each alone would give: no clip sees another."""
    model = small(method, **APART.get(method, {})).double().train()
    frames, labels = squares(2, 4, 2, size=(64, 64))
    clips = [Clip(frames[b], labels[b], 2) for b in range(2)]
    together = model.training_step(ClipBatch.collate(clips), 0)
    alone = [model.training_step(ClipBatch.collate([clip]), 0) for clip in clips]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-9, atol=0)


def test_misuse_is_explained(method: str) -> None:
    model = small(method)
    frames, labels = squares(1, 2, 1)
    mask = one_hot(labels[:, 0], 1)
    with pytest.raises(RuntimeError, match="outside a sequence"):
        model.step(frames[:, 0], mask)
    with model.sequence():
        with pytest.raises(RuntimeError, match="a model follows one at a time"), model.sequence():
            pass
        with pytest.raises(RuntimeError, match="without a mask on the first frame"):
            model.step(frames[:, 0])
        with pytest.raises(ValueError, match="uint8 RGB"):
            model.step(frames[:, 0].float(), mask)
        with pytest.raises(ValueError, match="one-hot"):
            model.step(frames[:, 0], mask[..., 1:])
        with pytest.raises(ValueError, match="not ids or 0/255"):
            model.step(frames[:, 0], 255 * mask)
        with pytest.raises(ValueError, match="overlap"):
            model.step(frames[:, 0], mask.repeat(1, 2, 1, 1))
        model.step(frames[:, 0], mask)
        with pytest.raises(ValueError, match="another size"):
            model.step(frames[:, 1, :, :20])
