"""ExaBGP as the speaker: a supervised child process, its configuration file, and its API over a bridge."""
