"""kuaka against QEMU's own multifd, on one machine: `python -m benchmarks`, see docs/benchmarks.md."""
