"""The HTTP cache: what Bazel, ccache, sccache, Gradle and Turborepo speak without gRPC."""
