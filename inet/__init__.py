"""Values every house shares: address families and prefixes. Knows nobody."""
