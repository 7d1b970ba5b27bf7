"""Pictures of LLaVA models: rows, limits, errors, and a model that learns from them."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from PIL import Image

from tkernel.errors import DataError, TkError
from tkernel.testing import tiny
from tkernel.testing.media import draw
from tkernel.types.conversation import Conversation, Message
from tkernel.types.media import MediaRefs
from tkernel.types.requests import MediaRequest
from tkernel_plugins.media.llava import MEDIA
from tkernel_plugins.media.options import ImageOptions
from tkernel_plugins.media.pictures import load_picture


def processor(bundle, media_dir=None, **options):
    return MEDIA.process_media(MediaRequest(bundle, ImageOptions(**options), media_dir and str(media_dir)))


def asking(*images, content="<image>What?"):
    return Conversation((Message("user", content), Message("assistant", "Red.")), images=images)


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("tower", ["clip_vision_model", "siglip_vision_model"])
def test_placeholders_equal_feature_rows_for_every_tower_and_strategy(tmp_path, strategy, tower):
    from transformers import AutoConfig, AutoModelForImageTextToText

    bundle = tiny.make_bundle("llava")
    config = bundle.module.config
    vision = config.vision_config.to_dict() | {"model_type": tower}
    config = AutoConfig.for_model(
        "llava",
        vision_config=vision,
        text_config=config.text_config,
        image_token_index=config.image_token_id,
        vision_feature_select_strategy=strategy,
    )
    bundle = bundle.replace(module=AutoModelForImageTextToText.from_config(config).eval())
    media = processor(bundle)
    image = draw(tmp_path / "red.png", "red")
    inputs = media.collate([MediaRefs(images=(image,))])
    ids = bundle.tokenizer(media.expand(asking(image)).messages[0].content, return_tensors="pt").input_ids
    features = bundle.module.get_image_features(**inputs)
    rows = getattr(features, "pooler_output", features)[0].shape[-2]
    assert int((ids == config.image_token_id).sum()) == rows
    assert bundle.module(input_ids=ids, **inputs).logits.isfinite().all()


def test_what_was_written_for_a_placeholder_is_marked_and_nothing_else(tmp_path):
    image = draw(tmp_path / "red.png", "red")
    media = processor(tiny.make_bundle("llava"))
    message = media.expand(asking(image, image, content="a<image>bc<image>")).messages[0]
    written = media.token * media.rows
    assert message.content == f"a{written}bc{written}"
    assert [message.content[start:end] for start, end in message.expanded] == [written, written]


def test_the_processor_travels_to_worker_processes(tmp_path):
    image = draw(tmp_path / "red.png", "red")
    media = processor(tiny.make_bundle("llava"))
    again = pickle.loads(pickle.dumps(media))
    assert again.expand(asking(image)) == media.expand(asking(image))


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((100, 50), {}, (100, 50)),
        ((1536, 1536), {}, (768, 768)),
        ((200, 100), {"image_max_pixels": 5000}, (100, 50)),
        ((10, 40), {"image_min_pixels": 1600}, (20, 80)),
    ],
)
def test_pictures_are_brought_within_the_limits(tmp_path, size, limits, expected):
    image = draw(tmp_path / "picture.png", "red", size)
    assert load_picture(image, None, ImageOptions(**limits)).size == expected


def test_pictures_of_every_mode_become_rgb(tmp_path):
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        file = tmp_path / f"{mode}.{'tiff' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (40, 40)).save(file)
        assert load_picture(str(file), None, ImageOptions()).mode == "RGB"


def test_limits_that_exclude_each_other_are_an_error():
    with pytest.raises(TkError, match="image_min_pixels"):
        processor(tiny.make_bundle("llava"), image_min_pixels=100, image_max_pixels=10)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "odd.png").write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.png"):
        processor(tiny.make_bundle("llava")).expand(asking(str(tmp_path / "odd.png")))
    with pytest.raises(DataError, match=f"{len(content)} bytes"):
        processor(tiny.make_bundle("llava")).expand(asking(content))


def test_pixels_that_are_cut_off_are_an_error_that_names_the_file(tmp_path):
    image = tmp_path / "cut.png"
    draw(image, "red", (300, 300))
    image.write_bytes(image.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cut\.png is damaged"):
        processor(tiny.make_bundle("llava")).collate([MediaRefs(images=(str(image),))])


def test_a_url_videos_and_audio_are_errors(tmp_path):
    media = processor(tiny.make_bundle("llava"))
    with pytest.raises(DataError, match="URL"):
        media.expand(asking("https://example.org/red.png"))
    for kind in ("videos", "audios"):
        with pytest.raises(DataError, match=kind):
            media.expand(Conversation((Message("user", "Hi"),), **{kind: ("a",)}))


def test_a_count_mismatch_says_both_numbers(tmp_path):
    image = draw(tmp_path / "red.png", "red")
    with pytest.raises(DataError, match="2 <image> in the messages and 1 picture in"):
        processor(tiny.make_bundle("llava")).expand(asking(image, content="<image><image>"))


def test_a_model_without_an_image_processor_is_an_error():
    with pytest.raises(TkError, match="no image processor"):
        processor(tiny.make_bundle("llava").replace(processor=None))


def test_an_image_processor_without_a_fixed_size_is_an_error():
    bundle = tiny.make_bundle("llava")
    bundle.processor.image_processor.do_center_crop = False
    with pytest.raises(TkError, match="several sizes"):
        processor(bundle)


def test_training_on_the_demo_data_lowers_the_loss_and_depends_on_the_picture(shared):
    folder = shared / "data"
    rows = json.loads((folder / "mllm_demo.json").read_text(encoding="utf-8"))
    bundle = tiny.make_bundle("llava")
    media, module = processor(bundle, folder), bundle.module.train()
    module.requires_grad_(True)

    def batch(row, images):
        messages = tuple(Message(m["role"], m["content"]) for m in row["messages"])
        expanded = media.expand(Conversation(messages, images=images))
        text = "".join(message.content for message in expanded.messages)
        ids = bundle.tokenizer(text, return_tensors="pt").input_ids[:, :500]
        labels = ids.masked_fill(ids == module.config.image_token_id, -100)
        return {"input_ids": ids, "labels": labels, **media.collate([MediaRefs(images=images)])}

    batches = [batch(row, tuple(row["images"])) for row in rows]
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for inputs in batches * 2:
        loss = module(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    gradients = module(**batches[0]).loss
    gradients.backward()
    assert module.model.vision_tower.get_submodule("embeddings").patch_embedding.weight.grad.abs().sum() > 0
    assert sum(losses[len(batches) :]) < sum(losses[: len(batches)])
    with torch.no_grad():
        own = module(**batches[1]).loss
        other = module(**batch(rows[1], tuple(rows[2]["images"]))).loss
    assert own != other


def test_without_weights_the_rows_of_a_picture_are_the_same():
    bundle = tiny.make_bundle("llava")
    assert processor(bundle.replace(module=None)).rows == processor(bundle).rows
