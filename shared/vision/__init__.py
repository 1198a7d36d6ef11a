"""Images in, tensors out, scores in, classes out."""
