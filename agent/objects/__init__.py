"""The objects people and Kubernetes write: typed, validated, with errors for people.

`KINDS` lists them, `decode` makes one of a document, `Problem` says what is wrong with one.
"""

from agent.objects.bgp_configuration import BGPConfiguration, BGPConfigurationSpec
from agent.objects.bgp_node_profile import BGPNodeProfile, BGPNodeProfileSpec
from agent.objects.bgp_peer import BGPPeer, BGPPeerSpec
from agent.objects.label_selector import LabelSelector, Requirement
from agent.objects.model import Key, Metadata, Object
from agent.objects.network_configuration import NetworkConfiguration, NetworkConfigurationSpec
from agent.objects.node import Node
from agent.objects.node_routing_status import NodeRoutingStatus
from agent.objects.problem import Problem
from agent.objects.secret import Secret
from agent.objects.session_settings import PrefixRange, SecretKeyRef, Timers

__all__ = [
    "BGPConfiguration",
    "BGPConfigurationSpec",
    "BGPNodeProfile",
    "BGPNodeProfileSpec",
    "BGPPeer",
    "BGPPeerSpec",
    "Key",
    "LabelSelector",
    "Metadata",
    "NetworkConfiguration",
    "NetworkConfigurationSpec",
    "Node",
    "NodeRoutingStatus",
    "Object",
    "PrefixRange",
    "Problem",
    "Requirement",
    "Secret",
    "SecretKeyRef",
    "Timers",
]
