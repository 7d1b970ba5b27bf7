"""Gradient checkpointing is chosen by what activations take, unless the user has chosen."""

from __future__ import annotations

import pytest

from tkernel.testing import tiny
from tkernel_plugins.training import memory


@pytest.mark.parametrize(
    ("free", "settings", "checkpoints"),
    [
        (2**40, {}, False),
        (2**20, {}, True),
        (2**20, {"disable_gradient_checkpointing": True}, False),
        (None, {}, False),
    ],
)
def test_activations_are_computed_twice_only_where_they_do_not_fit(
    make_trainer, make_request, monkeypatch, free, settings, checkpoints
):
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    request = make_request(bundle=tiny.make_bundle())
    request.settings.update(settings)
    trainer = make_trainer(request, longest=4096)
    lines = memory.settle_checkpointing(trainer, request, memory.Held.of_text(trainer))
    assert any(getattr(m, "gradient_checkpointing", False) for m in trainer.model.modules()) == checkpoints
    assert [line.startswith("memory     activations") for line in lines] == [True] * checkpoints


def test_samples_that_are_joined_by_piece_need_less_than_a_batch(make_trainer, make_request):
    whole = make_trainer(make_request(per_device_train_batch_size=8), longest=64, fused=False)
    pieces = make_trainer(make_request(per_device_train_batch_size=8), longest=64)
    held, more = memory.Held.of_text(pieces), memory.Held.of_text(whole)
    assert memory.activations(pieces, held) < memory.activations(whole, more)
    assert memory.Held.of_text(make_trainer(make_request(), longest=None)) is None


def test_free_memory_is_a_positive_number():
    free = memory.free_bytes()
    assert free is None or free > 0
