"""Speed and memory of Tortie, beside BIRD, GoBGP and iproute2 on the same input in the same run.

`python -m bench` runs benchmarks and prints their figures next to the targets. Load comes from a BGP speaker of our
own (`sender`), what happens is read from the kernel (`kernelwatch`) and from /proc (`processes`); everything runs in
network namespaces made for it (`network`). No speed is asserted: the exit status tells only whether all ran.
"""
