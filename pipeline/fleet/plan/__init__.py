"""What may run next, and what a fleet's migration will look like. Pure: no clock, no socket, no Ray."""
