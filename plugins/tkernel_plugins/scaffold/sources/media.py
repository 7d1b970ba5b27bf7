"""`media: demo`: pictures for models of LLaVA's kind, by the model's own processor."""

import io
from dataclasses import replace
from pathlib import Path

from tkernel import hookimpl
from tkernel.errors import DataError

PLACEHOLDER = "<image>"


class Processor:
    """Every picture becomes the same number of tokens, because it is cropped to one size."""

    def __init__(self, bundle, media_dir):
        self.processor = bundle.processor
        self.token = bundle.tokenizer.convert_ids_to_tokens(bundle.module.config.image_token_id)
        self.media_dir = Path(media_dir or ".")

    def open(self, image):
        """A picture from a path or from the bytes of a file; its pixels are not read yet."""
        from PIL import Image

        try:
            return Image.open(io.BytesIO(image) if isinstance(image, bytes) else self.media_dir / image)
        except OSError as error:
            raise DataError(f"the picture {image!r} cannot be opened: {error}") from error

    def expand(self, conversation):
        count = sum(message.content.count(PLACEHOLDER) for message in conversation.messages)
        if count != len(conversation.images):
            raise DataError(f"{count} {PLACEHOLDER} placeholders and {len(conversation.images)} pictures")
        sizes = [self.open(image).size[::-1] for image in conversation.images]
        if not sizes:
            return conversation
        tokens = self.processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens[0]
        messages = (
            replace(message, content=message.content.replace(PLACEHOLDER, self.token * tokens))
            for message in conversation.messages
        )
        return conversation.replace(messages=tuple(messages))

    def collate(self, samples):
        images = [self.open(image).convert("RGB") for sample in samples for image in sample.images]
        return dict(self.processor.image_processor(images, return_tensors="pt")) if images else {}


class Media:
    """Needs a bundle with a processor."""

    name = "demo"

    @hookimpl
    def process_media(self, request):
        return Processor(request.bundle, request.media_dir)


MEDIA = Media()
