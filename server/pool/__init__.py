"""Warm replicas: the queue before them, the rows they hold, their health."""
