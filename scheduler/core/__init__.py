"""The policy of the shared accelerator queues: events in, effects out; no clock, no sockets, no Ray, no randomness."""
