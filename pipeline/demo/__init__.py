"""The demo guest: a boot sector of ours that fills and dirties memory in a way that a program outside can predict."""
