"""How fast speakeasyd is beside its peers: the same recordings, the same weights, the same machine, turn by turn."""
