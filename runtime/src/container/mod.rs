//! Containers that outlive whoever launched them: their directory below the root, their state, and what may be done in it.
