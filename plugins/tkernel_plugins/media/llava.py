"""`media:llava`: pictures for LLaVA models, whose every picture has the same number of features."""

from __future__ import annotations

from tkernel import hookimpl
from tkernel.types.media import MediaProcessor
from tkernel.types.requests import MediaRequest
from tkernel_plugins.media.options import ImageOptions


class Llava:
    """Expands `<image>` and computes pixels with transformers' own image processor, without torchvision."""

    name = "llava"
    Options = ImageOptions

    @hookimpl
    def process_media(self, request: MediaRequest) -> MediaProcessor:
        """The processor for `request.bundle`, whose `processor` must be a LLaVA one."""
        from tkernel_plugins.media.llava_images import llava_images

        return llava_images(request.bundle, request.options or ImageOptions(), request.media_dir)


MEDIA = Llava()
