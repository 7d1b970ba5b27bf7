"""Stages that generate on two processes: each makes its own completions, and both have the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tkernel.testing import tiny
from tkernel_plugins.training import value_head

SCRIPT = textwrap.dedent(
    """
    import hashlib, json, os, sys
    from pathlib import Path
    from online_kit import ROWS, train

    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    result = train(folder, held_out=ROWS[:4], eval_strategy="steps", eval_steps=2, **options)
    digest = hashlib.sha256()
    for name, value in sorted(result.bundle.module.named_parameters()):
        digest.update(value.detach().numpy().tobytes())
    (folder / f"weights{os.environ['RANK']}").write_text(digest.hexdigest())
    """
)
GROUP = {"num_generations": 4, "max_completion_length": 6}
STAGES = {
    "grpo": {**GROUP, "scale_rewards": "batch", "num_iterations": 2, "beta": 0.1},
    "rloo": {**GROUP, "normalize_advantages": True},
    "ppo": {"max_new_tokens": 6, "ppo_score_norm": True, "ppo_whiten_rewards": True, "ppo_buffer_size": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_both_processes_have_the_same_weights(stage, tmp_path, request):
    tiny.save_model(tmp_path / "model")
    options = {"stage": stage, **STAGES[stage]}
    if stage == "ppo":
        tiny.save_model(tmp_path / "reward", seed=5)
        model = tiny.make_model(seed=5)
        value_head.attach(model, seed=5)
        value_head.save(model, tmp_path / "reward")
        options |= {"reward_model": str(tmp_path / "reward"), "reward_model_type": "full"}
    else:
        options["reward_funcs"] = [f"{request.path.with_name('online_kit.py')}:low_bytes"]
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", str(tmp_path / "script.py")]
    environment = {**os.environ, "PYTHONPATH": str(request.path.parent), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path), json.dumps(options)], check=True, timeout=300, env=environment)
    first, second = ((tmp_path / f"weights{rank}").read_text() for rank in (0, 1))
    assert first == second
