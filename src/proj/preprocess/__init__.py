"""From an input as people have it to the array that a model takes, for prepare and the server alike."""
