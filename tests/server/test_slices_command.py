"""`server slices`: the answer of a running server, and how it is printed."""

from __future__ import annotations

import json

import pytest

from proto import observe_pb2 as pb
from server.commands import slices
from tests.support.running import asked

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("measure", ["error", "value", "confidence"])
def test_a_server_with_little_traffic_knows_no_bad_slice(
    tiny_server: str, measure: str, capsys: Captured
) -> None:
    code, out, _ = asked(capsys, "slices", "--server", tiny_server, "--measure", measure)
    assert code == 0 and out.startswith("no slice is significantly worse")
    code, out, _ = asked(
        capsys, "slices", "--server", tiny_server, "--json", "--since", "9" * 400 + "d"
    )
    assert code == 0 and not json.loads(out).get("slices")


def test_the_worst_comes_first_and_nothing_in_it_reaches_the_terminal() -> None:
    found = pb.SlicesResponse(rows_searched=5000, seconds=0.42)
    found.slices.add(message="site=\x1b[31mb: error 14.4 % against 8.5 % elsewhere")
    found.slices.add(message="audio.duration > 30 s: error 12.0 % against 8.5 % elsewhere")
    output = slices._text(found).splitlines()
    assert output[0].startswith("1. site=\\x1b[31mb: error 14.4 %")
    assert output[-1] == "5000 predictions searched in 0.4 s"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--since", "tomorrow"), "expected a date, a time or an age"),
        (("--measure", "anger"), "invalid choice"),
        (("--limit", "0"), "1 to 100"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    arguments: tuple[str, str], message: str, capsys: Captured
) -> None:
    code, _, err = asked(capsys, "slices", *arguments)
    assert code == 2 and message in err
