"""Training arguments that newer transformers dropped and LLaMA-Factory's files still use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rename:
    """What became of an argument.

    `new` is its name today: an argument, `$VARIABLE` for an environment variable, or None where only one
    behaviour is left. Then `same` are the values that ask for it, and `note` says what it is. `type`
    (and `bounds`) is what the old argument took, where `values` translates it or it was narrower.
    """

    new: str | None
    note: str = ""
    same: tuple[Any, ...] = ()
    type: Any = None
    bounds: Mapping[str, float] = field(default_factory=dict)
    values: Callable[[Any], Any] | None = None


RENAMES: Mapping[str, Rename] = {
    "adafactor": Rename("optim", type=bool, values={True: "adafactor", False: "adamw_torch"}.get),
    "dispatch_batches": Rename(None, "write it under accelerator_config", same=(None,)),
    "evaluation_strategy": Rename("eval_strategy"),
    "fp16_backend": Rename(None, "torch's own mixed precision is used", same=("auto", "amp", None)),
    "fp16_opt_level": Rename(None, "torch's own mixed precision is used", same=("O1", None)),
    "fsdp_min_num_params": Rename(None, "write it under fsdp_config", same=(0, None)),
    "fsdp_transformer_layer_cls_to_wrap": Rename(None, "write it under fsdp_config", same=(None,)),
    "gradient_checkpointing": Rename("activation_checkpointing"),
    "gradient_checkpointing_kwargs": Rename("activation_checkpointing_kwargs"),
    "group_by_length": Rename(
        "train_sampling_strategy", type=bool, values={True: "group_by_length", False: "random"}.get
    ),
    "half_precision_backend": Rename(None, "torch's own mixed precision is used", same=("auto", None)),
    "include_inputs_for_metrics": Rename(
        "include_for_metrics", type=bool, values=lambda value: ["inputs"] if value else []
    ),
    "include_tokens_per_second": Rename(None, "tokens per second are always logged", same=(True, False)),
    "jit_mode_eval": Rename(None, "TorchScript is not used", same=(False,)),
    "logging_dir": Rename("$TENSORBOARD_LOGGING_DIR"),
    "mp_parameters": Rename(None, "SageMaker's model parallelism is not there", same=("", None)),
    "no_cuda": Rename("use_cpu"),
    "past_index": Rename(None, "past states are not carried along", same=(-1,)),
    "per_gpu_eval_batch_size": Rename("per_device_eval_batch_size"),
    "per_gpu_train_batch_size": Rename("per_device_train_batch_size"),
    "push_to_hub_model_id": Rename("hub_model_id"),
    "push_to_hub_token": Rename("hub_token"),
    "ray_scope": Rename(None, "hyper-parameter search is not there", same=("last",)),
    "save_safetensors": Rename(None, "weights are always saved as safetensors", same=(True, None)),
    "split_batches": Rename(None, "write it under accelerator_config", same=(False, None)),
    "torchscript": Rename(None, "TorchScript is not used", same=(False,)),
    "tpu_metrics_debug": Rename(None, "write debug: tpu_metrics_debug", same=(False,)),
    "tpu_num_cores": Rename(None, "TPU cores are found by accelerate", same=(None,)),
    "use_ipex": Rename(None, "Intel's extension is not used", same=(False,)),
    "use_legacy_prediction_loop": Rename(None, "there is one prediction loop", same=(False,)),
    "use_mps_device": Rename(None, "an Apple GPU is used where there is one", same=(True, False)),
    "warmup_ratio": Rename(
        "warmup_steps", "below 1 it is a share of all steps", type=float, bounds={"ge": 0, "lt": 1}
    ),
    "xpu_backend": Rename("ddp_backend"),
}
"""Old name -> what became of it; used only where the installed class lacks the old name."""
