"""A slow uplink sends its contribution about once, over the runner's and the links' own code."""

import pytest

from talkoot.peer.bench_uplink import measure


@pytest.mark.parametrize("peers", [2, 3, 5])
def test_a_slow_peer_uploads_its_contribution_about_once(peers: int) -> None:
    figures = measure(peers=peers, numel=3_000_000, codec="int8")
    assert figures["digests_equal"]
    assert 1.0 <= figures["copies_of_its_blob"] <= 1.2
    assert figures["blobs_passed_on"] <= 0.1 + 0.5 * (peers - 2)  # peers - 2, were all equally fast
