"""IAA through libqpl: the library found at run time, jobs that are pooled, and a `Device` on top."""
