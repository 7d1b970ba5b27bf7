"""What keys mean that are not declared by a plugin: training arguments, older names, those of LLaMA-Factory."""
