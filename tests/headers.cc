// The precompiled headers of the tests hang on a target, and a target needs a source.
