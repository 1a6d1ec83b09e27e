"""I/O towards the providers: connections, request bodies, response pump, failures."""
