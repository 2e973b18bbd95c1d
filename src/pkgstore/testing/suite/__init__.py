"""The tests of `pkgstore.testing.conformance.DriverConformance`, by subject."""
