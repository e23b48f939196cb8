//! Keys that leave a terminal when they are typed.

/// Looks for a sequence of keys in what is typed, and holds back what may be the beginning of one.
#[derive(Debug)]
pub struct Keys<'a> {
    sequence: &'a [u8],
    matched: usize,
}

impl<'a> Keys<'a> {
    /// Looks for `sequence`; for nothing if that is empty.
    #[must_use]
    pub const fn new(sequence: &'a [u8]) -> Self {
        Self { sequence, matched: 0 }
    }

    /// How many bytes the sequence has: one less is the most that is held back.
    pub(super) const fn length(&self) -> usize {
        self.sequence.len()
    }

    /// Passes `typed` on to `feed`; true, with what came before, as soon as the sequence is complete.
    pub fn pass(&mut self, typed: &[u8], feed: &mut Vec<u8>) -> bool {
        for byte in typed {
            // What has been held back is a beginning no longer, but a part of it may still be.
            while self.matched > 0 && self.sequence[self.matched] != *byte {
                let held = &self.sequence[..self.matched];
                let shorter = (0..self.matched).rev().find(|length| held.ends_with(&held[..*length]));
                let shorter = shorter.unwrap_or(0);
                feed.extend(&held[..self.matched - shorter]);
                self.matched = shorter;
            }
            if self.sequence.get(self.matched) != Some(byte) {
                feed.push(*byte);
                continue;
            }
            self.matched += 1;
            if self.matched == self.sequence.len() {
                self.matched = 0;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_to_leave_are_found_however_they_arrive() {
        let check = |sequence: &str, typed: &[&str], expected: &str, left: bool| {
            let mut keys = Keys::new(sequence.as_bytes());
            let mut feed = Vec::new();
            let found = typed.iter().any(|part| keys.pass(part.as_bytes(), &mut feed));
            assert_eq!((String::from_utf8_lossy(&feed).as_ref(), found), (expected, left), "{typed:?}");
        };
        check("", &["abc"], "abc", false);
        check("pq", &["abc"], "abc", false);
        check("pq", &["apq"], "a", true);
        check("pq", &["ap", "q"], "a", true);
        check("pq", &["ap", "a"], "apa", false);
        check("pq", &["app", "q"], "ap", true);
        check("ppq", &["pppq"], "p", true);
        check("ababc", &["abababc"], "ab", true);
        check("ababc", &["abab", "x"], "ababx", false);
        check("q", &["aq"], "a", true);
    }
}
