"""The control plane of the accelerators: who may have how many descriptors in flight on which queue, until when.

It arrives with the scheduler; until then the package only holds the name. It never imports :mod:`pipeline`.
"""
