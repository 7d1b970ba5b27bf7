"""`model:huggingface`: every model that transformers can load and that has no plugin of its own."""

from tkernel_plugins.models.family import Family

MODEL = Family("huggingface")
