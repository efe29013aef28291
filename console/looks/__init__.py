"""Two comparisons of what the cache holds: what changed, and two sides. Maths only: no Qt, no
database."""
