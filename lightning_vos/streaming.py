"""A video streamed through a segmenter, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lightning_vos.functional import one_hot, shrink_labels, to_labels
from lightning_vos.segmenter import Segmenter
from lightning_vos.video import Video


def stream(
    segmenter: Segmenter,
    video: Video,
    on_start: Callable[[int], None] | None = None,
    on_logits: Callable[[int, Tensor], None] | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Segment a video from ``video.start`` on; no more than a few frames of it exist at any time.

    Args:
        segmenter: outside of a sequence. Its sequence ends when the iterator does, or is closed.
        video: its prompts are brought to the size of the frames; every object keeps a pixel.
        on_start: called with the number of every frame that lies on the device and is about to be segmented.
        on_logits: called with the number of every frame that was segmented and its logits ``(1, K+1, h, w)``.

    Yields:
        Number of the frame, the frame ``(3, h, w)`` uint8 RGB, and its labels ``(H, W)`` uint8 of size ``video.size``,
        0 background, 1..K, both on the device.

    Raises:
        ValueError, OSError: as the video says.
    """
    given = {t: int(prompt.max()) for t, prompt in video.prompts.items()}
    num_objects = max((count for t, count in given.items() if t < video.start), default=0)
    with segmenter.sequence():
        if video.state is not None:
            segmenter.load_sequence_state(video.state)
            video.state = None
        for t, frame in enumerate(video, video.start):
            mask = None
            if t in video.prompts:
                prompt = shrink_labels(video.prompts[t].to(frame.device), (frame.shape[-2], frame.shape[-1]))
                num_objects = max(num_objects, given[t])
                mask = one_hot(prompt, num_objects).unsqueeze(0)
            if on_start is not None:
                on_start(t)
            if mask is None and num_objects == 0:  # nothing to follow yet
                labels = torch.zeros(video.size, dtype=torch.uint8, device=frame.device)
            else:
                logits = segmenter.step(frame.unsqueeze(0), mask, remember=t < len(video) - 1)
                if on_logits is not None:
                    on_logits(t, logits)
                labels = to_labels(logits, video.size)[0]
            yield t, frame, labels
