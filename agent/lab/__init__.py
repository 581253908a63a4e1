"""The lab: nodes, pods, links and real routers in network namespaces, built from one file.

`topology` is what the user wrote, `plan` what shall exist (a pure function of the topology: addresses, interfaces,
sysctls, router configurations, Node objects), `lab` makes it so, breaks it on request, and takes it away again.
`speakers` knows BIRD, FRR and GoBGP: how each is configured, started and asked. `traffic` watches what it all
means to packets. People reach it by `tortie lab`, scenario tests by `Lab`.
"""
