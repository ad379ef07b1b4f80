"""QAT by QATzip: whole packets in gzip-extended members, hardware or nothing."""
