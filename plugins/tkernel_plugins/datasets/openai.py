"""Dataset format `openai`: `messages` as in OpenAI's chat protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tkernel.hookspecs import hookimpl
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.checks import check_streaming
from tkernel_plugins.data.formats import EXTRA_COLUMNS, Format, Row, Sample
from tkernel_plugins.data.options import RowOptions
from tkernel_plugins.data.tagged import NEEDS, OPENAI_TAGS, sample_of

if TYPE_CHECKING:
    import datasets


def openai_sample(row: Row) -> Sample:
    """The sample of one row, in which results of several tool calls may follow each other."""
    return sample_of(row, results_may_follow=True)


OPENAI = Format(
    name="openai",
    declared={"messages": "messages"},
    detected={"messages": "messages", **EXTRA_COLUMNS},
    tags=OPENAI_TAGS,
    convert=openai_sample,
    needs=NEEDS,
)


class OpenAI:
    """Reads the format `openai`.

    Contents may be lists of parts: text stays, media become placeholders and references. LLaMA-Factory
    adds "detailed thinking off" to the system prompt of such rows, whatever the model; this is not done.
    """

    name = "openai"
    Options = RowOptions
    check = staticmethod(check_streaming)
    kinds, unknown_names = OPENAI.kinds, OPENAI.unknown_names

    @hookimpl
    def load_dataset(self, request: DatasetRequest) -> datasets.Dataset | datasets.IterableDataset:
        """Read the entry into canonical rows."""
        from tkernel_plugins.data.rows import load_rows

        return load_rows(request, OPENAI)


DATASET: Any = OpenAI()
