"""The service that runs models: requests from the broker in, predictions out."""
