"""Battery and temperature, as far as this machine tells them."""

from collections.abc import Callable, Iterable

import psutil

from talkoot.peer.guest.senses.gpu import GpuReading
from talkoot.peer.guest.settings import GuestSettings
from talkoot.peer.guest.words import Reason
from talkoot.peer.guest.yielding import Band, Found, Sight, Unknown

COOLER = 5.0
"""°C below the ceiling at which a device is cool enough again."""

CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "x86_pkg_temp")
"""What measures a CPU; others (disks, radios) are not ours to heat."""


class Battery:
    """Whether there is no mains. A computer without a battery has it always."""

    title = "battery"
    reason: Reason = "battery"

    def wanted(self, settings: GuestSettings) -> bool:
        """Whether to look."""
        return settings.battery

    def look(self) -> Sight:
        """How full it is, while there is no mains."""
        if not hasattr(psutil, "sensors_battery"):
            return Unknown("this system does not tell")
        battery = psutil.sensors_battery()
        if battery is None:
            return None
        if battery.power_plugged is None:
            return Unknown("the battery does not tell whether there is mains")
        return (
            None if battery.power_plugged else Found("battery", f"on battery, {battery.percent:.0f} % left")
        )


Celsius = Callable[[], Iterable[tuple[str, float]]]
"""Names of devices with their temperatures."""


def cpu_celsius() -> list[tuple[str, float]]:
    """The hottest point of each CPU that tells."""
    if not hasattr(psutil, "sensors_temperatures"):
        return []
    chips = psutil.sensors_temperatures()
    hot = {
        name: max((point.current for point in chips[name]), default=None) for name in CHIPS if name in chips
    }
    return [("the CPU", celsius) for celsius in hot.values() if celsius is not None]


class Temperature:
    """Whether a device is hotter than it may become, until it is some degrees cooler."""

    title = "temperature"
    reason: Reason = "temperature"

    def __init__(self, cpu: Celsius = cpu_celsius) -> None:
        self._cpu = cpu
        self._bands: dict[str, Band] = {}

    def wanted(self, settings: GuestSettings) -> bool:
        """Whether to look."""
        return settings.max_celsius > 0

    def look(self, settings: GuestSettings, gpus: Iterable[GpuReading]) -> Sight:
        """Which device it is."""
        readings = [*self._cpu()]
        readings += [(f"GPU {gpu.index}", gpu.celsius) for gpu in gpus if gpu.celsius is not None]
        if not readings:
            return Unknown("no sensor of a CPU or GPU tells its temperature")
        ceiling = settings.max_celsius
        hot = [
            Found(name, f"{name} has {celsius:.0f} °C, the ceiling is {ceiling:.0f} °C")
            for name, celsius in readings
            if self._bands.setdefault(name, Band()).over(celsius, limit=ceiling, release=ceiling - COOLER)
        ]
        return hot[0] if hot else None
