"""What transformers knows of its models is the same whether it reads their files once or twice."""

from __future__ import annotations

import json
import subprocess
import sys

WHAT_IS_KNOWN = """
import builtins, contextlib, json, sys
from tkernel_plugins.read_once import models_read_once
opened, real = [], open
def counted(file, *rest, **named):
    opened.append(str(file))
    return real(file, *rest, **named)
builtins.open = counted
with {context}:
    import transformers
    import transformers.models
    read = sum(name.replace("\\\\", "/").endswith("/llama/modeling_llama.py") for name in opened)
    from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import import_utils
known = {{
    package.__name__: [
        sorted(package._class_to_module.items()),
        sorted((name, sorted(lacks)) for name, lacks in package._object_missing_backend.items()),
        sorted(package._modules),
        sorted(dir(package)),
    ]
    for package in (transformers, transformers.models)
}}
file = import_utils.__file__
again = import_utils.define_import_structure(transformers.models.__file__)
known["again"] = sorted((sorted(k), sorted((m, sorted(n)) for m, n in v.items())) for k, v in again.items())
print(json.dumps([read, import_utils.__spec__.loader.get_filename() == file, len(sys.meta_path), known]))
"""


def told(context: str) -> list:
    code = WHAT_IS_KNOWN.format(context=context)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_transformers_knows_the_same_of_its_models_and_reads_each_file_once():
    once, twice = told("models_read_once()"), told("contextlib.nullcontext()")
    assert (once[0], twice[0]) == (1, 2)
    assert once[1:] == twice[1:]
    assert len(once[3]["transformers"][0]) > 1000
