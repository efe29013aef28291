"""The modalities of a part, by name, with their number on the wire: the front's one list."""

from __future__ import annotations

from proto import inference_pb2 as pb

MODALITIES: dict[str, pb.Modality] = {"text": pb.TEXT, "image": pb.IMAGE, "audio": pb.AUDIO}
NAMES: dict[int, str] = {number: name for name, number in MODALITIES.items()}
