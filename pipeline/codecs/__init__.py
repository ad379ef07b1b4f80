"""How pages shrink: one file per method behind the interface in `codecs.codec`."""
