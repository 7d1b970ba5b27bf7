"""The contract of media plugins (`process_media`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from tkernel.errors import DataError
from tkernel.testing import tiny
from tkernel.testing.contract import Contract
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation, Message
from tkernel.types.media import MediaProcessor, MediaRefs
from tkernel.types.requests import MediaRequest


class MediaContract(Contract):
    """Placeholders and features of images, on a tiny model with a vision part."""

    kind = "media"
    model_type: ClassVar[str] = "llava"
    """The tiny model that the processor works for."""

    def bundle(self) -> ModelBundle:
        """A tiny multimodal model; override it for another family."""
        return tiny.make_bundle(self.model_type)

    def processor(self, bundle: ModelBundle | None = None, media_dir: Path | None = None) -> MediaProcessor:
        """Call the hook."""
        folder = str(media_dir) if media_dir is not None else None
        request = MediaRequest(bundle or self.bundle(), self.bound_options(), folder)
        processor: MediaProcessor = self.provider.process_media(request)
        return processor

    def feature_rows(self, bundle: ModelBundle, inputs: Any) -> int:
        """How many feature rows the model makes of collated inputs."""
        features = bundle.module.get_image_features(**inputs)
        features = getattr(features, "pooler_output", features)
        return sum(rows.shape[-2] for rows in features)

    def loss(self, bundle: ModelBundle, text: str, inputs: Any) -> float:
        """The model's loss on an expanded text with its media."""
        import torch

        ids = torch.tensor([bundle.tokenizer(text, add_special_tokens=False).input_ids])
        with torch.no_grad():
            return float(bundle.module(input_ids=ids, labels=ids, **inputs).loss)

    def test_placeholders_equal_feature_rows(self, tmp_path: Path) -> None:
        """After `expand` there is one placeholder token for each row of features."""
        bundle = self.bundle()
        processor = self.processor(bundle)
        images = (draw(tmp_path / "red.png", "red"), draw(tmp_path / "wide.png", "blue", (90, 30)))
        conversation = Conversation(
            (
                Message("user", "<image>What is it?"),
                Message("assistant", "Red."),
                Message("user", "And <image>this?"),
                Message("assistant", "Blue."),
            ),
            images=images,
        )
        expanded = processor.expand(conversation)
        token = bundle.module.config.image_token_id
        ids = [bundle.tokenizer(message.content).input_ids for message in expanded.messages]
        inputs = processor.collate([MediaRefs(images=images)])
        assert sum(message.count(token) for message in ids) == self.feature_rows(bundle, inputs)
        assert [token in message for message in ids] == [True, False, True, False]

    def test_expanding_keeps_the_text(self, tmp_path: Path) -> None:
        """Everything but the placeholders is as it was, and so are the references to media."""
        bundle = self.bundle()
        conversation = _asking(draw(tmp_path / "red.png", "red"))
        expanded = self.processor(bundle).expand(conversation)
        token = bundle.tokenizer.convert_ids_to_tokens(bundle.module.config.image_token_id)
        assert expanded.images == conversation.images
        assert [m.role for m in expanded.messages] == [m.role for m in conversation.messages]
        assert expanded.messages[0].content.replace(token, "") == "What is it?"
        assert expanded.messages[1] == conversation.messages[1]

    def test_a_conversation_without_media_is_unchanged(self) -> None:
        """Nothing is added where there is nothing to expand."""
        conversation = Conversation((Message("user", "What is it?"), Message("assistant", "Red.")))
        assert self.processor().expand(conversation) == conversation

    def test_expanding_reads_no_pixels(self, tmp_path: Path) -> None:
        """A picture whose size can be read is enough: its pixels are not needed before the collator."""
        image = draw(tmp_path / "red.png", "red", (60, 60))
        whole = self.processor().expand(_asking(image))
        data = Path(image).read_bytes()
        Path(image).write_bytes(data[: data.index(b"IDAT") + 8])
        assert self.processor().expand(_asking(image)) == whole

    def test_more_or_fewer_placeholders_than_media_is_an_error(self, tmp_path: Path) -> None:
        """A sample whose placeholders and media differ in number raises a DataError."""
        image = draw(tmp_path / "red.png", "red")
        processor = self.processor()
        for content, images in (("<image><image>What?", (image,)), ("What?", (image,)), ("<image>What?", ())):
            conversation = Conversation(
                (Message("user", content), Message("assistant", "Red.")), images=images
            )
            with pytest.raises(DataError):
                processor.expand(conversation)

    def test_a_missing_file_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        """A picture that is not there raises a DataError with its name, before anything is collated."""
        with pytest.raises(DataError) as caught:
            self.processor().expand(_asking(str(tmp_path / "absent.png")))
        assert "absent.png" in str(caught.value)

    def test_features_depend_on_the_picture(self, tmp_path: Path) -> None:
        """Two pictures give two losses for one text."""
        bundle = self.bundle()
        processor = self.processor(bundle)
        losses = set()
        for color in ("red", "blue"):
            image = draw(tmp_path / f"{color}.png", color)
            text = processor.expand(_asking(image)).messages[0].content
            losses.add(self.loss(bundle, text, processor.collate([MediaRefs(images=(image,))])))
        assert len(losses) == 2

    def test_a_batch_is_its_samples_one_after_the_other(self, tmp_path: Path) -> None:
        """Collating many samples, some without media, stacks what collating each alone gives."""
        import torch

        processor = self.processor()
        red = MediaRefs(images=(draw(tmp_path / "red.png", "red"),))
        wide = MediaRefs(images=(draw(tmp_path / "wide.png", "blue", (90, 30)),))
        batch = processor.collate([red, MediaRefs(), wide])
        singles = [processor.collate([sample]) for sample in (red, wide)]
        assert batch.keys() == singles[0].keys()
        for name in batch:
            assert batch[name].equal(torch.cat([single[name] for single in singles]))

    def test_a_batch_without_media_has_no_inputs(self) -> None:
        """Samples of text alone add nothing to the model's inputs."""
        assert dict(self.processor().collate([MediaRefs(), MediaRefs()])) == {}

    def test_paths_are_relative_to_the_media_folder(self, tmp_path: Path) -> None:
        """A relative path is looked up in `media_dir`."""
        image = draw(tmp_path / "red.png", "red")
        processor = self.processor(media_dir=tmp_path)
        assert processor.expand(_asking("red.png")).messages == processor.expand(_asking(image)).messages
        relative, absolute = (processor.collate([MediaRefs(images=(ref,))]) for ref in ("red.png", image))
        assert all(relative[name].equal(absolute[name]) for name in absolute)

    def test_bytes_are_as_good_as_a_path(self, tmp_path: Path) -> None:
        """A picture given as the bytes of its file is the same picture."""
        image = draw(tmp_path / "red.png", "red")
        data = Path(image).read_bytes()
        processor = self.processor()
        assert processor.expand(_asking(data)).messages == processor.expand(_asking(image)).messages
        given, read = (processor.collate([MediaRefs(images=(ref,))]) for ref in (data, image))
        assert all(given[name].equal(read[name]) for name in read)


def draw(file: Path, color: str, size: tuple[int, int] = (40, 40)) -> str:
    """Write a picture of one colour with a diagonal across; its path."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", size, color)
    ImageDraw.Draw(image).line((0, 0, *size), fill="white", width=3)
    image.save(file)
    return str(file)


def _asking(image: Any) -> Conversation:
    return Conversation(
        (Message("user", "<image>What is it?"), Message("assistant", "Red.")), images=(image,)
    )
