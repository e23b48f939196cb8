//! Names and ids of containers.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io;

use crate::Error;

/// Drawn names are one of these, a dash, and one of [`NOUNS`].
const ADJECTIVES: [&str; 64] = [
    "amber", "ample", "azure", "balmy", "brisk", "bright", "broad", "calm", "clear", "coastal", "cool",
    "coral", "crisp", "deep", "drifting", "dry", "eager", "early", "fair", "fast", "firm", "fleet", "foggy",
    "fresh", "gentle", "gilded", "glad", "golden", "grand", "green", "hardy", "hazy", "high", "humble",
    "idle", "jolly", "keen", "large", "late", "light", "little", "lively", "lone", "lucid", "mellow",
    "merry", "mild", "misty", "neat", "nimble", "noble", "northern", "pale", "placid", "plain", "proud",
    "quick", "quiet", "rapid", "silver", "steady", "sturdy", "sunny", "tidal",
];
const NOUNS: [&str; 64] = [
    "anchor", "barge", "bay", "beacon", "bight", "boom", "bow", "brig", "buoy", "cape", "canoe", "channel",
    "clipper", "coast", "coracle", "cove", "current", "cutter", "delta", "dinghy", "dock", "dory", "ebb",
    "estuary", "ferry", "fjord", "fleet", "frigate", "galley", "gull", "gulf", "harbor", "haven", "heron",
    "hull", "inlet", "island", "jetty", "kayak", "keel", "ketch", "lagoon", "lantern", "lugger", "mast",
    "mole", "oar", "packet", "petrel", "pier", "pilot", "port", "quay", "raft", "reef", "rudder", "sail",
    "schooner", "sloop", "sound", "tern", "tide", "wharf", "yawl",
];

/// Which container has which name and id.
#[derive(Debug, Default)]
pub struct Names {
    by_name: HashMap<String, String>,
    /// The name of each id; ordered, for lookups by a beginning.
    by_id: BTreeMap<String, String>,
}

impl Names {
    /// Gives `name` to the container `id`, or another name to one that has one.
    ///
    /// Errors: a name that is not one; one that another container has.
    pub fn give(&mut self, id: &str, name: &str) -> Result<(), Error> {
        self.check_free(id, name)?;
        self.by_name.insert(name.to_owned(), id.to_owned());
        if let Some(former) =
            self.by_id.insert(id.to_owned(), name.to_owned()).filter(|former| former != name)
        {
            self.by_name.remove(&former);
        }
        Ok(())
    }

    /// Checks that `name` can be given to the container `id`.
    pub fn check_free(&self, id: &str, name: &str) -> Result<(), Error> {
        check(name)?;
        let Some(owner) = self.by_name.get(name).filter(|owner| *owner != id) else { return Ok(()) };
        let short: String = owner.chars().take(12).collect();
        let text = format!("the container name {name:?} is already in use by container {short}");
        Err(Error::Conflict(text))
    }

    /// Draws a name that is free.
    pub fn draw(&self) -> io::Result<String> {
        for round in 0_u32.. {
            let mut bytes = [0; 4];
            skiff_sys::random::fill(&mut bytes)?;
            let word = |words: &[&'static str; 64], byte: u8| words[usize::from(byte % 64)];
            let mut name = format!("{}-{}", word(&ADJECTIVES, bytes[0]), word(&NOUNS, bytes[1]));
            // 4 096 names are soon used up: more and more digits make room.
            if round > 0 {
                let number = u32::from(bytes[2]) << 8 | u32::from(bytes[3]);
                write!(name, "-{}", number % 10_u32.pow(round.min(5))).map_err(io::Error::other)?;
            }
            if !self.by_name.contains_key(&name) {
                return Ok(name);
            }
        }
        Err(io::Error::other("no name is left"))
    }

    /// Takes name and id back.
    pub fn forget(&mut self, id: &str) {
        if let Some(name) = self.by_id.remove(id) {
            self.by_name.remove(&name);
        }
    }

    /// The id of the container that `word` means: by its name, its id, or a beginning of the id that no other has.
    ///
    /// Errors: there is none; there are several.
    pub fn find(&self, word: &str) -> Result<&str, Error> {
        if let Some((id, _)) = self.by_id.get_key_value(word) {
            return Ok(id);
        }
        if let Some(id) = self.by_name.get(word) {
            return Ok(id);
        }
        let missing = || Error::NotFound { kind: "container", name: word.to_owned() };
        if word.is_empty() {
            return Err(missing());
        }
        let mut fitting =
            self.by_id.range(word.to_owned()..).map(|(id, _)| id).take_while(|id| id.starts_with(word));
        match (fitting.next(), fitting.next()) {
            (None, _) => Err(missing()),
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => Err(Error::Invalid(format!("several containers' ids begin with {word}"))),
        }
    }
}

/// Checks that `name` can be a container's: docker's rule.
pub fn check(name: &str) -> Result<(), Error> {
    let mut bytes = name.bytes();
    let begins_well = bytes.next().is_some_and(|first| first.is_ascii_alphanumeric());
    let goes_on_well = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if begins_well && goes_on_well && (2..=128).contains(&name.len()) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "invalid container name {name:?}: 2 to 128 letters, digits and _.-, the first a letter or digit"
    )))
}

/// Draws an id: 64 random hex digits.
pub fn draw_id() -> io::Result<String> {
    let mut bytes = [0; 32];
    skiff_sys::random::fill(&mut bytes)?;
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    Ok(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_found_by_name_id_and_beginning() {
        let mut names = Names::default();
        for (id, name) in [("aa11", "web"), ("aa22", "db"), ("bb33", "aa")] {
            names.give(id, name).expect("a free name");
        }
        let check = |word: &str, expected: Result<&str, &str>| {
            let found = names.find(word).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{word}");
        };
        check("web", Ok("aa11"));
        check("aa22", Ok("aa22"));
        check("b", Ok("bb33"));
        check("aa1", Ok("aa11"));
        // A name wins over beginnings of ids.
        check("aa", Ok("bb33"));
        check("a", Err("several containers' ids begin with a"));
        check("", Err("no such container: "));
        check("c", Err("no such container: c"));
        check("aa11x", Err("no such container: aa11x"));
    }

    #[test]
    fn a_name_has_one_owner_until_it_is_given_back() {
        let mut names = Names::default();
        names.give("a1", "web").expect("free");
        let taken = names.give("b2", "web").expect_err("taken").to_string();
        assert_eq!(taken, r#"the container name "web" is already in use by container a1"#);
        names.give("a1", "web").expect("it is its own");
        names.give("a1", "old").expect("rename");
        names.give("b2", "web").expect("free again");
        names.forget("a1");
        names.forget("a1");
        assert!(names.find("old").is_err() && names.find("a1").is_err());
        assert_eq!(names.find("web").expect("web"), "b2");
    }

    #[test]
    fn names_follow_docker_s_rule() {
        let long = "x".repeat(128);
        for good in ["web", "w1", "A.b_c-d", &long] {
            check(good).expect(good);
        }
        let longer = "x".repeat(129);
        for bad in ["", "w", "-web", ".web", "we b", "we/b", "wéb", "../x", &longer] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn drawn_names_are_valid_and_free() {
        let mut names = Names::default();
        for number in 0..5000 {
            let name = names.draw().expect("draw");
            names.give(&format!("{number}"), &name).expect("free and valid");
        }
    }

    #[test]
    fn drawn_ids_are_ids_and_differ() {
        let (one, other) = (draw_id().expect("id"), draw_id().expect("id"));
        assert!(crate::record::is_id(&one) && crate::record::is_id(&other) && one != other);
    }
}
