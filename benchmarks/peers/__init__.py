"""What a user would serve a model with instead: each as its own documentation builds it, in its own environment."""
