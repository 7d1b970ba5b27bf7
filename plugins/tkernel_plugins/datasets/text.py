"""Dataset format `text`: plain text to learn as it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tkernel.hookspecs import hookimpl
from tkernel.types.conversation import Conversation
from tkernel.types.requests import DatasetRequest
from tkernel_plugins.data.checks import check_streaming
from tkernel_plugins.data.formats import BadRow, Format, Row, Sample
from tkernel_plugins.data.options import RowOptions

if TYPE_CHECKING:
    import datasets


def text_sample(row: Row) -> Sample:
    """The text of one row; raises `BadRow`."""
    if row.kind != "text":
        raise BadRow(f"a text is not a {row.kind} row")
    text = row.as_text("prompt", row.need("prompt"))
    if not text.strip():
        raise BadRow("an empty text")
    return Sample(Conversation(()), text=text)


TEXT = Format(
    name="text",
    declared={"prompt": "text"},
    detected={"prompt": "text"},
    tags={},
    convert=text_sample,
    needs={"text": [("prompt",)]},
)


class Text:
    """Reads the format `text`: the column `text`, or the lines of a `.txt` file."""

    name = "text"
    Options = RowOptions
    check = staticmethod(check_streaming)
    rows = "text"
    kinds, unknown_names = TEXT.kinds, TEXT.unknown_names

    @hookimpl
    def load_dataset(self, request: DatasetRequest) -> datasets.Dataset | datasets.IterableDataset:
        """Read the entry into canonical rows."""
        from tkernel_plugins.data.rows import load_rows

        return load_rows(request, TEXT)


DATASET: Any = Text()
