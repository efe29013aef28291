"""Two looks at the cache: what changed, and two sides compared. Maths alone: no Qt, no database."""
