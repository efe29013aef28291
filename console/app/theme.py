"""Colours, fonts and sizes by token. Series never use the status colours, and a status always has a
shape and a text beside its colour."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PySide6.QtGui import QColor, QFont, QFontDatabase, QPalette

SIGNS = {"critical": "◆", "high": "◆", "warning": "▲", "unknown": "○", "info": "•", "ok": "●"}


@dataclass(frozen=True)
class Theme:
    name: str
    background: str
    panel: str
    raised: str
    border: str
    grid: str
    text: str
    dim: str
    faint: str
    accent: str
    critical: str
    warning: str
    ok: str
    p50: str
    p95: str
    p99: str
    live: str
    selection: str
    stages: tuple[str, ...]
    split: tuple[str, ...]
    ramp: tuple[str, ...]

    def hex(self, tone: str) -> str:
        """The colour for a tone: a token, a severity, a drift level, or a hex colour unchanged."""
        if tone.startswith("#"):
            return tone
        alias = {
            "high": "critical",
            "unknown": "dim",
            "info": "dim",
            "insufficient": "dim",
            "learning": "dim",
            "": "text",
        }.get(tone, tone)
        value = getattr(self, alias, None)
        return value if isinstance(value, str) and value.startswith("#") else self.text

    def color(self, tone: str, alpha: int = 255) -> QColor:
        return _color(self.hex(tone), alpha)


@lru_cache(maxsize=512)
def _color(text: str, alpha: int) -> QColor:
    found = QColor(text)
    found.setAlpha(alpha)
    return found


# Token, then its colour in the dark, the light and the contrast theme.
_COLOURS = """
background #0d1117  #eef1f4  #000000
panel      #151b23  #ffffff  #000000
raised     #1d2530  #f4f6f8  #141414
border     #2b3440  #cfd6dd  #8a8a8a
grid       #222a34  #e8ecf0  #3a3a3a
text       #e6edf3  #18202a  #ffffff
dim        #93a0ae  #55606c  #d6d6d6
faint      #5c6875  #98a2ad  #a0a0a0
accent     #5cb3f2  #0b69c2  #6fd0ff
critical   #ff6161  #c3182b  #ff7b7b
warning    #eaa521  #8f5b00  #ffd000
ok         #30c48d  #14784a  #5dff9f
p50        #4c86bd  #7aaad6  #6fa8ff
p95        #84c1f0  #3279b7  #a8d8ff
p99        #f5f8fb  #0c2f55  #ffffff
live       #3d6f99  #8fbbe2  #4a90d0
selection  #22384d  #dbeafa  #00417a
"""


def _theme(name: str, column: int, **series: Any) -> Theme:
    lines = [line.split() for line in _COLOURS.split("\n") if line]
    colours: dict[str, Any] = {token: values[column] for token, *values in lines}
    return Theme(name=name, **colours, **series)


# `split`: any two of the eight stay apart for deuteranopes and protanopes too, and each has a
# contrast of 3 with the panel: chosen by search, checked by tests/console/test_console_theme.py.
DARK = _theme(
    "dark",
    0,
    stages=("#a99ac9", "#6fb3a8", "#79b8e3", "#3b6f9c", "#717e8b"),
    split=("#51bcfd", "#aae29a", "#137cfa", "#f5f861", "#14768d", "#a5fdfe", "#648012", "#237b52"),
    ramp=("#14202c", "#173f5f", "#20639b", "#3caea3", "#d8a545", "#f6d58a", "#fff8e0"),
)
LIGHT = _theme(
    "light",
    1,
    stages=("#7f6aa8", "#3f8f84", "#7fb3dc", "#2b6394", "#a3adb7"),
    split=("#2f79fa", "#774660", "#1f93ca", "#752603", "#b6816a", "#26016a", "#d87312", "#020606"),
    ramp=("#f7f9fb", "#d8e8f5", "#9cc6e6", "#4f93c8", "#24609a", "#123a66", "#061a33"),
)
CONTRAST = _theme(
    "contrast",
    2,
    stages=("#e0a0ff", "#7fffe0", "#6fc0ff", "#3f78b0", "#d0d0d0"),
    split=("#377af9", "#f8fe62", "#53a4a1", "#dffdfa", "#327bb4", "#ddf6a9", "#89a012", "#2d8546"),
    ramp=("#101010", "#003a70", "#0070c0", "#00c0b0", "#ffd000", "#fff0a0", "#ffffff"),
)
THEMES = {theme.name: theme for theme in (DARK, LIGHT, CONTRAST)}


def fonts() -> tuple[QFont, QFont]:
    """(text font, number font): the system's sans-serif font, and the first fixed-width font
    found."""
    text_font = QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont)
    text_font.setPixelSize(12)
    families = set(QFontDatabase.families())
    number_font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
    for name in ("JetBrains Mono", "DejaVu Sans Mono", "Menlo", "Consolas"):
        if name in families:
            number_font = QFont(name)
            break
    number_font.setPixelSize(12)
    return text_font, number_font


@lru_cache(maxsize=8)
def lookup(theme: Theme) -> NDArray[np.uint32]:
    """256 premultiplied ARGB values along the ramp; the first is transparent."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in theme.ramp], float)
    place = np.linspace(0, len(stops) - 1, 256)
    red, green, blue = (
        np.interp(place, np.arange(len(stops)), stops[:, channel]).astype(np.uint32)
        for channel in range(3)
    )
    table = (np.uint32(255) << 24) | (red << 16) | (green << 8) | blue
    table[0] = 0
    return np.asarray(table, np.uint32)


def palette(theme: Theme) -> QPalette:
    found = QPalette()
    roles = QPalette.ColorRole
    for role, tone in (
        (roles.Window, "background"),
        (roles.Base, "panel"),
        (roles.AlternateBase, "raised"),
        (roles.Button, "raised"),
        (roles.ToolTipBase, "raised"),
        (roles.Highlight, "selection"),
        (roles.Mid, "border"),
        (roles.WindowText, "text"),
        (roles.Text, "text"),
        (roles.ButtonText, "text"),
        (roles.ToolTipText, "text"),
        (roles.HighlightedText, "text"),
        (roles.PlaceholderText, "dim"),
        (roles.Link, "accent"),
    ):
        found.setColor(role, theme.color(tone))
    disabled = QPalette.ColorGroup.Disabled
    for role in (roles.Text, roles.ButtonText, roles.WindowText):
        found.setColor(disabled, role, theme.color("faint"))
    return found


def sheet(theme: Theme, zoom: float = 1.0) -> str:
    """The style sheet covers frames and controls only; everything else is painted from tokens.
    `zoom` is the text size relative to the default."""
    t = theme

    def px(pixels: int) -> str:
        return f"{max(1, round(pixels * zoom))}px"

    return f"""
QWidget {{ font-size: {px(12)}; }}
QFrame#panel {{ background: {t.panel}; border: 1px solid {t.border}; border-radius: 4px; }}
QFrame#panel[active="true"] {{ border-color: {t.accent}; }}
QTableView, QListView, QPlainTextEdit, QScrollArea {{ background: transparent; border: none;
  outline: none; selection-background-color: {t.selection}; selection-color: {t.text}; }}
QHeaderView {{ background: transparent; }}
QHeaderView::section {{ background: {t.panel}; color: {t.dim}; border: none;
  border-bottom: 1px solid {t.border}; padding: {px(2)} {px(4)}; font-size: {px(11)}; }}
QTableView#tight QHeaderView::section {{ padding: {px(2)} {px(1)} {px(2)} {px(4)}; }}
QLineEdit, QComboBox, QSpinBox, QDateTimeEdit {{ background: {t.raised}; color: {t.text};
  border: 1px solid {t.border}; border-radius: 3px; padding: {px(2)} {px(6)};
  min-height: {px(18)}; }}
QComboBox#flat {{ background: transparent; border-color: transparent; color: {t.dim}; }}
QComboBox#flat:hover {{ color: {t.text}; }}
QLineEdit:focus, QComboBox:focus {{ border-color: {t.accent}; }}
QComboBox QAbstractItemView {{ background: {t.raised}; color: {t.text}; }}
QPushButton {{ background: {t.raised}; color: {t.text}; border: 1px solid {t.border};
  border-radius: 3px; padding: {px(3)} {px(10)}; }}
QPushButton:hover {{ border-color: {t.dim}; }}
QPushButton:focus {{ border-color: {t.accent}; }}
QPushButton:disabled {{ color: {t.faint}; }}
QPushButton#tab {{ background: transparent; border: none; color: {t.dim};
  padding: {px(2)} {px(8)}; }}
QPushButton#tab:checked {{ color: {t.text}; border-bottom: 2px solid {t.accent};
  border-radius: 0; }}
QPushButton#tab:focus {{ color: {t.accent}; }}
QSplitter::handle {{ background: transparent; }}
QScrollBar:vertical {{ background: transparent; width: {px(8)}; margin: 0; }}
QScrollBar:horizontal {{ background: transparent; height: {px(8)}; margin: 0; }}
QScrollBar::handle {{ background: {t.border}; border-radius: 4px; min-height: 24px; }}
QScrollBar::handle:hover {{ background: {t.faint}; }}
QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
QToolTip {{ background: {t.raised}; color: {t.text}; border: 1px solid {t.border};
  padding: {px(4)}; }}
QMenu {{ background: {t.raised}; color: {t.text}; border: 1px solid {t.border}; }}
QMenu::item:selected {{ background: {t.selection}; }}
QDialog {{ background: {t.panel}; }}
"""
