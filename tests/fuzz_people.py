"""Parsers of what people paste, write and ask for, to be tried."""

import base64
import itertools
import os
from pathlib import Path

import msgspec
from aiohttp import web
from fuzz_target import Target, of, on_disk
from samples import samples, written
from state_rig import FOUNDERS, MANIFEST, SWARM

from talkoot.dht.errors import ConfigError
from talkoot.peer import (
    api,
    build,
    client,
    invite,
    manifest_file,
    manifest_text,
)
from talkoot.peer.attacks import bench
from talkoot.peer.config import text as config_text
from talkoot.peer.config.file import of_text
from talkoot.peer.config.layers import resolve
from talkoot.peer.guest import deeds, orders
from talkoot.peer.guest import routes as guest_routes
from talkoot.peer.guest.senses import gpu
from talkoot.peer.probing import routes
from talkoot.peer.protocol import PROTOCOL_VERSION
from talkoot.peer.trainer import documents


def pasted(data: bytes) -> None:
    front = bytes([PROTOCOL_VERSION]) + (len(data) % 2**16).to_bytes(2, "big") + data
    right = base64.urlsafe_b64encode(front + invite._checksum(front)).decode()
    for text in (right, data.decode("latin-1")):
        try:
            invite.encode(invite.decode(invite.SCHEME + text))
        except ValueError:
            continue


def valid_invites() -> list[bytes]:
    address = f"/ip4/127.0.0.1/tcp/1/p2p/{FOUNDERS[0].peer_id}"
    keys = [msgspec.convert(value, invite.InviteKey) for value in samples(invite.InviteKey)]
    return [
        msgspec.msgpack.encode(invite.Invite(swarm=SWARM, addresses=(address,), anchor=anchor, key=key))
        for anchor in (None, invite.Anchor(1, SWARM, SWARM, 1))
        for key in (None, *keys)
    ]


def ordered(data: bytes) -> None:
    for order in (
        lambda: api._order(data, api.BanOrder),
        lambda: api._order(data, api.UnbanOrder),
        lambda: api._order(data, api.RevokeOrder),
        lambda: routes.read_order(data),
        lambda: guest_routes.read_order(data),
    ):
        try:
            order()
        except web.HTTPBadRequest:
            continue


def answered(data: bytes) -> None:
    client._api_error(400, data)
    client._parse(data)


def announced(path: Path) -> None:
    (path.parent / "api.token").write_text("x")
    client.ApiClient.from_state_dir(path.parent)


SETTINGS = {"limits.upload": 2e6, "yield.programs": ("a", "b"), "energy.price": 0.3}

PEOPLE = [
    Target("invite", ("peer/invite.py decode",), "msgpack", valid_invites, pasted),
    Target(
        "manifest-text",
        ("peer/manifest_file.py parse", "peer/toml_lines.py line_of"),
        "raw",
        lambda: [manifest_text.toml_text(MANIFEST).encode()],
        lambda data: manifest_file.parse(data.decode("utf-8", "replace"), name="m"),
        (ConfigError,),
    ),
    Target(
        "config-text",
        ("peer/config/file.py of_text",),
        "raw",
        lambda: [config_text.toml_text({}).encode(), config_text.toml_text(SETTINGS).encode()],
        lambda data: resolve(of_text(data.decode("utf-8", "replace"), name="c")),
        (ConfigError,),
    ),
    Target(
        "api-order",
        ("peer/api.py _order", "peer/probing/routes.py read_order", "peer/guest/routes.py read_order"),
        "json",
        lambda: itertools.chain(
            of(api.BanOrder, "json")(),
            of(api.UnbanOrder, "json")(),
            of(api.RevokeOrder, "json")(),
            of(routes.PingOrder, "json")(),
            of(orders.PauseOrder, "json")(),
        ),
        ordered,
    ),
    Target(
        "commit",
        ("peer/build.py noted_commit",),
        "json",
        lambda: [written({"vcs_info": {"commit_id": "1a2b"}}, "json")],
        lambda data: build.noted_commit(data.decode("utf-8", "replace")),
    ),
    Target(
        "gpu-readings",
        ("peer/guest/senses/gpu.py FileReadings.read",),
        "json",
        of(tuple[gpu.GpuReading, ...], "json"),
        on_disk("gpus.json", lambda path: gpu.FileReadings(path).read()),
    ),
    Target(
        "deeds", ("peer/guest/deeds.py read",), "json", of(deeds.Deeds, "json"), deeds.read, (ValueError,)
    ),
    Target(
        "user-order",
        ("peer/guest/orders.py decode",),
        "json",
        of(orders.Order, "json"),
        orders.decode,
        (ValueError,),
    ),
    Target(
        "api-answer",
        ("peer/client.py _parse", "peer/client.py _api_error"),
        "json",
        lambda: [written({"error": "x", "detail": "y"}, "json")],
        answered,
        (client.ApiError,),
    ),
    Target(
        "api-file",
        ("peer/client.py ApiClient.from_state_dir",),
        "json",
        lambda: [written({"port": 1, "pid": os.getpid()}, "json")],
        on_disk("api.json", announced),
        (client.NoDaemon,),
    ),
    Target(
        "documents",
        ("peer/trainer/documents.py _field_of",),
        "json",
        lambda: [written({"text": "x"}, "json")],
        on_disk("text.jsonl", lambda path: list(documents.json_lines([path], "text"))),
        (ConfigError,),
    ),
    Target(
        "attack-results",
        ("peer/attacks/bench.py load",),
        "json",
        lambda: [b"[]"],
        on_disk("results.json", bench.load),
        (ConfigError,),
    ),
]
