"""The trainer: a subprocess that owns the device, and what the daemon needs to drive it."""
