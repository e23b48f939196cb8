//! The documents of the OCI runtime specification, as far as Linux has a use for them.
