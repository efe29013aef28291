"""The modalities of a part, by name, with their numbers on the wire: the only list in the front."""

from __future__ import annotations

from proto import inference_pb2 as pb

MODALITIES: dict[str, pb.Modality] = {"text": pb.TEXT, "image": pb.IMAGE, "audio": pb.AUDIO}
NAMES: dict[int, str] = {number: name for name, number in MODALITIES.items()}
