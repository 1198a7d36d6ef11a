"""One file of calls for each noun of the API."""
