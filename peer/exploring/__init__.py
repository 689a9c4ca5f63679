"""A swarm as anybody with its invite can see it, from outside: no training, no torch, no hivemind."""
