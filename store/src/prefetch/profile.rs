//! What a container of an image uses of its files until it is ready, as a document. docs/prefetch.md describes the JSON.
//!
//! A profile may come from elsewhere: everything in it is bounded and checked before it is looked at, and it can do no more than
//! have pages of an image's own regular files read.

use std::ffi::OsString;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::slice;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The only kind of document there is.
pub const SCHEMA: &str = "skiff.prefetch/1";
/// Bytes of a document.
pub const BYTES_MAX: usize = 4 << 20;
/// Files of a profile.
const FILES_MAX: usize = 8192;
/// Ranges of all its files together.
const RANGES_MAX: usize = 65_536;
/// Pages of all its ranges together: 1 GiB.
const PAGES_MAX: u64 = 1 << 18;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of a command class.
const CLASS_MAX: usize = 128;
/// A profile of less precision is not replayed, in permille, after [`POOR_MAX`] times in a row.
const PRECISION_MIN: u32 = 500;
/// So often in a row may a replay have been of little use.
const POOR_MAX: u32 = 3;
/// What earlier runs used is kept beside what the last one did if that used so much of it, permille, and else for [`LESS_MAX`] runs in a row.
const PRECISION_KEPT: u32 = 800;
const LESS_MAX: u32 = 2;
/// So many runs are recorded before a profile is taken to be complete.
const RUNS_MIN: u32 = 3;
/// Every so many replays it is looked at how good they are.
const CHECK_EVERY: u64 = 32;
/// When the time classes but the last end, in ms since the program was executed.
const DEADLINES_MS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
/// A word of a command that is longer is told by its digest.
const WORD_MAX: usize = 48;

/// What containers of one image and one command class use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// [`SCHEMA`].
    pub schema: String,
    /// The image's id.
    pub image: Digest,
    /// The command class, see [`class_of`].
    pub class: String,
    /// When it was recorded, s since 1970.
    pub recorded_s: u64,
    /// How.
    pub accuracy: Accuracy,
    /// From the program's execution until it listened; absent if it did not.
    #[serde(default)]
    pub ready_ms: Option<u64>,
    /// The longest that a run without a replay has waited for disks until it was ready, µs; absent where nobody counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_us: Option<u64>,
    /// Uses that could not be noted.
    #[serde(default)]
    pub lost: u64,
    /// Files that were used and are none of the image's.
    #[serde(default)]
    pub outside: u64,
    /// How many runs were recorded.
    #[serde(default)]
    pub runs: u32,
    /// How often it has been replayed.
    #[serde(default)]
    pub replays: u64,
    /// What came of the last replay that was looked at.
    #[serde(default)]
    pub checked: Option<Checked>,
    /// How often in a row that was poor.
    #[serde(default)]
    pub poor: u32,
    /// How many runs in a row used too little of it to speak for the rest.
    #[serde(default)]
    pub less: u32,
    /// The files, in the order of their first use.
    pub files: Vec<File>,
}

/// What the kernel told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accuracy {
    /// Pages that were read or mapped.
    Used,
    /// Pages that came into the page cache: also what was read ahead, and nothing that was there already.
    Added,
}

/// A profile beside what was used in a run with it. All in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Of the profile.
    pub profile: u64,
    /// Of the image's files, that were used.
    pub used: u64,
    /// In both.
    pub both: u64,
}

/// What there is to say of a run beside what it has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Run {
    /// The profile was replayed.
    pub was_replayed: bool,
    /// It ended with an error, before it was ready: it does not show what a run uses that goes on.
    pub has_failed: bool,
}

/// What is used of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// The layer that it is in, by the digest of its content.
    pub layer: Digest,
    /// Where, without a slash before it.
    pub path: String,
    /// Its size, bytes.
    pub size: u64,
    /// The digest of its content; in documents that go elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// In the order of their pages, without overlap.
    pub ranges: Vec<Range>,
}

/// Consecutive pages: time class, first page, number of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range(pub u8, pub u64, pub u64);

impl Profile {
    /// Reads a document.
    ///
    /// Errors, in words: it is none, or it goes beyond a bound.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > BYTES_MAX {
            return Err(format!("more than {BYTES_MAX} bytes"));
        }
        let profile: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        profile.check()?;
        Ok(profile)
    }

    /// As it is written.
    pub fn to_json(&self) -> Vec<u8> {
        // Plain data: cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Without what only this host knows of it.
    #[must_use]
    pub fn published(self) -> Self {
        Self { replays: 0, checked: None, poor: 0, less: 0, waited_us: None, ..self }
    }

    /// The pages of all files.
    pub fn pages(&self) -> u64 {
        self.files.iter().map(File::pages).fold(0, u64::saturating_add)
    }

    /// Whether it is of use, as far as is known.
    pub fn is_good(&self) -> bool {
        self.poor < POOR_MAX
    }

    /// Whether the next run is to be recorded, since few were. Which pages around it a fault maps differs from run to run, with
    /// where the kernel puts a file in memory.
    pub fn is_young(&self) -> bool {
        self.runs < RUNS_MIN
    }

    /// Whether the next replay is to be recorded, so that it is known how good it is: after the first one, until it is known; after
    /// one that was poor, or used little; and after every 32nd.
    pub fn is_check_due(&self) -> bool {
        let is_known = self.checked.is_some() && self.poor == 0 && self.less == 0;
        self.is_good() && self.replays > 0 && (!is_known || self.replays.is_multiple_of(CHECK_EVERY))
    }

    /// What it would have been worth to a run that has used what `fresh` says.
    pub fn compare(&self, fresh: &Self) -> Checked {
        let key = |file: &File| (file.layer, file.path.clone());
        let used: std::collections::HashMap<_, _> =
            fresh.files.iter().map(|file| (key(file), &file.ranges)).collect();
        let both = self.files.iter().filter_map(|file| Some(common(&file.ranges, used.get(&key(file))?)));
        Checked { profile: self.pages(), used: fresh.pages(), both: both.sum() }
    }

    /// What is known after a run that has used what `fresh` says: both, or that alone if one run after another has used little of this.
    pub fn learn(&self, fresh: Self, run: Run) -> Self {
        let Run { was_replayed, has_failed } = run;
        if has_failed {
            let runs = self.runs.saturating_add(1);
            return Self { runs, ready_ms: self.ready_ms, ..self.united(fresh) };
        }
        let compared = self.compare(&fresh);
        let checked = was_replayed.then_some(compared).or(self.checked);
        let poor = match compared.precision() {
            _ if !was_replayed => self.poor,
            precision if precision < PRECISION_MIN => self.poor.saturating_add(1),
            _ => 0,
        };
        let (runs, replays) = (self.runs.saturating_add(1), self.replays);
        let waited_us = if was_replayed { self.waited_us } else { self.waited_us.max(fresh.waited_us) };
        // Without all uses nothing can be said of what was not used.
        let is_little = compared.precision() < PRECISION_KEPT && fresh.accuracy == Accuracy::Used;
        let less = if is_little { self.less.saturating_add(1) } else { 0 };
        let learnt = if less < LESS_MAX { Self { less, ..self.united(fresh) } } else { fresh };
        Self { checked, poor, runs, replays, waited_us, ..learnt }
    }

    /// This with what `fresh` has beside it.
    fn united(&self, fresh: Self) -> Self {
        let Self { recorded_s, ready_ms, lost, outside, .. } = fresh;
        let mut files = self.files.clone();
        for file in fresh.files {
            match files.iter_mut().find(|known| known.layer == file.layer && known.path == file.path) {
                Some(known) => known.ranges = union(&known.ranges, &file.ranges),
                None => files.push(file),
            }
        }
        Self { files, recorded_s, ready_ms, lost, outside, ..self.clone() }.bounded()
    }

    /// Without what goes beyond the bounds; what is used first stays.
    pub fn bounded(mut self) -> Self {
        self.files.truncate(FILES_MAX);
        let (mut ranges, mut pages) = (0, 0_u64);
        for file in &mut self.files {
            file.ranges.retain(|range| {
                ranges += 1;
                pages = pages.saturating_add(range.2);
                ranges <= RANGES_MAX && pages <= PAGES_MAX
            });
        }
        self.files.retain(|file| !file.ranges.is_empty());
        self
    }

    fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("not of the kind {SCHEMA}"));
        }
        if self.class.len() > CLASS_MAX || self.class.chars().any(char::is_control) {
            return Err("a command class that is too long, or has control characters".into());
        }
        if self.files.len() > FILES_MAX {
            return Err(format!("more than {FILES_MAX} files"));
        }
        self.files.iter().try_for_each(File::check)?;
        if self.files.iter().map(|file| file.ranges.len()).sum::<usize>() > RANGES_MAX {
            return Err(format!("more than {RANGES_MAX} ranges"));
        }
        if self.pages() > PAGES_MAX {
            return Err(format!("more than {PAGES_MAX} pages"));
        }
        Ok(())
    }
}

impl Checked {
    /// How much of the profile was used, permille.
    pub fn precision(&self) -> u32 {
        permille(self.both, self.profile)
    }

    /// How much of what was used is in the profile, permille.
    pub fn recall(&self) -> u32 {
        permille(self.both, self.used)
    }
}

impl File {
    /// Its pages that are used.
    pub fn pages(&self) -> u64 {
        self.ranges.iter().map(|range| range.2).fold(0, u64::saturating_add)
    }

    /// The time class of its first use.
    pub fn class(&self) -> u8 {
        self.ranges.iter().map(|range| range.0).min().unwrap_or(u8::MAX)
    }

    fn check(&self) -> Result<(), String> {
        let odd = |part: &str| matches!(part, "" | "." | "..") || part.contains(char::is_control);
        if self.path.len() > 4095 || self.path.split('/').any(odd) {
            return Err("a path that no file of a layer has".into());
        }
        if i64::try_from(self.size).is_err() {
            return Err(format!("a size that no file has: {}", self.size));
        }
        let mut at = 0;
        for Range(class, page, pages) in &self.ranges {
            let end = page.checked_add(*pages).filter(|end| *end <= self.size.div_ceil(PAGE));
            match end {
                Some(end) if *pages > 0 && *page >= at && usize::from(*class) <= DEADLINES_MS.len() => {
                    at = end;
                }
                _ => {
                    return Err(format!("ranges of {:?} that are not in its order, or not in it", self.path));
                }
            }
        }
        Ok(())
    }
}

/// The time class of a use so long after the program's execution.
pub fn time_class(since_exec_ns: u64) -> u8 {
    let passed = DEADLINES_MS.iter().filter(|deadline| since_exec_ns >= **deadline * 1_000_000);
    u8::try_from(passed.count()).unwrap_or(u8::MAX)
}

/// What containers with this command have in common with others: the program's name, and the first word after it that is not a flag.
///
/// `/usr/bin/python3 -m http.server 80` is `python3 http.server`. Long or odd words are told by the beginning of their digest.
pub fn class_of(argv: &[OsString]) -> String {
    let mut words = argv.iter().map(|word| word.as_bytes());
    let program = words.next().unwrap_or_default();
    let program = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let word = words.take(16).find(|word| !word.starts_with(b"-") && !word.is_empty());
    match word {
        Some(word) => format!("{} {}", plain(program), plain(word)),
        None => plain(program),
    }
}

fn plain(word: &[u8]) -> String {
    match std::str::from_utf8(word) {
        Ok(text) if text.len() <= WORD_MAX && text.chars().all(|c| c.is_ascii_graphic()) => text.to_owned(),
        _ => Digest::of(word).hex()[..16].to_owned(),
    }
}

fn permille(part: u64, whole: u64) -> u32 {
    part.saturating_mul(1000).checked_div(whole).and_then(|share| u32::try_from(share).ok()).unwrap_or(1000)
}

/// Pages in both of two lists that are in order.
fn common(one: &[Range], other: &[Range]) -> u64 {
    let (mut i, mut j, mut pages) = (0, 0, 0);
    while let (Some(a), Some(b)) = (one.get(i), other.get(j)) {
        let (a_end, b_end) = (a.1 + a.2, b.1 + b.2);
        pages += a_end.min(b_end).saturating_sub(a.1.max(b.1));
        if a_end <= b_end {
            i += 1;
        } else {
            j += 1;
        }
    }
    pages
}

/// Two lists that are in order, as one: what is in both has the earlier class.
fn union(one: &[Range], other: &[Range]) -> Vec<Range> {
    let mut cuts: Vec<u64> = one.iter().chain(other).flat_map(|range| [range.1, range.1 + range.2]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let (mut ones, mut others) = (one.iter().peekable(), other.iter().peekable());
    let class_at = |ranges: &mut Peekable<slice::Iter<'_, Range>>, page| {
        while ranges.next_if(|range| range.1 + range.2 <= page).is_some() {}
        ranges.peek().filter(|range| range.1 <= page).map(|range| range.0)
    };
    let mut merged: Vec<Range> = Vec::with_capacity(one.len() + other.len());
    for pair in cuts.windows(2) {
        let &[from, to] = pair else { continue };
        let classes = [class_at(&mut ones, from), class_at(&mut others, from)];
        let Some(class) = classes.into_iter().flatten().min() else { continue };
        match merged.last_mut() {
            Some(last) if last.0 == class && last.1 + last.2 == from => last.2 += to - from,
            _ => merged.push(Range(class, from, to - from)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(files: Vec<File>) -> Profile {
        Profile {
            schema: SCHEMA.into(),
            image: Digest::of(b"image"),
            class: "python3 app.py".into(),
            recorded_s: 1,
            accuracy: Accuracy::Used,
            ready_ms: None,
            waited_us: None,
            lost: 0,
            outside: 0,
            runs: 1,
            replays: 0,
            checked: None,
            poor: 0,
            less: 0,
            files,
        }
    }

    const ALONE: Run = Run { was_replayed: false, has_failed: false };
    const REPLAYED: Run = Run { was_replayed: true, has_failed: false };

    fn file(path: &str, ranges: &[(u8, u64, u64)]) -> File {
        let ranges = ranges.iter().map(|(class, page, pages)| Range(*class, *page, *pages)).collect();
        File { layer: Digest::of(b"layer"), path: path.into(), size: 100 * PAGE, sha256: None, ranges }
    }

    #[test]
    fn documents_come_back() {
        let written = profile(vec![file("usr/bin/python3", &[(0, 0, 3), (4, 7, 1)])]);
        assert_eq!(Profile::parse(&written.to_json()), Ok(written));
    }

    #[test]
    fn the_longest_wait_of_a_run_without_a_replay_is_kept() {
        let waited = |waited_us| Profile { waited_us, ..profile(vec![file("a", &[(0, 0, 3)])]) };
        let check = |known, fresh, was_replayed, expected| {
            let run = Run { was_replayed, ..ALONE };
            assert_eq!(waited(known).learn(waited(fresh), run).waited_us, expected);
        };
        check(None, Some(7), false, Some(7));
        check(Some(9), Some(7), false, Some(9));
        check(Some(5), Some(7), false, Some(7));
        check(Some(5), Some(7), true, Some(5));
        check(None, Some(7), true, None);
        check(Some(5), None, false, Some(5));
        assert_eq!(waited(Some(7)).published().waited_us, None);
    }

    #[test]
    fn hostile_documents_are_refused() {
        let check = |profile: &Profile, says: &str| {
            let error = Profile::parse(&profile.to_json()).expect_err(says);
            assert!(error.contains(says), "{error}");
        };
        for path in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/.", "a\n"] {
            check(&profile(vec![file(path, &[])]), "a path");
        }
        check(&profile(vec![file(&"a/".repeat(2048), &[])]), "a path");
        for ranges in [
            &[(0, 0, 0)][..],
            &[(0, 99, 2)],
            &[(12, 0, 1)],
            &[(0, 3, 2), (0, 4, 1)],
            &[(0, 4, 1), (0, 0, 1)],
            &[(0, u64::MAX, 2)],
        ] {
            check(&profile(vec![file("a", ranges)]), "ranges of");
        }
        check(&Profile { schema: "other".into(), ..profile(Vec::new()) }, "not of the kind");
        check(&Profile { class: "a\x1b[m".into(), ..profile(Vec::new()) }, "command class");
        check(&profile(vec![file("a", &[]); FILES_MAX + 1]), "files");
        let many: Vec<_> = (0..50).map(|nth| (0, nth * 2, 1)).collect();
        check(&profile(vec![file("a", &many); 1400]), "ranges");
        check(&profile(vec![file("a", &[(0, 0, 100)]); 2700]), "pages");
        check(&profile(vec![File { size: 1 << 63, ..file("a", &[(0, 0, 1)]) }]), "a size");
        // The pages of all are 2^64.
        let vast = File { size: (1 << 63) - 1, ..file("a", &[(0, 0, 1 << 51)]) };
        check(&profile(vec![vast; 8192]), "pages");
        assert!(Profile::parse(&vec![b' '; BYTES_MAX + 1]).expect_err("large").contains("bytes"));
        assert!(Profile::parse(b"{}").is_err() && Profile::parse(&[0xff; 64]).is_err());
    }

    #[test]
    fn what_goes_beyond_the_bounds_is_left_out_when_recording() {
        let bounded = profile(vec![file("a", &[(0, 0, 100)]); 2700]).bounded();
        assert_eq!(bounded.pages(), PAGES_MAX / 100 * 100);
        assert!(Profile::parse(&bounded.to_json()).is_ok());
    }

    #[test]
    fn precision_and_recall_count_pages() {
        let old = profile(vec![file("a", &[(0, 0, 10), (0, 20, 10)]), file("gone", &[(0, 0, 5)])]);
        let new = profile(vec![file("a", &[(0, 5, 20)]), file("b", &[(0, 0, 5)])]);
        let checked = old.compare(&new);
        assert_eq!(checked, Checked { profile: 25, used: 25, both: 10 });
        assert_eq!((checked.precision(), checked.recall()), (400, 400));
    }

    #[test]
    fn one_run_that_uses_little_takes_nothing_away_and_a_second_does() {
        let whole = profile(vec![file("a", &[(0, 0, 10)]), file("b", &[(0, 0, 5)])]);
        let little = profile(vec![file("a", &[(0, 0, 3)])]);
        for run in [ALONE, REPLAYED] {
            let once = whole.learn(little.clone(), run);
            assert_eq!((&once.files, once.less), (&whole.files, 1), "{run:?}");
            let twice = once.learn(little.clone(), run);
            assert_eq!((&twice.files, twice.less), (&little.files, 0), "{run:?}");
            let between = once.learn(whole.clone(), run).learn(little.clone(), run);
            assert_eq!((&between.files, between.less), (&whole.files, 1), "{run:?}");
        }
    }

    #[test]
    fn a_profile_that_no_run_uses_is_of_no_use() {
        let [a, b, c] = ["a", "b", "c"].map(|name| profile(vec![file(name, &[(0, 0, 9)])]));
        // Both are kept after the first time, so half of it was used the second.
        let learnt = a.learn(b.clone(), REPLAYED).learn(b.clone(), REPLAYED);
        assert_eq!((learnt.poor, learnt.is_good(), &learnt.files), (0, true, &b.files));
        assert_eq!(learnt.learn(b.clone(), REPLAYED).poor, 0);
        let many = profile(vec![file("a", &[(0, 0, 90)])]);
        let learnt = many.learn(a.clone(), REPLAYED).learn(b.clone(), REPLAYED);
        assert_eq!((learnt.poor, learnt.is_good(), &learnt.files), (2, true, &b.files));
        assert!(!learnt.learn(c.clone(), REPLAYED).is_good());
        assert!(learnt.learn(b, REPLAYED).is_good());
    }

    #[test]
    fn a_run_that_has_failed_takes_nothing_away_however_often() {
        let whole =
            Profile { ready_ms: Some(7), ..profile(vec![file("a", &[(0, 0, 10)]), file("b", &[(0, 0, 5)])]) };
        let failed = profile(vec![file("a", &[(0, 9, 2)])]);
        let run = Run { has_failed: true, ..REPLAYED };
        let learnt = (0..5).fold(whole, |known, _| known.learn(failed.clone(), run));
        assert_eq!(learnt.files, [file("a", &[(0, 0, 11)]), file("b", &[(0, 0, 5)])]);
        assert_eq!((learnt.runs, learnt.poor, learnt.less), (6, 0, 0));
        assert_eq!((learnt.checked, learnt.ready_ms), (None, Some(7)));
    }

    #[test]
    fn a_poor_replay_has_the_next_one_looked_at() {
        let check = |checked: bool, poor, replays, expected| {
            let checked = checked.then(Checked::default);
            let profile = Profile { checked, poor, replays, ..profile(Vec::new()) };
            let less = Profile { checked, less: 1, replays, ..profile.clone() };
            assert_eq!(less.is_check_due(), poor < POOR_MAX && replays > 0, "{less:?}");
            assert_eq!(profile.is_check_due(), expected, "{profile:?}");
        };
        check(false, 0, 0, false);
        check(false, 0, 1, true);
        check(true, 0, 2, false);
        check(true, 0, 32, true);
        check(true, 1, 2, true);
        // Not replayed any more.
        check(true, 3, 32, false);
    }

    #[test]
    fn what_most_runs_use_is_kept() {
        let old = profile(vec![file("a", &[(1, 0, 9)]), file("b", &[(0, 0, 1)])]);
        let learnt = old.learn(profile(vec![file("a", &[(0, 1, 10)])]), ALONE);
        assert_eq!(learnt.files, [file("a", &[(1, 0, 1), (0, 1, 10)]), file("b", &[(0, 0, 1)])]);
        assert_eq!((learnt.runs, learnt.checked, learnt.replays), (2, None, 0));
    }

    #[test]
    fn each_page_keeps_its_earliest_class() {
        let ranges = |list: &[(u8, u64, u64)]| list.iter().map(|r| Range(r.0, r.1, r.2)).collect::<Vec<_>>();
        let check = |one: &[_], other: &[_], expected: &[_]| {
            let (one, other, expected) = (ranges(one), ranges(other), ranges(expected));
            assert_eq!(union(&one, &other), expected, "{one:?} {other:?}");
            assert_eq!(union(&other, &one), expected, "{other:?} {one:?}");
        };
        check(&[], &[], &[]);
        check(&[(3, 5, 5)], &[], &[(3, 5, 5)]);
        check(&[(3, 0, 4), (1, 4, 4)], &[(2, 2, 4)], &[(3, 0, 2), (2, 2, 2), (1, 4, 4)]);
        check(&[(1, 0, 10)], &[(0, 3, 2), (4, 20, 1)], &[(1, 0, 3), (0, 3, 2), (1, 5, 5), (4, 20, 1)]);
        check(&[(1, 0, 2), (1, 4, 2)], &[(1, 2, 2)], &[(1, 0, 6)]);
    }

    #[test]
    fn what_only_tells_of_cold_pages_forgets_nothing() {
        let old = profile(vec![file("a", &[(1, 0, 10)])]);
        let fresh = profile(vec![file("a", &[(0, 8, 4)]), file("b", &[(2, 0, 1)])]);
        let learnt = old.learn(Profile { accuracy: Accuracy::Added, ..fresh }, REPLAYED);
        assert_eq!(learnt.files, [file("a", &[(1, 0, 8), (0, 8, 4)]), file("b", &[(2, 0, 1)])]);
    }

    #[test]
    fn commands_have_classes() {
        let check = |line: &str, expected: &str| {
            let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(class_of(&argv), expected, "{line}");
        };
        check("redis-server", "redis-server");
        check("/usr/bin/python3 -m http.server 80", "python3 http.server");
        check("node --inspect app.js", "node app.js");
        let secret = ["sh", "-c", "TOKEN=hush exec prog"].map(OsString::from);
        assert!(!class_of(&secret).contains("hush"));
        assert_eq!(class_of(&[]), "");
    }

    #[test]
    fn times_have_classes() {
        for (ms, class) in [(0, 0), (1, 1), (15, 4), (16, 5), (255, 8), (1024, 11), (90_000, 11)] {
            assert_eq!(time_class(ms * 1_000_000), class, "{ms}");
        }
    }
}
