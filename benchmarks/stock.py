"""Trefoil against the usual alternative: the stock transformers model behind LitServe.

    pip install -e '.[bench]' && python -m benchmarks.stock [--seconds 4] [--rounds 3]

The weights of the embedded bundle are exported to a transformers folder, for the stock processor
and model class. The stock server answers in one of two usual ways. `labels` runs one forward for
each label, over prompt and label; `generate` writes the answer with `generate` and greedy decoding.
Both have one worker process for each core, one torch thread each, and no batching. Before anything
is timed, the answers to the golden inputs are compared: scores within the golden tolerance, the
written answer with the label.

Every system stays loaded and is measured in turn within each round, from one client process that
sends the same 48 examples: to Trefoil over one gRPC stream, to LitServe as JSON over HTTP/1.1
connections that stay open. Read the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks.http import HttpCaller, posted
from benchmarks.serve import CALLERS, ROOT, Figures, LoadClient, free_port, serving
from benchmarks.support.payloads import pool
from pipelines.bundle import golden_file  # this import lets transformers import torchaudio
from pipelines.bundle.bundle import Bundle
from pipelines.bundle.contents import read_contents
from proto import inference_pb2 as pb

BUNDLE = ROOT / "pipelines/triage/bundle"
WAYS = ("labels", "generate")
MOST_NEW_TOKENS = 8  # the longest label with its end token, and some room
WITHIN_S = 300.0


# ---- the checkpoint as transformers has it -------------------------------------------------------


def export(bundle: Path, folder: Path) -> None:
    """A folder for `from_pretrained`: model, tokenizer, image processor, feature extractor."""
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5OmniThinkerForConditionalGeneration,
        Qwen2VLImageProcessorPil,
        WhisperFeatureExtractor,
    )

    from pipelines.models.qwen import thinker

    opened = Bundle.open(bundle, allow_dirty=True)
    config = thinker.read_config(opened.config)
    model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    names = {thinker.canonical(name): name for name in model.state_dict()}
    state = {names[thinker.canonical(name)]: one for name, one in opened.tensors().items()}
    missing, unknown = model.load_state_dict(state, strict=False)
    model.tie_weights()
    left = [
        name for name in missing if not name.endswith(("lm_head.weight", "positional_embedding"))
    ]
    if left or unknown:
        raise SystemExit(f"the export is incomplete: missing {left}, unknown {unknown}")
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(opened.tokenizer)
    marks = dict(
        image_token="<|IMAGE|>",
        audio_token="<|AUDIO|>",
        video_token="<|VIDEO|>",
        vision_bos_token="<|vision_bos|>",
        vision_eos_token="<|vision_eos|>",
        audio_bos_token="<|audio_bos|>",
        audio_eos_token="<|audio_eos|>",
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
        extra_special_tokens=marks,
    )
    tokenizer.save_pretrained(folder)
    image = opened.preprocess["image"]
    size = {"shortest_edge": image["min_pixels"], "longest_edge": image["max_pixels"]}
    Qwen2VLImageProcessorPil(size=size).save_pretrained(folder)
    bins = opened.preprocess["audio"]["n_mels"]
    WhisperFeatureExtractor(feature_size=bins).save_pretrained(folder / "audio")
    (folder / "labels.json").write_bytes(opened.content("labels.json"))
    (folder / "template.json").write_bytes(opened.content("template.json"))


class Stock:
    """The stock processor and model, used as their documentation shows."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        import torch
        from transformers import (
            PreTrainedTokenizerFast,
            Qwen2_5OmniProcessor,
            Qwen2_5OmniThinkerForConditionalGeneration,
            Qwen2VLImageProcessorPil,
            WhisperFeatureExtractor,
        )

        torch.set_num_threads(threads)
        self._torch = torch
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

        class WithoutVideo(Qwen2_5OmniProcessor):
            """Without the stock video processor, which needs torchvision: no video is sent here."""

            def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
                if name != "video_processor":
                    return super().check_argument_for_proper_class(name, argument)
                return type(None)

        self.processor = WithoutVideo(
            image_processor=Qwen2VLImageProcessorPil.from_pretrained(folder),
            feature_extractor=WhisperFeatureExtractor.from_pretrained(folder / "audio"),
            tokenizer=self.tokenizer,
        )
        self.model: Any = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder).eval()
        self.template = json.loads((folder / "template.json").read_text())
        labels = json.loads((folder / "labels.json").read_text())["labels"]
        self.labels = {label["name"]: label["text"] for label in labels}

    def inputs(self, parts: list[dict[str, str]], answer: str = "") -> Any:
        """`parts` have `text`, or `image` or `audio` in base64."""
        import soundfile
        from PIL import Image

        template = self.template
        text, images, sounds = template["classify"]["prefix"], [], []
        before = ""
        for part in parts:
            ((kind, value),) = part.items()
            if kind == "text":
                text += template["between"] * (before == "text") + value.strip()
            elif kind == "image":
                text += "".join(template["image"])
                images.append(Image.open(io.BytesIO(base64.b64decode(value))).convert("RGB"))
            else:
                text += "".join(template["audio"])
                wave, rate = soundfile.read(io.BytesIO(base64.b64decode(value)), dtype="float32")
                if rate != 16000:
                    raise ValueError(f"{rate} samples a second; this script sends 16000")
                sounds.append(wave if wave.ndim == 1 else wave.mean(axis=1))
            before = kind
        text += template["classify"]["suffix"] + answer
        return self.processor(
            text=[text],
            images=images or None,
            audio=sounds or None,
            return_tensors="pt",
            padding=True,
        )

    def scored(self, parts: list[dict[str, str]]) -> dict[str, float]:
        """The probability of each label, from one forward for each, over prompt and label."""
        torch = self._torch
        sums = []
        for text in self.labels.values():
            answer = text + self.template["end"]
            count = len(self.tokenizer.encode(answer, add_special_tokens=False))
            inputs = self.inputs(parts, answer)
            with torch.inference_mode():
                logits = self.model(**inputs).logits[0, -count - 1 : -1].float()
            written = inputs["input_ids"][0, -count:]
            chosen = logits.log_softmax(-1).gather(1, written[:, None])
            sums.append(chosen.sum())
        shares = torch.softmax(torch.stack(sums), dim=0).tolist()
        return dict(zip(self.labels, shares, strict=True))

    def written(self, parts: list[dict[str, str]]) -> str:
        """The label that `generate` writes; "" if it writes another text."""
        inputs = self.inputs(parts)
        with self._torch.inference_mode():
            ids = self.model.generate(
                **inputs, max_new_tokens=MOST_NEW_TOKENS, do_sample=False, use_audio_in_video=False
            )
        text = self.tokenizer.decode(
            ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        found = (name for name, label in self.labels.items() if label == text.strip())
        return next(found, "")

    def answer(self, way: str, parts: list[dict[str, str]]) -> dict[str, Any]:
        if way == "generate":
            return {"label": self.written(parts)}
        scores = self.scored(parts)
        return {"label": max(scores, key=scores.__getitem__), "scores": scores}


def parts_of(example: pb.Example) -> list[dict[str, str]]:
    kinds = {pb.IMAGE: "image", pb.AUDIO: "audio"}
    return [
        {"text": part.text}
        if part.WhichOneof("source") == "text"
        else {kinds[part.modality]: base64.b64encode(part.data).decode()}
        for part in example.parts
    ]


# ---- the client of LitServe ----------------------------------------------------------------------


async def http_load(port: int, bodies: list[bytes], callers: int, seconds: float) -> Figures:
    times: list[float] = []
    began = time.perf_counter()

    requests = [posted("/predict", body, "content-type: application/json") for body in bodies]

    async def caller(index: int) -> None:
        kept = HttpCaller(f"127.0.0.1:{port}")
        turn = index * 7
        while time.perf_counter() < began + seconds:
            sent = time.perf_counter()
            await kept.once(requests[turn % len(requests)])
            times.append(time.perf_counter() - sent)
            turn += 1
        kept.close()

    await asyncio.gather(*(caller(index) for index in range(callers)))
    took = time.perf_counter() - began
    ordered = sorted(times)
    return {"rps": len(times) / took, "p50_ms": 1000 * ordered[len(ordered) // 2]}


# ---- the comparison ------------------------------------------------------------------------------


def golden() -> list[tuple[str, list[dict[str, str]], dict[str, Any], float]]:
    """(id, parts, expected, tolerance) of each golden input."""
    cases, tolerance = golden_file.read(read_contents(BUNDLE))
    found = []
    for case in cases:
        parts = [
            {"text": part.data}
            if isinstance(part.data, str)
            else {str(part.kind): base64.b64encode(part.data).decode()}
            for part in case.sample.parts
        ]
        assert case.expected is not None
        scores = {label: share for label, (_, share) in case.expected.scores.items()}
        expected = {"label": case.expected.label, "scores": scores}
        found.append((case.id, parts, expected, tolerance.between("float32")))
    return found


def check(ports: dict[str, int]) -> None:
    """Ends the program when a stock answer to a golden input differs from the bundle's."""
    worst = 0.0
    wrote: list[str] = []
    for name, parts, expected, tolerance in golden():
        body = json.dumps({"parts": parts}).encode()
        labels = answered(ports["labels"], body)
        apart = max(
            abs(labels["scores"][one] - expected["scores"][one]) for one in labels["scores"]
        )
        worst = max(worst, apart)
        if apart > tolerance:
            raise SystemExit(f"{name}: {apart:.1e} from the golden answer, tolerance {tolerance}")
        if answered(ports["generate"], body)["label"] != expected["label"]:
            wrote.append(name)
    print(f"golden answers: every score within {worst:.1e} of the bundle's (tolerance {tolerance})")
    print(
        f"generate wrote the bundle's label for all but {len(wrote)}: {', '.join(wrote) or 'none'}"
    )


def answered(port: int, body: bytes) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return dict(json.loads(answer.read()))


def until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < WITHIN_S:
        if process.poll() is not None:
            raise SystemExit(
                f"LitServe ended with {process.returncode}:\n{log.read_text()[-2000:]}"
            )
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.5)
    raise SystemExit(f"LitServe was not ready within {WITHIN_S:g} s")


def measure(arguments: argparse.Namespace) -> None:
    bodies = [json.dumps({"parts": parts_of(one)}).encode() for one in pool(48)]
    with ExitStack() as running:
        data = running.enter_context(tempfile.TemporaryDirectory())
        folder = Path(data, "checkpoint")
        export(BUNDLE, folder)
        ports = {way: free_port() for way in WAYS}
        for way, port in ports.items():
            command = [sys.executable, "-m", "benchmarks.support.stock_server", "--way", way]
            command += ["--port", str(port), "--folder", str(folder)]
            with open(Path(data, f"{way}.log"), "wb") as log:
                process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            running.callback(end, process)
            until_ready(port, process, Path(data, f"{way}.log"))
        check(ports)
        ours = running.enter_context(serving(str(BUNDLE), len(os.sched_getaffinity(0))))
        load = running.enter_context(LoadClient())
        got: dict[tuple[str, int], list[Figures]] = defaultdict(list)
        for turn in range(arguments.rounds):
            for callers in CALLERS:
                for name in ("trefoil", *WAYS) if turn % 2 == 0 else (*WAYS[::-1], "trefoil"):
                    if name == "trefoil":
                        figures = load.measure([ours.target], callers, arguments.seconds)
                    else:
                        figures = asyncio.run(
                            http_load(ports[name], bodies, callers, arguments.seconds)
                        )
                    got[name, callers].append(figures)
        report(got)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process with the workers that LitServe leaves behind."""
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    for left in psutil.wait_procs(below, 15)[1]:
        left.kill()
    process.wait()


def report(got: dict[tuple[str, int], list[Figures]]) -> None:
    print(f"load of the machine {psutil.getloadavg()[0]:.1f}; medians of the rounds")
    heads = ("callers", "Trefoil rps", "labels rps", "generate rps")
    print(f"| {' | '.join(heads)} | Trefoil / labels | Trefoil / generate |")
    print("|---|---|---|---|---|---|")
    for callers in CALLERS:
        rps = {name: [one["rps"] for one in got[name, callers]] for name in ("trefoil", *WAYS)}
        cells = [f"{statistics.median(values):.1f}" for values in rps.values()]
        for way in WAYS:
            pairs = zip(rps["trefoil"], rps[way], strict=True)
            ratios = sorted(ours / theirs for ours, theirs in pairs)
            middle = statistics.median(ratios)
            cells.append(f"{middle:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")
        print(f"| {callers} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
