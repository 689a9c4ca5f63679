"""Every parser of what comes from the network, the local API, a manifest, an invite or a disk, to be tried.

A target takes any bytes and may refuse them as its contract says; whatever else comes out of it is a finding.
Where a checksum or a length stands before what is parsed it is put right, so that the content is what is
tried. `test_fuzz_targets.py` tries all of them a little and holds that no parser is missing here,
`fuzz_parsers.py` tries one for as long as it is told to.
"""

from fuzz_disk import DISK
from fuzz_network import NETWORK
from fuzz_people import PEOPLE

TARGETS = {target.name: target for target in (*NETWORK, *PEOPLE, *DISK)}

KERNEL = "what the kernel of this machine says of its own connections"
OWN_CHILD = "between a process and one that it started, with the same code"
SAME_BYTES = "bytes that the same call has made"

NOT_TRIED = {
    "dht/sockets.py connections": KERNEL,
    "dht/sockets.py _messages": KERNEL,
    "dht/sockets.py _seen": KERNEL,
    "peer/guest/month.py Month.decode": "a file of our own, of one strict type",
    "cli/demo_compare.py _run": OWN_CHILD,
    "peer/bench_aggregate.py _work": OWN_CHILD,
    "peer/bench_aggregate_worker.py main": OWN_CHILD,
    "peer/bench_codec.py _work": OWN_CHILD,
    "peer/bench_codec_worker.py main": OWN_CHILD,
    "peer/bench_round_worker.py line": OWN_CHILD,
    "peer/doctor/machine.py _findings": OWN_CHILD,
    "peer/founding.py _build": OWN_CHILD,
    "peer/sample_worker.py main": OWN_CHILD,
    "peer/sampling.py Sampler._ask": OWN_CHILD,
    "peer/simulation/batch.py _listen": OWN_CHILD,
    "peer/bench_codec_data.py load": "numbers that the operator names, parsed by safetensors itself",
    "peer/invite.py encode": SAME_BYTES,
    "peer/simulation/checks.py Safety.signed": "what a simulated node has signed",
}
"""Places that parse nothing of anybody else's, with the reason."""
