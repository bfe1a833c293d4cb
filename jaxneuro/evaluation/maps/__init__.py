"""Where in the volume a network's output comes from: maps, their place in the template, scores and pictures of them."""
