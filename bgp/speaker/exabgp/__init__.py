"""ExaBGP as the speaker: a supervised child process, its configuration file, and its API over a bridge."""

from bgp.speaker.exabgp.speaker import ExaBGPSpeaker

__all__ = ["ExaBGPSpeaker"]
