"""DSA's zero scan by raw idxd descriptors, and a peer that stands for the hardware on machines without it."""
