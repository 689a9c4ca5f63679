"""The attack bench: a training swarm in one process, some of whose workers lie about their updates."""
