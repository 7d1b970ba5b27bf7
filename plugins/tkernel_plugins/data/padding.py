"""Lists of different lengths as one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tkernel.types.media import MediaProcessor, MediaRefs
from tkernel_plugins.data.canonical import MEDIA, media_value

if TYPE_CHECKING:
    import torch

IGNORED = -100


def padded(
    rows: Sequence[Sequence[float]],
    fill: float,
    dtype: torch.dtype,
    *,
    multiple: int | None,
    left: bool = False,
) -> torch.Tensor:
    """`rows` as a tensor of shape (rows, longest rounded up to `multiple`), filled with `fill` on one side."""
    import torch

    step = multiple or 1
    longest = max(map(len, rows), default=0)
    tensor = torch.full((len(rows), -(-longest // step) * step), fill, dtype=dtype)
    for number, row in enumerate(rows):
        if len(row):
            place = slice(-len(row), None) if left else slice(len(row))
            tensor[number, place] = torch.as_tensor(row, dtype=dtype)
    return tensor


def attention_mask(rows: Sequence[Sequence[int]], width: int, *, left: bool = False) -> torch.Tensor:
    """int64 (rows, width): 1 where `padded` puts a token, 0 where it fills."""
    import torch

    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)[:, None]
    places = torch.arange(width)[None]
    return (places >= width - lengths if left else places < lengths).long()


def sequences(
    ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float] | None],
    *,
    pad_token_id: int,
    multiple: int | None,
    learn_padding: bool,
) -> dict[str, torch.Tensor]:
    """Sequences to train on, padded on the right: int64 `input_ids`, `labels` and `attention_mask` (by
    position: the padding token may also occur in a sample), all of shape (sequences, length); float32
    `weights` if any sequence has them, 1 for those that have none.

    Padding is learned (its labels are `pad_token_id`) only with `learn_padding`.
    """
    import torch

    ignored = pad_token_id if learn_padding else IGNORED
    batch = {
        "input_ids": padded(ids, pad_token_id, torch.long, multiple=multiple),
        "labels": padded(labels, ignored, torch.long, multiple=multiple),
    }
    batch["attention_mask"] = attention_mask(ids, batch["input_ids"].shape[1])
    if any(row is not None for row in weights):
        filled = [[1.0] * len(row) if own is None else own for row, own in zip(ids, weights, strict=True)]
        batch["weights"] = padded(filled, 1.0, torch.float32, multiple=multiple)
    return batch


def media_inputs(media: MediaProcessor | None, samples: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the media processor makes of the images, videos and audios of `samples`; nothing without one."""
    return {} if media is None else media.collate([references_of(sample) for sample in samples])


def references_of(sample: Mapping[str, Any]) -> MediaRefs:
    """The media of a sample."""
    return MediaRefs(**{name: tuple(map(media_value, sample.get(name) or ())) for name in MEDIA})
