"""A stage that generates in a module that imports what it should not."""

import numpy

from tkernel_plugins.stages.grpo import STAGE

__all__ = ["STAGE", "numpy"]
