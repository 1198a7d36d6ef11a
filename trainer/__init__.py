"""Makes models better: the genetic search for hyper-parameters."""
