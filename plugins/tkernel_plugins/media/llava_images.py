"""Pictures of LLaVA models. Not a plugin; the library of `llava`.

Every picture becomes the same number of feature rows: those of the vision tower's patches, and of its class
token if `vision_feature_select_strategy` is `full`. Paper: https://arxiv.org/abs/2310.03744
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tkernel import Conversation, ModelBundle
from tkernel.errors import DataError, TkError
from tkernel.types.conversation import Message
from tkernel.types.media import MediaRefs
from tkernel_plugins.media.options import ImageOptions
from tkernel_plugins.media.pictures import load_picture, open_picture

PLACEHOLDER = "<image>"

_WITHOUT_CLASS_TOKEN = ("siglip_vision_model", "siglip2_vision_model")


@dataclass(frozen=True)
class LlavaImages:
    """A media processor.

    `token` is the model's image token, of which `rows` stand for one picture; `processor` is an image
    processor of transformers that makes `pixel_values` of shape (pictures, 3, height, width).
    """

    token: str
    rows: int
    processor: Any
    options: ImageOptions
    media_dir: str | None = None

    def expand(self, conversation: Conversation) -> Conversation:
        """Each `<image>` replaced by `rows` image tokens.

        Raises:
            DataError: placeholders and pictures differ in number, a picture cannot be opened, or there are
                videos or audio.
        """
        for kind in ("videos", "audios"):
            if getattr(conversation, kind):
                raise DataError(f"the row has {kind}; LLaVA reads pictures only")
        placeholders = sum(message.content.count(PLACEHOLDER) for message in conversation.messages)
        if placeholders != len(conversation.images):
            raise DataError(
                f"{_counted(placeholders, PLACEHOLDER)} in the messages and "
                f"{_counted(len(conversation.images), 'picture')} in the row",
                hint=f"Every picture needs one {PLACEHOLDER} in a message, in the same order.",
            )
        for reference in conversation.images:
            open_picture(reference, self.media_dir).close()
        if not placeholders:
            return conversation
        return conversation.replace(messages=tuple(map(self._expand, conversation.messages)))

    def collate(self, samples: Sequence[MediaRefs]) -> Mapping[str, Any]:
        """`pixel_values` of all pictures of a batch, in order; nothing for a batch without pictures."""
        pictures = [
            load_picture(reference, self.media_dir, self.options)
            for sample in samples
            for reference in sample.images
        ]
        if not pictures:
            return {}
        return {"pixel_values": self.processor(images=pictures, return_tensors="pt")["pixel_values"]}

    def _expand(self, message: Message) -> Message:
        first, *others = message.content.split(PLACEHOLDER)
        text, written = first, list(message.expanded)
        for other in others:
            written.append((len(text), len(text) + self.rows * len(self.token)))
            text += self.token * self.rows + other
        return dataclasses.replace(message, content=text, expanded=tuple(written))


def llava_images(bundle: ModelBundle, options: ImageOptions, media_dir: str | None) -> LlavaImages:
    """The processor of pictures for a LLaVA model.

    Raises:
        TkError: the model has no image processor, or one whose pictures differ in size; limits that exclude
            each other.
    """
    from PIL import Image
    from transformers import AutoConfig

    name = bundle.facts.name
    # Without weights, to look at data, there is no module.
    config = AutoConfig.for_model(**bundle.facts.config) if bundle.module is None else bundle.module.config
    processor = getattr(bundle.processor, "image_processor", None)
    if processor is None:
        raise TkError(
            f"{name} has no image processor",
            hint="The model's folder needs preprocessor_config.json or processor_config.json.",
        )
    if options.image_min_pixels > options.image_max_pixels or options.image_min_pixels < 1:
        raise TkError(
            f"`image_min_pixels: {options.image_min_pixels}` and `image_max_pixels: {options.image_max_pixels}` "
            "leave no size for a picture"
        )
    probes = [Image.new("RGB", size) for size in ((64, 64), (96, 48))]
    shapes = {tuple(processor(images=[probe], return_tensors="pt")["pixel_values"].shape) for probe in probes}
    shape = shapes.pop()
    if shapes or len(shape) != 4 or shape[0] != 1:
        raise TkError(
            f"{type(processor).__name__} of {name} makes pictures of several sizes; `media: llava` is for models "
            "whose pictures are all resized to one",
            hint="A media plugin of that model's own is needed: tk plugins new media NAME",
        )
    patch = config.vision_config.patch_size
    rows = (shape[2] // patch) * (shape[3] // patch)
    has_class_token = config.vision_config.model_type not in _WITHOUT_CLASS_TOKEN
    rows += int(has_class_token) - int(config.vision_feature_select_strategy == "default")
    token = bundle.tokenizer.convert_ids_to_tokens(config.image_token_id)
    return LlavaImages(str(token), rows, processor, options, media_dir)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("s" if thing != PLACEHOLDER and count != 1 else "")
