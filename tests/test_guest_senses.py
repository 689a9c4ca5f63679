"""Sensors, on real processes, files of the kind that the kernel has, and readings of GPUs from a file."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from talkoot.dht.errors import ConfigError
from talkoot.peer.guest.program_names import check_programs, plain, require_known
from talkoot.peer.guest.senses import memory
from talkoot.peer.guest.senses.gpu import MAX_FILE_BYTES, FileReadings, GpuUsers, Nvml
from talkoot.peer.guest.senses.machine import Machine
from talkoot.peer.guest.senses.memory import Memory
from talkoot.peer.guest.senses.power import Battery, Temperature
from talkoot.peer.guest.senses.processes import Process, Processes, names_of
from talkoot.peer.guest.senses.programs import Programs
from talkoot.peer.guest.settings import MIB, UNDISTURBED, GuestSettings
from talkoot.peer.guest.yielding import Found, Sight, Unknown

OWN = frozenset({os.getpid()})


@contextmanager
def running(command: list[str | Path], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def cat_named(folder: Path, name: str) -> Path:
    """A program of this name that runs until its input ends."""
    shutil.copy(shutil.which("cat") or "/bin/cat", folder / name)
    return folder / name


def sees(settings: GuestSettings, own: frozenset[int] = OWN) -> Sight:
    processes = Processes()
    return Programs(processes).look(settings, processes.look(), own)


@pytest.mark.parametrize("listed", ["Tilkkutäkki-Studio", "TILKKUTÄKKI-STUDIO", "/opt/x/tilkkutäkki-studio"])
def test_a_listed_program_is_seen_while_it_runs(tmp_path: Path, listed: str) -> None:
    settings = GuestSettings(programs=("other", listed), games=False)
    program = cat_named(tmp_path, "tilkkutäkki-studio")  # longer than the name that the kernel keeps
    assert sees(settings) is None
    with running([program]) as process:
        found = sees(settings)
        assert isinstance(found, Found)
        assert f"process {process.pid}" in found.detail
    assert sees(settings) is None


def test_a_script_has_the_name_of_its_file_and_a_game_that_of_who_starts_it(tmp_path: Path) -> None:
    script = tmp_path / "villakoira-render"
    script.write_text("import sys; sys.stdin.read()")
    with running([sys.executable, script]):
        assert isinstance(sees(GuestSettings(programs=("villakoira-render",))), Found)
    reaper = cat_named(tmp_path, "reaper")
    (tmp_path / "SteamLaunch").write_text("")
    os.mkfifo(tmp_path / "input")
    with running([reaper, "SteamLaunch", "input"], cwd=tmp_path):
        found = sees(GuestSettings())
        assert isinstance(found, Found)
        assert found.subject == "game"
        assert sees(GuestSettings(games=False)) is None


def test_what_comes_from_this_process_and_what_has_ended_does_not_count(tmp_path: Path) -> None:
    program = cat_named(tmp_path, "kutomakone")
    settings = GuestSettings(programs=("kutomakone",), games=False)
    with running([program]) as process:
        processes = Processes()
        seen = processes.look()
        assert process.pid in processes.own()
        assert Programs(processes).look(settings, seen, processes.own()) is None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, not waited for
        assert process.pid not in {one.pid for one in processes.look()}


def test_a_process_that_becomes_another_program_is_seen_as_that(tmp_path: Path) -> None:
    program = cat_named(tmp_path, "virkkuukoukku")
    processes = Processes()
    with running(["sh", "-c", f"read line; exec {program}"]) as process:
        assert process.stdin is not None
        assert "virkkuukoukku" not in names(processes, process.pid)
        process.stdin.write(b"go\n")
        process.stdin.flush()
        while "virkkuukoukku" not in names(processes, process.pid):
            assert process.poll() is None


def names(processes: Processes, pid: int) -> frozenset[str]:
    return next((one.names for one in processes.look() if one.pid == pid), frozenset())


def test_names_on_windows_paths_and_of_interpreters() -> None:
    assert names_of("Game.exe", ["Z:\\games\\Game.exe", "-x"]) == {"game"}
    assert names_of("python3", ["/usr/bin/python3", "-m", "http.server"]) == {"python3"}
    assert names_of("blender", []) == {"blender"}
    assert plain("C:\\x\\Blender.EXE") == "blender"


def test_names_that_are_none_and_programs_that_are_not_here() -> None:
    for bad in ("", "/", "a\nb", "x" * 256):
        with pytest.raises(ConfigError, match="give a name of a program"):
            check_programs([bad])
    with pytest.raises(ConfigError, match="at most 200"):
        GuestSettings(programs=tuple(f"p{number}" for number in range(201)))
    require_known(["sh", sys.executable, "running-now"], {"running-now"})
    with pytest.raises(
        ConfigError, match="'blendr' is installed or running here: did you mean 'blender'"
    ) as caught:
        require_known(["sh", "blendr"], {"blender"})
    assert "\n" not in str(caught.value)


# -- GPU -------------------------------------------------------------------------------------------


class Readings:
    """A file of readings, and what the sensor makes of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gpus.json"
        self.users = GpuUsers()
        self.running = {99: Process(99, 1, "Xorg", frozenset({"xorg"}))}

    def write(self, *gpus: dict[str, object]) -> None:
        self.path.write_text(json.dumps(gpus))

    def look(self, own: frozenset[int] = OWN, **settings: int) -> Sight:
        wanted = GuestSettings(**settings)  # type: ignore[arg-type]
        return self.users.look(wanted, FileReadings(self.path).read(), own, self.running)


def gpu(index: int, *processes: tuple[int, int | None, str]) -> dict[str, object]:
    return {"index": index, "processes": [{"pid": p, "bytes": b, "name": n} for p, b, n in processes]}


def test_another_process_that_takes_enough_of_our_gpu_is_found(tmp_path: Path) -> None:
    readings = Readings(tmp_path)
    readings.write(gpu(0, (os.getpid(), 8 << 30, "python"), (7, 255 * MIB, "blender")))
    assert readings.look() is None
    assert readings.look(gpu_users_bytes=100 * MIB) == Found(
        "blender", "blender takes memory of GPU 0 (255 MiB by others)"
    )
    readings.write(gpu(0, (7, 200 * MIB, "blender"), (8, 56 * MIB, "viewer")))
    found = readings.look()
    assert isinstance(found, Found)
    assert found.subject == "blender"
    readings.write(gpu(0, (7, 2 << 30, "gnome-shell"), (99, 1 << 30, "")))
    assert readings.look() is None, "what draws the desktop is nobody at work"


def test_only_the_gpu_that_we_are_on_matters(tmp_path: Path) -> None:
    readings = Readings(tmp_path)
    busy = (7, 2 << 30, "blender")
    readings.write(gpu(0, busy), gpu(1))
    assert isinstance(readings.look(), Found), "the first is ours until more is known"
    readings.users.expect("cuda:1")
    assert readings.look() is None
    readings.users.expect("cuda:0")
    readings.write(gpu(0, busy), gpu(1, (os.getpid(), 1 << 30, "")))
    assert readings.look() is None, "seen on 1"
    readings.users.expect("cuda:0")
    readings.write(gpu(0, busy), gpu(1))
    assert readings.look() is None, "and 1 it stays while we are paused"
    readings.write(gpu(0))
    readings.users.expect("cuda:3")
    assert readings.look() is None, "one alone is ours"


def test_what_the_driver_does_not_tell_is_not_guessed(tmp_path: Path) -> None:
    readings = Readings(tmp_path)
    assert readings.look() == Unknown(f"{readings.path}: No such file or directory")
    readings.write(gpu(0, (7, None, "blender")))
    assert readings.look() == Unknown("the driver does not tell how much memory each process takes")
    for text in (
        '[{"index": 0',
        "{}",
        '[{"index": -1}]',
        '[{"index": 0, "more": 1}]',
        " " * (MAX_FILE_BYTES + 1),
    ):
        readings.path.write_text(text)
        assert isinstance(readings.look(), Unknown)
    readings.path.write_text("[" + ",".join(['{"index": 1, "processes": [{"pid": 1}]}'] * 2000) + "]")
    assert isinstance(readings.look(), Unknown)


@pytest.mark.skipif(not Nvml().missing, reason="this machine has an NVIDIA GPU")
def test_without_a_driver_nothing_is_told() -> None:
    assert isinstance(Nvml().read(), Unknown)


@pytest.mark.skipif(bool(Nvml().missing), reason=f"NO GPU WAS LOOKED AT: {Nvml().missing}")
def test_a_real_gpu_tells_its_processes() -> None:
    gpus = Nvml().read()
    assert not isinstance(gpus, Unknown)
    assert [reading.index for reading in gpus] == list(range(len(gpus)))


# -- battery, temperature, memory ------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="files of the Linux kernel")
def test_the_battery_is_asked_for_mains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil._pslinux.POWER_SUPPLY_PATH", str(tmp_path))
    assert Battery().look() is None, "a computer without one has mains"
    for name, files in {
        "BAT0": {"energy_now": "30", "energy_full": "60", "power_now": "5", "capacity": "50"},
        "AC0": {"online": "0"},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    assert Battery().look() == Found("battery", "on battery, 50 % left")
    (tmp_path / "AC0" / "online").write_text("1")
    assert Battery().look() is None
    shutil.rmtree(tmp_path / "AC0")
    (tmp_path / "BAT0" / "status").write_text("Unknown")
    assert isinstance(Battery().look(), Unknown)


def test_a_hot_device_is_left_alone_until_it_is_some_degrees_cooler(tmp_path: Path) -> None:
    now = [85.0]
    sensor = Temperature(lambda: [("the CPU", now[0])])
    settings = GuestSettings(max_celsius=80)
    assert sensor.look(settings, ()) == Found("the CPU", "the CPU has 85 °C, the ceiling is 80 °C")
    now[0] = 75.1
    assert isinstance(sensor.look(settings, ()), Found)
    now[0] = 74.9
    assert sensor.look(settings, ()) is None
    path = tmp_path / "gpus.json"
    path.write_text(json.dumps([{"index": 1, "celsius": 90}, {"index": 0}]))
    gpus = FileReadings(path).read()
    assert not isinstance(gpus, Unknown)
    assert sensor.look(settings, gpus) == Found("GPU 1", "GPU 1 has 90 °C, the ceiling is 80 °C")
    assert isinstance(Temperature(list).look(settings, ()), Unknown)


def test_too_little_memory_holds_until_there_is_room_for_what_was_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = int(psutil.virtual_memory().available)
    sensor, ours = Memory(), [3 * real]
    monkeypatch.setattr(memory, "_taken_bytes", lambda _own, exact_over: ours[0])
    assert sensor.look(GuestSettings(spare_ram_bytes=real // 10), OWN, 0) is None
    found = sensor.look(GuestSettings(spare_ram_bytes=100 * real), OWN, 1)
    assert isinstance(found, Found)
    assert found.detail.endswith("GB of memory left for other programs")
    ours[0] = 0  # the trainer has ended, and needs three times of what is free
    assert isinstance(sensor.look(GuestSettings(spare_ram_bytes=real // 10), OWN, 2), Found)
    ours[0] = 3 * real  # it was somebody else's
    assert sensor.look(GuestSettings(spare_ram_bytes=real // 10), OWN, 3) is None


def test_a_node_over_its_own_limit_rests() -> None:
    sensor, settings = Memory(), GuestSettings(ram_bytes=1 * MIB, spare_ram_bytes=0)
    assert sensor.look(settings, OWN, 0) == Found("limit", "its processes took more than the 0.0 GB allowed")
    assert isinstance(sensor.look(GuestSettings(ram_bytes=1 << 50, spare_ram_bytes=0), OWN, 59), Found)
    assert sensor.look(GuestSettings(ram_bytes=1 << 50, spare_ram_bytes=0), OWN, 61) is None


def test_shared_pages_count_once_where_it_decides() -> None:
    rough = memory._taken_bytes(OWN, exact_over=0)
    exact = memory._taken_bytes(OWN, exact_over=1)
    assert 0 < exact <= 1.1 * rough
    assert memory._taken_bytes({2**22 + 1}, exact_over=0) == 0, "gone meanwhile"


def test_only_what_is_wanted_is_asked(tmp_path: Path) -> None:
    machine = Machine()
    assert machine.look(UNDISTURBED, "cpu", slow=True) == {}
    assert not UNDISTURBED.gives_way
    assert machine.look(GuestSettings(), "cpu", slow=False).keys() == {"programs", "memory"}
    readings = tmp_path / "gpus.json"
    readings.write_text("[]")
    sights = Machine(readings).look(GuestSettings(max_celsius=300), "cpu", slow=True)
    assert sights.keys() == {"programs", "gpu_users", "memory", "battery", "temperature"}
