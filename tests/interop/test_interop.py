"""The results page names every check, and a check ends in one of three ways."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.installers.tools import Failed, Skipped
from tests.interop.run import CHECKS, ROOT, Check, Site, result_of, table
from tests.interop.toolbox import Toolbox

PAGE = (ROOT / "docs" / "interop.md").read_text()
ROW = re.compile(r"^\| (?P<tool>[^|]+) \| (?P<what>[^|]+) \| (?P<result>[^|]+) \|$", re.MULTILINE)


def test_the_page_has_a_row_for_each_check() -> None:
    rows = [(found["tool"], found["what"]) for found in ROW.finditer(PAGE)]
    assert [(one.tool, one.what) for one in CHECKS] == [row for row in rows if row[0] != "tool"]


@pytest.mark.parametrize(
    ("raised", "end"), [(None, "passed"), (Failed("broke"), "failed"), (Skipped("gone"), "skipped")]
)
def test_a_check_ends_in_one_of_three_ways(
    raised: Exception | None, end: str, tmp_path: Path
) -> None:
    def run(site: Site) -> str:
        if raised is not None:
            raise raised
        return "as asked"

    site = Site("127.0.0.1:1", "127.0.0.1:2", Toolbox(tmp_path))
    result = result_of(Check("tool", "what", run), site)
    assert (result.end, result.evidence) == (end, str(raised) if raised else "as asked")
    assert ("**" in table([result])) == (raised is not None)
