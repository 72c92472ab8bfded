"""The service: configuration, composition root, lifecycle, HTTP."""
