"""What moves while training: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import io

import pytest

from tkernel_plugins.training.arguments import build_arguments
from tkernel_plugins.training.checkpoints import Resume
from tkernel_plugins.training.errors import NonFiniteLoss
from tkernel_plugins.training.meter import Meter
from tkernel_plugins.training.progress import ProgressBar, ProgressLines, progress_callback
from tkernel_plugins.training.session import run


class Terminal(io.StringIO):
    """Standard error as a terminal has it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


def test_a_bar_with_loss_tokens_and_time_is_drawn_on_a_terminal(make_request, make_trainer, samples, capsys):
    request = make_request(
        max_steps=4, save_strategy="no", eval_strategy="steps", eval_steps=2, held_out=samples
    )
    with contextlib.redirect_stderr(Terminal()) as terminal:
        run(make_trainer(request, eval_dataset=samples), request, resume=Resume())
    drawn = terminal.getvalue()
    last = drawn.rpartition("training")[2]
    assert "4/4" in last
    assert "ETA 0:00:00" in last
    assert "tokens/s" in last
    assert "loss " in last
    assert drawn.count("eval_loss") == 2
    assert drawn.endswith("\x1b[?25h")  # the cursor is given back
    assert "step 2/4" not in capsys.readouterr().out


def test_the_terminal_is_given_back_when_a_run_fails(make_request, make_trainer):
    request = make_request(max_steps=4, save_strategy="no")
    request.bundle.module.lm_head.weight.data.fill_(float("nan"))
    with contextlib.redirect_stderr(Terminal()) as terminal, pytest.raises(NonFiniteLoss):
        run(make_trainer(request), request, resume=Resume())
    assert terminal.getvalue().endswith("\x1b[?25h")


def test_without_a_terminal_or_with_disable_tqdm_there_are_lines(make_request):
    quiet = build_arguments(make_request(disable_tqdm=True))
    with contextlib.redirect_stderr(Terminal()):
        assert isinstance(progress_callback(build_arguments(make_request()), Meter()), ProgressBar)
        assert isinstance(progress_callback(quiet, Meter()), ProgressLines)
    with contextlib.redirect_stderr(io.StringIO()):
        assert isinstance(progress_callback(build_arguments(make_request()), Meter()), ProgressLines)
