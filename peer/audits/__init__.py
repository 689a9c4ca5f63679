"""How peers check what reducers claim: audits of parts, proofs against liars, whom they convict."""
