"""Write the dashboards as the JSON that Grafana reads: `make boards`."""

from collections.abc import Mapping
from pathlib import Path

from boards import network, node, rounds, swarm
from boards.panels import Board
from grafana_foundation_sdk.cog.encoder import JSONEncoder

FOLDER = Path(__file__).parent / "dashboards"

BOARDS: tuple[Board, ...] = (swarm.BOARD, node.BOARD, network.BOARD, rounds.BOARD)


def files() -> Mapping[str, str]:
    """Name and content of each file."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {f"{board.name}.json": encoder.encode(board.build()) + "\n" for board in BOARDS}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content)
