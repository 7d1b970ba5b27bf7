"""Every check of the media contract notices the mistake that it is there for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tk_demo_media
import torch
from mutation import Mutants
from tk_demo_media import Processor

from tkernel import hookimpl
from tkernel.errors import DataError
from tkernel.testing import MediaContract

MUTANTS = Mutants(MediaContract)


class Changed(Processor):
    """The right processor; a mutant overrides what it changes."""

    name = "demo"

    def __init__(self, bundle=None, media_dir=None):
        if bundle is not None:
            super().__init__(bundle, media_dir)

    @hookimpl
    def process_media(self, request):
        return type(self)(request.bundle, request.media_dir)

    def rewrite(self, conversation, change):
        messages = tuple(replace(m, content=change(m.content)) for m in conversation.messages)
        return conversation.replace(messages=messages)


@MUTANTS.breaks("test_placeholders_equal_feature_rows", "test_features_depend_on_the_picture")
class OneTokenTooMany(Changed):
    def expand(self, conversation):
        expanded = super().expand(conversation)
        return self.rewrite(
            expanded, lambda text: text.replace(self.token, self.token * 2, 1) if self.token in text else text
        )


@MUTANTS.breaks("test_expanding_keeps_the_text")
class AddsANewline(Changed):
    def expand(self, conversation):
        expanded = super().expand(conversation)
        return self.rewrite(
            expanded,
            lambda text: text.replace(self.token + "W", self.token + "\nW"),
        )


@MUTANTS.breaks("test_a_conversation_without_media_is_unchanged")
class StripsTheLastCharacter(Changed):
    def expand(self, conversation):
        if conversation.images:
            return super().expand(conversation)
        super().expand(conversation)
        return self.rewrite(conversation, lambda text: text[:-1])


@MUTANTS.breaks("test_expanding_reads_no_pixels")
class LoadsThePixels(Changed):
    def expand(self, conversation):
        expanded = super().expand(conversation)
        for image in conversation.images:
            self.open(image).load()
        return expanded


@MUTANTS.breaks("test_more_or_fewer_placeholders_than_media_is_an_error")
class IgnoresWhatIsLeftOver(Changed):
    def expand(self, conversation):
        count = sum(m.content.count("<image>") for m in conversation.messages)
        if count == len(conversation.images):
            return super().expand(conversation)
        return conversation


@MUTANTS.breaks("test_a_missing_file_is_an_error_that_names_it")
class SaysOnlyThatSomethingIsMissing(Changed):
    def open(self, image):
        try:
            return super().open(image)
        except DataError as error:
            raise DataError("a picture is missing") from error


@MUTANTS.breaks("test_features_depend_on_the_picture")
class EveryPictureIsGrey(Changed):
    def collate(self, samples):
        return {name: torch.zeros_like(value) for name, value in super().collate(samples).items()}


@MUTANTS.breaks("test_a_batch_is_its_samples_one_after_the_other")
class SubtractsTheMeanOfTheBatch(Changed):
    def collate(self, samples):
        return {name: value - value.mean() for name, value in super().collate(samples).items()}


@MUTANTS.breaks("test_a_batch_without_media_has_no_inputs")
class AnEmptyTensorForNoPictures(Changed):
    def collate(self, samples):
        return super().collate(samples) or {"pixel_values": torch.zeros(0, 3, 28, 28)}


@MUTANTS.breaks("test_paths_are_relative_to_the_media_folder")
class LooksInTheWorkingFolder(Changed):
    def open(self, image):
        return super().open(image if isinstance(image, bytes) else Path(image).absolute())


@MUTANTS.breaks("test_bytes_are_as_good_as_a_path")
class TakesPathsOnly(Changed):
    def open(self, image):
        if isinstance(image, bytes):
            raise DataError("bytes are not a path")
        return super().open(image)


@MUTANTS.breaks("test_the_kernel_accepts_it")
class Unmarked(tk_demo_media.Media):
    def process_media(self, *arguments):
        return super().process_media(*arguments)


MUTANTS.add("heavy_plugins:MEDIA", "test_importing_the_plugin_imports_nothing_heavy")


def test_the_right_media_passes():
    assert MUTANTS.failing("tk_demo_media:MEDIA") == set()


def test_every_check_has_a_mutant():
    assert MUTANTS.uncovered() == set()


@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_its_check(mutant):
    assert MUTANTS.noticed(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_no_other_check(mutant):
    assert MUTANTS.failing(mutant.plugin, **mutant.suite) == {mutant.check, *mutant.also}
