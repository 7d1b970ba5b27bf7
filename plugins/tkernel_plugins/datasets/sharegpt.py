"""Dataset format `sharegpt`: a list of messages a row, roles and contents named by tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tkernel.hookspecs import hookimpl
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.checks import check_streaming
from tkernel_plugins.data.formats import EXTRA_COLUMNS, Format, Row, Sample
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.tagged import NEEDS, SHAREGPT_TAGS, sample_of

if TYPE_CHECKING:
    import datasets


def sharegpt_sample(row: Row) -> Sample:
    """The sample of one row, in which every question has exactly one answer."""
    return sample_of(row, results_may_follow=False)


SHAREGPT = Format(
    name="sharegpt",
    declared={"messages": "conversations"},
    detected={"messages": "conversations", **EXTRA_COLUMNS},
    tags=SHAREGPT_TAGS,
    convert=sharegpt_sample,
    needs=NEEDS,
)


class ShareGPT:
    """Reads the format `sharegpt`: `conversations` with `from` and `value` unless others are declared."""

    name = "sharegpt"
    Options = RowOptions
    check = staticmethod(check_streaming)
    kinds, unknown_names = SHAREGPT.kinds, SHAREGPT.unknown_names

    @hookimpl
    def load_dataset(self, request: DatasetRequest) -> datasets.Dataset | datasets.IterableDataset:
        """Read the entry into canonical rows."""
        from tkernel_plugins.data.rows import load_rows

        return load_rows(request, SHAREGPT)


DATASET: Any = ShareGPT()
