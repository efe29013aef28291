"""From the bytes of a request to rows of work, and from outcomes to responses."""
