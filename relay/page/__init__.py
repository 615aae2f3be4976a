"""The page of the admin port: what it tells (`facts`), how that comes about, and its files (`static`)."""
