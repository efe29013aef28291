"""Warm replicas: their queue, the rows they hold, their health."""
