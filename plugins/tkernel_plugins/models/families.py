"""Model families by `model_type`, each with its default template and its linear layers."""

from tkernel_plugins.models.family import Family

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")

LLAMA = Family("llama", "llama3", _ATTENTION + _MLP)
MISTRAL = Family("mistral", "mistral", _ATTENTION + _MLP)
# The experts of a mixtral are stacked in one parameter; its linear layers are those of attention.
MIXTRAL = Family("mixtral", "mistral", _ATTENTION)
QWEN2 = Family("qwen2", "chatml", _ATTENTION + _MLP)
QWEN3 = Family("qwen3", "qwen3", _ATTENTION + _MLP)
GEMMA = Family("gemma", "gemma", _ATTENTION + _MLP)
GEMMA2 = Family("gemma2", "gemma", _ATTENTION + _MLP)
PHI3 = Family("phi3", "auto", ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"))
GLM = Family("glm", "auto", (*_ATTENTION, "gate_up_proj", "down_proj"))
# The language model inside may be of any family, so its layers are found in the model.
LLAVA = Family("llava", "auto", media="llava")
