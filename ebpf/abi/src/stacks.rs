//! What the sampler and its loader share.

/// Whose samples are wanted, and how many there were.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Target {
    /// The id of the cgroup2; 0 for none.
    pub cgroup: u64,
    /// Samples that were let through.
    pub samples: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Target>(), 8 * 2);
    }
}
