"""The residual: what this peer has made and the chain that it follows does not count.

Books are kept so that at any time, on whatever branch,

    everything made  ==  decode(what is counted on the chain)  +  carry_P  +  what decay has forgotten

where `carry_P` holds the residual and, while a round runs, all that our contribution to it is made of: if
that is not counted nothing needs to be done. Decay takes its share of what encodings lost, once for each
new contribution (beta of SparseLoCo, Sarfi et al. 2025), and never of work that is not counted yet. The
residual is a function of the chain and of the log of our own contributions
(`talkoot.peer.contribution_log`), so a move to another branch settles every entry anew. Without error
feedback a counted contribution takes with it what its encoding lost.

`save` makes the books durable. It is called before a contribution is sent, and what happens to the books
afterwards follows from the chain: who is killed finds them as they were then, settles them anew, and sends
the same contribution again. Only local steps that no contribution holds yet are lost.

What is lost is lost openly: when the file is damaged, when the fate of a contribution is not to be known or
its bytes are gone, the residual begins again at zero. It is never guessed, so nothing counts twice.
Calls compute for long and block on the disk: worker threads, one at a time.
"""

import logging
from collections.abc import Callable

import torch

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.contribution import (
    LocalContribution,
    encode_delta,
    give_back,
    sign_contribution,
    step_scale,
    take_out,
)
from talkoot.averaging.fate import fate_of
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.rules import Rules
from talkoot.averaging.signing import Signer
from talkoot.compression.codec import CodecError
from talkoot.peer import residual_note
from talkoot.peer.contribution_log import CertificateOf, ContributionLog, Entry
from talkoot.peer.files import ignore_step
from talkoot.peer.generation import map_file
from talkoot.peer.residual_note import Note, Saved
from talkoot.peer.statedir import StateDir

log = logging.getLogger("talkoot.work")

WORKING_COPY = "residual.f32"
"""The file under `Residual.carry_P`: without meaning once its process has ended."""


DISK_BYTES_PER_ELEMENT = 16
"""Of the disk: the working copy, what is kept and what is about to replace it, and a contribution of fp32."""


class Residual:
    """The books of one peer. See the module."""

    def __init__(
        self,
        paths: StateDir,
        rules: Rules,
        *,
        take_up: bool = True,
        hook: Callable[[str], None] = ignore_step,
    ) -> None:
        """`take_up`: with what the last process saved. Raises OSError when the disk cannot hold it."""
        self._rules = rules
        self._folder = paths.path
        self._hook = hook
        self.carry_P: torch.Tensor = map_file(self._folder / WORKING_COPY, rules.numel)
        self.rounds = self.tokens = 0
        """Rounds whose work is in `carry_P`, and their tokens, a contribution that is under way included."""
        self.log = ContributionLog(paths.path / "contributions", rules)
        self._latest: Entry | None = None
        """The contribution that was made of all of `carry_P`, as long as nothing else has changed it."""
        self.saved = True
        """Whether all that was made is on the disk."""
        if take_up:
            self.take_up()

    # -- making --------------------------------------------------------------------------------------

    def encode(
        self,
        start_P: torch.Tensor,
        local_P: torch.Tensor,
        *,
        steps: int,
        tokens: int,
        ledger: Ledger,
        prior: bytes,
        admission: bytes,
        signer: Signer,
        upload: float = 0.0,
        seconds: float = 0.0,
    ) -> LocalContribution | None:
        """Add `start_P - local_P`, the work of `steps` inner steps in `seconds`, to the books and make our
        contribution.

        None when it stands for too few steps: then the next one carries it. Raises CodecError when the work
        is not finite: it is thrown away, the books are as before.
        """
        assert self.log.find(prior) is None  # one contribution for each outer state
        if not bool(torch.isfinite(local_P).all()):
            raise CodecError("not_finite", "the local parameters are not finite")
        self._latest, self.saved = None, False
        self._decay()
        try:
            index, chunks = encode_delta(
                start_P,
                local_P,
                self.carry_P,
                scale=step_scale(max(1, steps), ledger.reference_steps),
                codec=codec_of(ledger.codec, prior, signer.key),
                rules=self._rules,
            )
        except CodecError:
            self.void("the sum of what was carried and the new work is not finite")
            raise
        self.rounds += 1
        self.tokens += tokens
        if steps * 8 < self._rules.inner_steps:
            return None
        header = sign_contribution(
            index,
            ledger=ledger,
            prior=prior,
            steps=max(1, steps),
            tokens=tokens,
            carried=self.rounds - 1,
            carried_tokens=self.tokens - tokens,
            admission=admission,
            rules=self._rules,
            signer=signer,
            upload=upload,
            seconds=seconds,
        )
        local = LocalContribution(header, index, chunks)
        self._latest = self.log.add(local)
        return local

    def _decay(self) -> None:
        decay = self._rules.feedback_decay
        if self.rounds == 0 and decay < 1:  # all work is counted: what is left is what encodings lost
            torch.mul(self.carry_P, decay, out=self.carry_P)

    def made_for(self, prior: bytes) -> Entry | None:
        """Our contribution for an outer state, if we made one."""
        return self.log.find(prior)

    # -- following the chain -------------------------------------------------------------------------

    def follow(self, head: Certificate, certificate_of: CertificateOf) -> None:
        """Settle every contribution by the chain that ends with `head`."""
        if self.log.is_gone(certificate_of):
            self.void("the branches part further back than contributions are remembered")
        for entry in self.log.entries:
            fate = fate_of(entry.header, head, certificate_of)
            if fate == "unknown":
                if entry.live:
                    self.void(f"whether round {entry.header.round} counted our work is not known")
                continue
            if (fate == "counted") != entry.counted:
                self._turn(entry)
            if fate != "open" and head.kind == "weak":
                self.log.put_away(entry)
        if head.kind != "weak":  # what lies before is for good; a weak branch after it may be taken up again
            prior, following = head.value.digest, head.value.round + 1
            self.log.drop(lambda entry: entry.header.prior != prior and entry.header.round <= following)
        self.log.trim(certificate_of)

    def _turn(self, entry: Entry) -> None:
        """The entry is counted now, and was not; or the other way round. On OSError nothing has changed."""
        whole = self._latest is entry
        at_once = not entry.counted and whole and not self._rules.feeds_back(entry.header.codec)
        local = self.log.local(entry) if entry.live and not at_once else None
        entry.counted = not entry.counted
        if not entry.live:
            return
        self._latest = None
        if at_once:
            self.carry_P.zero_()
            self.rounds = self.tokens = 0
            return
        if local is None:
            self._turn_without_bytes(entry)
            return
        move, sign = (take_out, -1) if entry.counted else (give_back, 1)
        move(self.carry_P, local.chunks, rules=self._rules)
        header = entry.header
        self.rounds = max(0, self.rounds + sign * (1 + header.carried))
        self.tokens = max(0, self.tokens + sign * (header.tokens + header.carried_tokens))

    def _turn_without_bytes(self, entry: Entry) -> None:
        number = entry.header.round
        if entry.counted:
            self.void(f"round {number} counts our contribution after all, and its bytes are gone")
            return
        log.warning("round %d does not count our work any more, and its bytes are gone: it is lost", number)
        entry.live = False

    def void(self, reason: str) -> None:
        """Begin again at zero: what is not counted is lost."""
        log.warning("what was carried over from earlier rounds is lost: %s", reason)
        self.carry_P.zero_()
        self.rounds = self.tokens = 0
        self._latest = None
        self.log.void()

    # -- the end of a process ------------------------------------------------------------------------

    def save(self) -> None:
        """Keep everything for the next start: durable on return. Raises OSError; then what was saved before
        is still there, and it can be called again."""
        self.log.save(keep=self._latest)
        entries = [
            Saved(entry.header, entry.on_disk, entry.counted, entry.live) for entry in self.log.entries
        ]
        carry = residual_note.hash_of(self.carry_P)
        latest = self._latest.header.root if self._latest is not None else b""
        note = Note(self.rounds, self.tokens, entries, self.log.dropped, carry, latest)
        residual_note.write(self._folder, note, self.carry_P, hook=self._hook)
        self.log.sweep()
        self.saved = True

    def take_up(self) -> None:
        """Go on with what was saved, before anything else. Raises OSError: then call it again."""
        note = residual_note.read(self._folder, self.carry_P)
        if note is None:
            self.carry_P.zero_()
            self.log.restore([], None)
            return
        self.rounds, self.tokens = note.rounds, note.tokens
        entries = [
            Entry(saved.header, None, saved.on_disk, saved.counted, saved.live) for saved in note.entries
        ]
        self.log.restore(entries, note.dropped)
        self._latest = next((entry for entry in entries if entry.header.root == note.latest), None)
        if residual_note.is_old(self._folder):
            self.save()
            residual_note.remove_old(self._folder)
