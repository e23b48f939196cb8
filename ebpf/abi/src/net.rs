//! What the programs of sockets share with their loader.

use crate::waits::Times;

/// What the sockets of a slot did. Received is 0, sent is 1.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    /// Bytes of IP packets, their headers included.
    pub bytes: [u64; 2],
    /// IP packets; of one that the device divides or has put together, its parts.
    pub packets: [u64; 2],
    /// TCP connections that were begun.
    pub connects: u64,
    /// Those of them that were established.
    pub connected: u64,
    /// TCP connections that others began and that were established.
    pub accepts: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Smoothed round-trip times, ns, as each acknowledgement left them.
    pub rtt: Times,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_has_no_padding() {
        assert_eq!(size_of::<Net>(), 8 * 8 + size_of::<Times>());
    }
}
