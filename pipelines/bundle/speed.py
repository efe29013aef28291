"""speed.json: the latency limits of a warm replica.

limit = max(factor x recorded median, floor) for a device class and mix that was measured when the
bundle was built; the default limit applies to all others. A recorded median is the median over
single requests on the machine that built the bundle. The factor allows for slower machines of the
same class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pipelines.bundle import bounds
from pipelines.errors import BundleRefused

_KEYS: Final = {"factor", "floor_ms", "default_limit_ms", "baseline"}


@dataclass(frozen=True, slots=True)
class Speed:
    """`baseline` maps a device class (cpu, cuda) to median milliseconds by mix."""

    factor: float = 3.0
    floor_ms: float = 250.0
    default_limit_ms: float = 5000.0
    baseline: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Speed:
        """Raises BundleRefused("config") for unknown or missing keys, and by
        name for a number out of bounds."""
        if set(values) != _KEYS:
            raise BundleRefused("config", f"speed.json must have exactly the keys {sorted(_KEYS)}")
        try:
            speed = Speed(
                float(values["factor"]),
                float(values["floor_ms"]),
                float(values["default_limit_ms"]),
                {
                    device: {mix: float(ms) for mix, ms in mixes.items()}
                    for device, mixes in values["baseline"].items()
                },
            )
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BundleRefused("config", f"speed.json: {error}") from error
        named = ("factor", "floor_ms", "default_limit_ms")
        bounds.speed({name: getattr(speed, name) for name in named}, speed.baseline)
        return speed

    def to_dict(self) -> dict[str, object]:
        return {
            "factor": self.factor,
            "floor_ms": self.floor_ms,
            "default_limit_ms": self.default_limit_ms,
            "baseline": {device: dict(mixes) for device, mixes in self.baseline.items()},
        }

    def recorded(self, device: str, medians: Mapping[str, float]) -> Speed:
        """This speed with the given medians (ms, by mix) for the class of `device`."""
        short = {mix: float(f"{ms:.4g}") for mix, ms in medians.items()}
        return replace(self, baseline={**self.baseline, _device_class(device): short})

    def limit_ms(self, device: str, mix: str) -> tuple[float, str]:
        """The limit for one request of this mix on a device such as `cuda:0`, and the reason."""
        device_class = _device_class(device)
        median = self.baseline.get(device_class, {}).get(mix)
        if median is None:
            return (
                self.default_limit_ms,
                f"default limit: the bundle has no {mix} timing for {device_class}",
            )
        scaled = self.factor * median
        if scaled < self.floor_ms:
            return self.floor_ms, f"{self.factor:g} x {median:.3g} ms is below the floor"
        return scaled, f"{self.factor:g} x the recorded {median:.3g} ms"


def _device_class(device: str) -> str:
    return device.split(":", 1)[0]
