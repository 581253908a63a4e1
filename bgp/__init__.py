"""BGP decisions: sessions to have, routes to believe, paths to prefer, prefixes to announce.

Pure but for `bgp.speaker`: no clock, no randomness, no I/O. Time comes in as `now`.
"""
