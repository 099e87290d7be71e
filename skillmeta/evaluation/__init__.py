"""Statistics, curves, pictures and pages."""
