"""HTTP: the app, authentication, the hot path, one module a resource."""
