"""Fetches bundles from where a fleet keeps them: a registry, a web server, an object store."""
