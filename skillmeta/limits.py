"""What a file may promise before memory is taken for it, and what a config may ask for. SECURITY.md states these numbers.

They are far above what anybody has used. Whoever needs more raises one here.
"""

WIDTH = 8_192  # units of a layer, numbers of a latent or of a skill
DEPTH = 64  # layers of a network
NETWORK = 2**25  # parameters of one network: 128 MiB
HORIZON = 1_000  # primitive steps of a skill
COUNT = 100_000  # tasks, trials, episodes, states, and what else a program makes a list of
STEPS = 1_000_000  # primitive steps of an episode
DECISIONS = 10_000_000  # that a buffer keeps
JSON_BYTES = 2**25  # of one JSON file, and of one line of metrics
JSON_DEPTH = 64  # of mappings and lists in one another
YAML_BYTES = 2**17  # of a config in a folder; ours have a few thousand
SHRUNK = 200  # how many times its size a file of arrays may have in memory; no compression does that to real recordings
ARRAY_BYTES = 2**26  # that a file may promise whatever its size is
