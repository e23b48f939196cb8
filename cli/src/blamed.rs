//! For whom containers waited, by what people call them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use skiff_ebpf::Culprit;
use skiff_ebpf::pinned::Pinned;

use crate::failure::Failure;
use crate::observe::failed;

/// For whom a container waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blamed {
    /// The container in this slot.
    Container(u32),
    /// Containers that wait for a program: nobody's yet.
    MadeAhead,
    Host,
    Kernel,
    Nobody,
    Quota,
    Ended,
    Untold,
}

impl Blamed {
    /// In words; `named` says what the container in a slot is called.
    pub(crate) fn words(self, named: impl FnOnce(u32) -> String) -> String {
        let words = match self {
            Self::Container(slot) => return named(slot),
            Self::MadeAhead => "made ahead",
            Self::Host => "host",
            Self::Kernel => "kernel",
            Self::Nobody => "nobody",
            Self::Quota => "own quota",
            Self::Ended => "ended",
            Self::Untold => "unknown",
        };
        words.to_owned()
    }
}

/// The containers that have a slot, by it; of those that are made ahead, no id.
#[derive(Debug, Default)]
pub(crate) struct Holders(BTreeMap<u32, Option<String>>);

impl Holders {
    /// Who has a slot now. To be asked after the figures are read: who has begun meanwhile is known then.
    pub(crate) fn of(pinned: &Pinned) -> Result<Self, Failure> {
        let id = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let owned = pinned.owned().map_err(failed)?.into_iter();
        Ok(Self(
            owned.map(|taken| (taken.slot, (!taken.is_made_ahead()).then(|| id(taken.owner.id())))).collect(),
        ))
    }

    /// Of these pairs: slot, id.
    #[cfg(test)]
    pub(crate) fn of_pairs(pairs: &[(u32, Option<&str>)]) -> Self {
        Self(pairs.iter().map(|(slot, id)| (*slot, id.map(str::to_owned))).collect())
    }

    /// The id of the container in `slot`, if one is that is not made ahead.
    pub(crate) fn id(&self, slot: u32) -> Option<&str> {
        self.0.get(&slot)?.as_deref()
    }

    /// The same as `blame`, with what is called alike added up; the longest first.
    pub(crate) fn blamed(&self, blame: &[(Culprit, u64)]) -> Vec<(Blamed, u64)> {
        let mut sums = BTreeMap::<_, u64>::new();
        for (culprit, ns) in blame {
            *sums.entry(self.who(*culprit)).or_default() += ns;
        }
        let mut blamed: Vec<_> = sums.into_iter().collect();
        blamed.sort_by_key(|(_, ns)| Reverse(*ns));
        blamed
    }

    fn who(&self, culprit: Culprit) -> Blamed {
        match culprit {
            Culprit::Container(slot) => match self.0.get(&slot) {
                Some(Some(_)) => Blamed::Container(slot),
                Some(None) => Blamed::MadeAhead,
                None => Blamed::Ended,
            },
            Culprit::Host => Blamed::Host,
            Culprit::Kernel => Blamed::Kernel,
            Culprit::Nobody => Blamed::Nobody,
            Culprit::Quota => Blamed::Quota,
            Culprit::Ended => Blamed::Ended,
            Culprit::Untold => Blamed::Untold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_made_ahead_is_told_from_who_has_ended() {
        let holders = Holders::of_pairs(&[(0, Some("web")), (1, None), (2, None)]);
        let slots = [(0, 3), (1, 5), (2, 6), (3, 4)].map(|(slot, ns)| (Culprit::Container(slot), ns));
        let blamed = holders.blamed(&[&slots[..], &[(Culprit::Ended, 1), (Culprit::Host, 2)]].concat());
        let words: Vec<_> = blamed
            .into_iter()
            .map(|(who, ns)| (who.words(|slot| holders.id(slot).unwrap_or_default().to_owned()), ns))
            .collect();
        let expected = [("made ahead", 11), ("ended", 5), ("web", 3), ("host", 2)];
        assert_eq!(words, expected.map(|(who, ns)| (who.to_owned(), ns)));
    }
}
