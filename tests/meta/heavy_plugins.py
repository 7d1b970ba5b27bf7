"""A plugin module that imports what it should not: the mutant of the check that all suites share."""

import numpy
from tk_demo_adapter import ADAPTER
from tk_demo_dataset import DATASET
from tk_demo_engine import ENGINE
from tk_demo_media import MEDIA
from tk_demo_model import MODEL
from tk_demo_stage import STAGE
from tk_demo_template import TEMPLATE

__all__ = ["ADAPTER", "DATASET", "ENGINE", "MEDIA", "MODEL", "STAGE", "TEMPLATE", "numpy"]
