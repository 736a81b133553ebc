"""Making steps fast, and telling how fast they are."""
