"""Tests mirror the tree: what is in pipeline/wire/frames.py is tested in tests/wire/test_frames.py."""
