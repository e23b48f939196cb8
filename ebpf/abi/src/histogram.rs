//! The log-linear histogram of times: 16 equal buckets per power of two.
//!
//! A bucket is at most 1/16 of its lower bound wide, so its middle is within 3.2 % of every value in it. Values below 16
//! have a bucket each. Values from 2^42 ns (73 minutes) on share the last.

const SUB_BITS: u32 = 4;
const SUBS: u64 = 1 << SUB_BITS;
const MAX_BITS: u32 = 42;

/// How many buckets there are.
pub const BUCKETS: usize = ((MAX_BITS - SUB_BITS + 1) << SUB_BITS) as usize;

/// The bucket of `ns`, less than [`BUCKETS`].
#[inline(always)]
#[must_use]
pub const fn bucket(ns: u64) -> usize {
    if ns < SUBS {
        return ns as usize;
    }
    let shift = log2(ns) - SUB_BITS;
    let bucket = ((shift + 1) << SUB_BITS) as u64 + (ns >> shift & (SUBS - 1));
    if bucket < BUCKETS as u64 { bucket as usize } else { BUCKETS - 1 }
}

/// The middle of `bucket` in ns, rounded down.
#[must_use]
pub const fn bucket_middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUBS {
        return bucket;
    }
    let shift = (bucket >> SUB_BITS) - 1;
    ((SUBS + (bucket & (SUBS - 1))) << shift) + ((1 << shift) >> 1)
}

/// The least value of `bucket`, ns.
#[must_use]
pub const fn bucket_lower(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUBS {
        return bucket;
    }
    (SUBS + (bucket & (SUBS - 1))) << ((bucket >> SUB_BITS) - 1)
}

/// By halving: the instruction set of the programs cannot count leading zeros.
#[inline(always)]
const fn log2(mut value: u64) -> u32 {
    let mut log = 0;
    if value >= 1 << 32 {
        value >>= 32;
        log += 32;
    }
    if value >= 1 << 16 {
        value >>= 16;
        log += 16;
    }
    if value >= 1 << 8 {
        value >>= 8;
        log += 8;
    }
    if value >= 1 << 4 {
        value >>= 4;
        log += 4;
    }
    if value >= 1 << 2 {
        value >>= 2;
        log += 2;
    }
    if value >= 1 << 1 {
        log += 1;
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_the_position_of_the_highest_bit() {
        for bit in 0..64 {
            assert_eq!(log2(1 << bit), bit);
            assert_eq!(log2(u64::MAX >> (63 - bit)), bit);
        }
    }

    #[test]
    fn buckets_grow_without_gap() {
        let mut last = 0;
        for ns in 0..100_000 {
            let bucket = bucket(ns);
            assert!(bucket == last || bucket == last + 1, "{ns}");
            last = bucket;
        }
    }

    #[test]
    fn the_middle_is_within_a_thirtieth_of_every_value() {
        for bit in 4..42 {
            for step in 0..64 {
                let ns = (1u64 << bit) + (step << bit) / 64;
                let middle = bucket_middle(bucket(ns));
                assert!(middle.abs_diff(ns) * 1000 <= ns * 32, "{ns} → {middle}");
            }
        }
    }

    #[test]
    fn a_bucket_begins_where_the_one_before_ends() {
        for number in 0..BUCKETS {
            assert_eq!(bucket(bucket_lower(number)), number);
            assert!(number == 0 || bucket(bucket_lower(number) - 1) == number - 1);
        }
    }

    #[test]
    fn everything_longer_is_in_the_last() {
        assert_eq!(bucket((1 << 42) - 1), BUCKETS - 1);
        assert_eq!(bucket(1 << 42), BUCKETS - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
