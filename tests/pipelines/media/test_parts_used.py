"""Every answer reports how much of each part was used, and a row can ask to be refused instead."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from pipelines import types
from pipelines.errors import BadInput
from pipelines.media.limits import INCOMPLETE, WARNINGS
from pipelines.pipeline import EMBEDDED, Pipeline
from pipelines.types import Part, PartUsed, Sample
from proto import inference_pb2 as pb
from server import types as front
from tests.support import media_bytes as made


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(EMBEDDED, device="cpu", allow_dirty=True)


def used(pipeline: Pipeline, *parts: bytes | str, refuse: bool = False) -> tuple[PartUsed, ...]:
    row = Sample("a", tuple(Part(None, part) for part in parts), refuse_truncation=refuse)
    return pipeline.prepare(row).parts_used


LONG_TEXT = "pump " * 600
FRAMES = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue", "green")]
ANIMATION = made.image("GIF", FRAMES[0], save_all=True, append_images=FRAMES[1:])
ENDLESS = b"".join(made.ogg_pages("OPUS")[:-1])
CUT: dict[str, bytes | str] = {"text": LONG_TEXT, "animation": ANIMATION, "sound": ENDLESS}
WHOLE: dict[str, bytes | str] = {
    "text": "the pump knocks",
    "picture": made.image("JPEG"),
    "sound": made.sound(),
    "sound of a pipe": made.wav_claiming(0xFFFFFFFF),  # everything in the file is heard
}


def test_each_part_is_described_in_its_order(pipeline: Pipeline) -> None:
    picture = made.image("PNG", Image.fromarray(made.photo(300, 500)))
    stereo = np.stack([made.tone(2.0), made.tone(2.0)], axis=1)
    text, image, audio, last = used(pipeline, "a b", picture, made.sound(stereo), LONG_TEXT)
    assert (text.modality, text.cut) == ("text", False)
    assert 0 < text.tokens_used == text.tokens_sent
    assert (image.modality, image.frames_sent, image.cut) == ("image", 1, False)
    assert (image.width_sent, image.height_sent) == (500, 300)
    assert 0 < image.height_used < image.width_used
    assert (audio.modality, audio.seconds_used, audio.seconds_sent) == ("audio", 2.0, 2.0)
    assert audio.channels_sent == 2
    assert last.cut and 0 < last.tokens_used < 600 <= last.tokens_sent


def test_size_used_is_that_of_the_upright_picture(pipeline: Pipeline) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (part,) = used(pipeline, made.image("JPEG", Image.fromarray(made.photo(200, 400)), exif=exif))
    assert (part.width_sent, part.height_sent) == (400, 200)
    assert part.width_used < part.height_used


def test_text_behind_a_text_that_fills_the_prompt_is_cut_whole(pipeline: Pipeline) -> None:
    first, second = used(pipeline, LONG_TEXT, "and the valve")
    assert first.cut and second.cut
    assert second.tokens_used == 0 < second.tokens_sent


def test_animation_is_its_first_frame(pipeline: Pipeline) -> None:
    (part,) = used(pipeline, ANIMATION)
    assert part.cut and part.frames_sent == 3


def test_sound_whose_end_is_missing_has_a_warning(pipeline: Pipeline) -> None:
    (part,) = used(pipeline, ENDLESS)
    assert part.cut and part.warning == "NO_END" and part.seconds_used > 1.0


@pytest.mark.parametrize("name", CUT)
def test_row_that_would_be_cut_is_refused_on_request(pipeline: Pipeline, name: str) -> None:
    with pytest.raises(BadInput) as caught:
        used(pipeline, "hum", CUT[name], refuse=True)
    assert (caught.value.field, caught.value.reason) == ("parts[1].data", "PART_CUT")
    assert "on_truncation" in caught.value.message


@pytest.mark.parametrize("name", WHOLE)
def test_whole_row_is_answered_on_the_same_request(pipeline: Pipeline, name: str) -> None:
    assert not used(pipeline, WHOLE[name], refuse=True)[0].cut


def test_answer_carries_it(pipeline: Pipeline) -> None:
    (answer,) = pipeline.predict([Sample("a", (Part(None, "hum"),))])
    assert isinstance(answer, types.Prediction)
    assert [part.modality for part in answer.parts_used] == ["text"]
    assert answer.parts_cut == 0
    (answer,) = pipeline.predict([Sample("a", (Part(None, ANIMATION), Part(None, ENDLESS)))])
    assert isinstance(answer, types.Prediction) and answer.parts_cut == 2


def test_one_list_of_fields_from_pipeline_to_wire() -> None:
    names = {field.name for field in fields(PartUsed)}
    assert names == set(front.PART_USED_FIELDS)
    assert names == {field.name for field in pb.PartUsed.DESCRIPTOR.fields}
    assert set(WARNINGS) > INCOMPLETE
