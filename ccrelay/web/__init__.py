"""I/O towards the clients: channel, site, resources, client authentication, the response sink."""
