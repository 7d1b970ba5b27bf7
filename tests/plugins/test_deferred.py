"""Libraries that are imported and seldom used; each case in a process of its own, as in `tk run`."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORTED = """
import inspect, sys, threading
from tkernel_plugins.deferred import deferred
with deferred():
    import boto3
    import scipy.optimize
    from scipy.optimize import linear_sum_assignment
inspect.getmodule(inspect.currentframe())
assert "boto3.session" not in sys.modules and "scipy.optimize._lsap" not in sys.modules
"""


def holds(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "assert boto3.__version__ and boto3.session.Session.__module__ == 'boto3.session'",
        "from boto3.session import Session; assert boto3.session.Session is Session",
        "from boto3 import *; import boto3 as again; assert again is boto3 and again.Session",
        "assert linear_sum_assignment([[1, 9], [9, 1]])[1].tolist() == [0, 1]",
        "assert scipy.optimize.minimize(lambda x: (x - 3) ** 2, 0).x.round(3) == 3",
        "import scipy.optimize._lsap; from scipy.optimize import minimize; assert minimize.__module__",
        "assert type(boto3.DEFAULT_SESSION) is type(None) and type(boto3) is type(sys)",
        "assert boto3.Session; assert boto3.__spec__.loader is boto3.__loader__ is not None",
        "assert not hasattr(boto3, 'nothing_of_this_name')",
    ],
)
def test_what_is_used_after_all_is_the_library_itself(code: str) -> None:
    holds(code)


def test_threads_that_use_it_at_once_all_find_it_whole() -> None:
    holds(
        "found = []\n"
        "threads = [threading.Thread(target=lambda: found.append(boto3.client)) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert len(found) == 8 and len(set(found)) == 1"
    )


def test_a_module_that_was_imported_before_stays_as_it_is() -> None:
    code = "import boto3\nfrom tkernel_plugins.deferred import deferred\nwith deferred():\n    import boto3 as b\nassert 'boto3.session' in __import__('sys').modules and b is boto3"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_importing_what_trains_executes_none_of_them() -> None:
    holds(
        "with deferred():\n"
        "    import tkernel_plugins.training.session, tkernel_plugins.adapters.lora_layers\n"
        "    import transformers.models.llama.modeling_llama\n"
        "assert 'accelerate' in sys.modules and 'botocore' not in sys.modules\n"
        "assert 'scipy.optimize._lsap' not in sys.modules"
    )
