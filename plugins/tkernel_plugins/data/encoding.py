"""The encoder of each kind of rows; `prepare` calls it batch by batch, in the final order of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tkernel.errors import TkError
from tkernel.types.media import MediaProcessor
from tkernel.types.rendering import Renderer
from tkernel_plugins.data.encode_feedback import FeedbackEncoder
from tkernel_plugins.data.encode_preference import PreferenceEncoder
from tkernel_plugins.data.encode_prompt import PromptEncoder
from tkernel_plugins.data.encode_supervised import SupervisedEncoder
from tkernel_plugins.data.encode_text import TextEncoder
from tkernel_plugins.data.options import PrepareOptions

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from tkernel_plugins.data.packing import Packing


class Encoder(Protocol):
    """Canonical rows of one kind to samples, a batch at a time; can be sent to another process."""

    counted: ClassVar[tuple[str, ...]]
    """The columns whose lengths are the tokens of a sample."""
    optional: ClassVar[tuple[str, ...]]
    """The columns to leave out where no sample of the data has anything in them."""

    @property
    def features(self) -> datasets.Features:
        """All columns of the samples, with those for counting: `supervised`, `dropped`, `reason`, `detail`."""
        ...

    def __call__(self, table: pa.Table) -> pa.Table:
        """The samples of the rows of `table`, in their order; a row that cannot be used keeps its place, with
        a `reason` and no ids.

        Raises:
            DataError: a row cannot be used, and the encoder is strict or `truncation` is `error`.
        """
        ...


def encoder_for(
    rows: str,
    *,
    renderer: Renderer,
    tokenizer: Any,
    options: PrepareOptions,
    media: MediaProcessor | None = None,
    strict: bool = True,
    packing: Packing | None = None,
) -> Encoder:
    """The encoder of rows of a kind.

    Args:
        rows: `supervised`, `preference`, `feedback`, `prompt` or `text`.
        strict: a row that cannot be rendered is an error; else it is counted.
        packing: how samples will be packed, which decides how long they may be.

    Raises:
        TkError: an option that rows of this kind cannot follow.
    """
    _check(rows, options)
    cutoff_len = options.cutoff_len if packing is None else packing.encode_len
    if rows == "text":
        end = getattr(renderer, "end_of_text", None) or tokenizer.eos_token
        if end is None:
            raise TkError(
                "the tokenizer has no end-of-sequence token to put between documents",
                hint="Choose the template that belongs to the model, which names one.",
            )
        return TextEncoder(tokenizer, end, cutoff_len, options.truncation)
    common: dict[str, Any] = {
        "renderer": renderer,
        "tokenizer": tokenizer,
        "media": media,
        "cutoff_len": cutoff_len,
        "truncation": options.truncation,
        "strict": strict,
    }
    if rows == "preference":
        return PreferenceEncoder(**common)
    if rows == "feedback":
        return FeedbackEncoder(**common)
    if rows == "prompt":
        return PromptEncoder(**common)
    return SupervisedEncoder(
        **common, train_on_prompt=options.train_on_prompt, mask_history=options.mask_history
    )


def _check(rows: str, options: PrepareOptions) -> None:
    """Raise for an option that means nothing for rows of this kind."""
    if rows not in ("supervised", "preference", "feedback", "prompt", "text"):
        raise TkError(f"there are no rows of kind {rows!r}")
    if options.train_on_prompt and rows in ("preference", "feedback", "prompt"):
        raise TkError(
            f"`train_on_prompt` is for conversations and text: {rows} rows learn completions alone",
            hint="Leave it out.",
        )
    if options.mask_history and rows == "text":
        raise TkError("`mask_history` is for conversations, and text has no replies", hint="Leave it out.")
    if options.truncation == "split" and rows in ("preference", "feedback", "prompt"):
        raise TkError(
            f"`truncation: split` is for conversations and text: {rows} rows cannot be divided",
            hint="Use proportional, keep_start, keep_end, drop or error.",
        )
