"""`talkoot bench aggregate`: every rule is measured, and what cannot be is refused in one line."""

import pytest

from talkoot.cli.bench_aggregate import table
from talkoot.dht.errors import ConfigError
from talkoot.peer import bench_aggregate, bench_aggregate_worker


def test_every_rule_is_timed_against_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def work(request: dict[str, object], environment: dict[str, str]) -> dict[str, float]:
        asked.append((request["kind"], environment))
        return bench_aggregate_worker.answer(request)

    monkeypatch.setattr(bench_aggregate, "_work", work)
    monkeypatch.setattr(bench_aggregate_worker, "peak_bytes", lambda work: 4000 if work() is None else 0)
    settings = {"peers": 5, "numel": 1000, "codec": "int8", "repetitions": 1}
    rows = bench_aggregate.measure(**settings, chosen=[])  # type: ignore[arg-type]
    assert [row["rule"] for row in rows] == list(bench_aggregate.RULES)
    assert rows[0]["time_ratio"] == 1
    assert all(row["seconds"] >= 0 and row.get("extra_vectors", 0) == 0 for row in rows)
    assert {kind for kind, _ in asked} <= {"time", "memory"}
    assert len(table(rows).splitlines()) == len(rows) + 5
    assert max(map(len, table(rows).splitlines())) <= 110
    few = bench_aggregate.measure(**(settings | {"codec": "topk"}), chosen=["krum", "norm cap by part"])  # type: ignore[arg-type]
    assert [row["rule"] for row in few] == ["mean", "norm cap by part"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peers": 0}, "--peers must be 1 to 64, got 0"),
        ({"numel": 2**28 + 1}, "--numel must be 1 to"),
        ({"repetitions": 0}, "--repetitions must be 1 to 100"),
        ({"codec": "int7"}, "--codec int7: no codec"),
        ({"chosen": ["kruml"]}, "--rule kruml: unknown; did you mean 'krum'?"),
        ({"chosen": ["zzz"]}, "--rule zzz: unknown; known: mean; "),
    ],
)
def test_what_cannot_be_measured_is_one_line(changes: dict[str, object], words: str) -> None:
    settings: dict[str, object] = {
        "peers": 4, "numel": 100, "codec": "int8", "repetitions": 1, "chosen": [],
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        bench_aggregate.check(**(settings | changes))  # type: ignore[arg-type]
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)
