//! What is shown, and what keys do to it. Pure.

use std::collections::{BTreeMap, VecDeque};

use super::processes::Process;
use super::source::Reading;
use crate::profile::{duration, size};

/// So many seconds of each container are remembered.
pub(super) const REMEMBERED: usize = 120;
/// The longest filter.
const FILTER: usize = 64;

/// A figure that containers are compared by.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// In JSON.
    pub(super) key: &'static str,
    pub(super) width: u16,
    /// Larger is more.
    value: fn(&Row) -> Option<f64>,
    show: fn(f64) -> String,
}

/// Of which the first is shown in words.
pub(super) static COLUMNS: [Column; 11] = [
    Column {
        title: "CPU %",
        key: "cpu_percent",
        width: 7,
        value: |row| Some(row.rate(|r| r.cpu_ns)? / 1e7),
        show: |n| format!("{n:.1}"),
    },
    Column {
        title: "RUN QUEUE %",
        key: "run_queue_percent",
        width: 11,
        value: |row| Some(row.rate(|r| r.run_queue_ns)? / 1e7),
        show: |n| format!("{n:.1}"),
    },
    Column {
        title: "THROTTLED %",
        key: "throttled_percent",
        width: 11,
        value: |row| Some(row.rate(|r| r.throttled_ns)? / 1e7),
        show: |n| format!("{n:.1}"),
    },
    Column {
        title: "MEMORY",
        key: "memory_bytes",
        width: 10,
        value: |row| row.now.memory_bytes.map(|n| n as f64),
        show: bytes,
    },
    Column {
        title: "FAULTS/S",
        key: "faults_per_s",
        width: 9,
        value: |row| row.rate(|r| r.faults),
        show: count,
    },
    Column {
        title: "SYSCALLS/S",
        key: "system_calls_per_s",
        width: 10,
        value: |row| row.rate(|r| r.calls),
        show: count,
    },
    Column {
        title: "READ/S",
        key: "read_bytes_per_s",
        width: 10,
        value: |row| row.rate(|r| r.read_bytes),
        show: bytes,
    },
    Column {
        title: "WRITE/S",
        key: "write_bytes_per_s",
        width: 10,
        value: |row| row.rate(|r| r.write_bytes),
        show: bytes,
    },
    Column {
        title: "RECV/S",
        key: "received_bytes_per_s",
        width: 10,
        value: |row| row.rate(|r| r.received_bytes),
        show: bytes,
    },
    Column {
        title: "SENT/S",
        key: "sent_bytes_per_s",
        width: 10,
        value: |row| row.rate(|r| r.sent_bytes),
        show: bytes,
    },
    Column {
        title: "TASKS",
        key: "tasks",
        width: 6,
        value: |row| row.now.tasks.map(|n| n as f64),
        show: count,
    },
];

/// What is drawn of the past: places in [`COLUMNS`].
pub(super) const DRAWN: [usize; 6] = [0, 1, 3, 4, 6, 7];

/// A container.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    pub(super) now: Reading,
    before: Option<Reading>,
    /// What [`DRAWN`] was, the oldest first.
    pub(super) past: VecDeque<[u64; DRAWN.len()]>,
}

/// A key, as far as it means anything here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Enter,
    Escape,
    Backspace,
}

/// What the keys want that is not a matter of what is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Stay,
    Leave,
}

/// Everything that is shown.
#[derive(Debug, Default)]
pub(super) struct State {
    rows: BTreeMap<String, Row>,
    /// The place in [`COLUMNS`] of what containers are ordered by.
    pub(super) sort: usize,
    /// The least first.
    pub(super) ascending: bool,
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) typing: bool,
    /// The id of the container that is chosen.
    chosen: Option<String>,
    /// It is looked into.
    pub(super) inside: bool,
    pub(super) paused: bool,
    pub(super) helping: bool,
    /// Of the container that is looked into.
    pub(super) processes: Vec<Process>,
    /// Why the last figures are missing.
    pub(super) trouble: Option<String>,
}

impl Column {
    /// What it says of `row`.
    pub(super) fn figure(&self, row: &Row) -> Option<f64> {
        (self.value)(row)
    }
}

impl Row {
    /// How much `figure` has grown per second; none if it is not known of two times.
    fn rate(&self, figure: fn(&Reading) -> Option<u64>) -> Option<f64> {
        let before = self.before.as_ref()?;
        let seconds = self.now.at_ns.checked_sub(before.at_ns).filter(|ns| *ns > 0)? as f64 / 1e9;
        Some(figure(&self.now)?.saturating_sub(figure(before)?) as f64 / seconds)
    }

    /// What a column says of it.
    pub(super) fn cell(&self, column: &Column) -> String {
        column.figure(self).map_or_else(|| "-".to_owned(), column.show)
    }
}

impl State {
    /// Takes in what was read. Of what is no longer there, nothing is remembered.
    pub(super) fn take(&mut self, readings: Vec<Reading>) {
        let mut rows = BTreeMap::new();
        for now in readings {
            let old = self.rows.remove(&now.id).unwrap_or_default();
            let mut row = Row { before: (old.now.at_ns > 0).then_some(old.now), now, past: old.past };
            // Whole numbers: thousandths of a percent, bytes.
            let drawn = DRAWN.map(|column| (COLUMNS[column].value)(&row).map_or(0, whole));
            if row.before.is_some() {
                row.past.push_back(drawn);
            }
            while row.past.len() > REMEMBERED {
                row.past.pop_front();
            }
            rows.insert(row.now.id.clone(), row);
        }
        self.rows = rows;
        self.trouble = None;
        if self.inside && self.chosen().is_none() {
            self.inside = false;
        }
    }

    /// The containers that the filter lets pass, in their order.
    pub(super) fn shown(&self) -> Vec<&Row> {
        let passes = |row: &&Row| {
            let reading = &row.now;
            [&reading.name, &reading.id, &reading.image].iter().any(|text| text.contains(&self.filter))
        };
        let value = COLUMNS[self.sort].value;
        let mut rows: Vec<(f64, &Row)> =
            self.rows.values().filter(passes).map(|row| (value(row).unwrap_or(-1.0), row)).collect();
        rows.sort_by(|(one, row), (other, next)| {
            let order = one.total_cmp(other);
            let order = if self.ascending { order } else { order.reverse() };
            order.then_with(|| row.now.name.cmp(&next.now.name))
        });
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// How many there are, those that are filtered out included.
    pub(super) fn total(&self) -> usize {
        self.rows.len()
    }

    /// The place among those shown of the one that is chosen: the first, if none is.
    pub(super) fn place(&self, shown: &[&Row]) -> usize {
        let is_chosen = |row: &&Row| self.chosen.as_ref() == Some(&row.now.id);
        shown.iter().position(is_chosen).unwrap_or(0)
    }

    /// The container that is chosen.
    pub(super) fn chosen(&self) -> Option<&Row> {
        match &self.chosen {
            Some(id) if self.inside => self.rows.get(id),
            _ => {
                let shown = self.shown();
                shown.get(self.place(&shown)).copied()
            }
        }
    }

    /// What a key does.
    pub(super) fn press(&mut self, key: Key) -> Wish {
        if self.typing {
            self.edit(key);
            return Wish::Stay;
        }
        match key {
            Key::Char('q') if self.helping => self.helping = false,
            Key::Char('q') => return Wish::Leave,
            Key::Escape if self.helping => self.helping = false,
            Key::Escape | Key::Backspace if self.inside => self.inside = false,
            Key::Escape => self.filter.clear(),
            Key::Char('?' | 'h') => self.helping = !self.helping,
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Char('/') => {
                self.inside = false;
                self.typing = true;
            }
            Key::Char('r') => self.ascending = !self.ascending,
            Key::Left | Key::Char('<') => self.sort = self.sort.checked_sub(1).unwrap_or(COLUMNS.len() - 1),
            Key::Right | Key::Char('>') => self.sort = (self.sort + 1) % COLUMNS.len(),
            Key::Up | Key::Char('k') => self.step(-1),
            Key::Down | Key::Char('j') => self.step(1),
            Key::PageUp => self.step(-10),
            Key::PageDown => self.step(10),
            Key::Enter => {
                self.chosen = self.chosen().map(|row| row.now.id.clone());
                self.inside = self.chosen.is_some();
                self.processes.clear();
            }
            Key::Char(_) | Key::Backspace => {}
        }
        Wish::Stay
    }

    fn edit(&mut self, key: Key) {
        match key {
            Key::Enter => self.typing = false,
            Key::Escape => {
                self.typing = false;
                self.filter.clear();
            }
            Key::Backspace => drop(self.filter.pop()),
            Key::Char(c) if self.filter.chars().count() < FILTER && !c.is_control() => self.filter.push(c),
            _ => {}
        }
    }

    /// Chooses another, so many further down.
    fn step(&mut self, by: isize) {
        let shown = self.shown();
        let last = shown.len().saturating_sub(1);
        let place = self.place(&shown).saturating_add_signed(by).min(last);
        self.chosen = shown.get(place).map(|row| row.now.id.clone());
        if self.inside {
            self.processes.clear();
        }
    }
}

/// For what is drawn: thousandths are enough.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast saturates at both ends")]
fn whole(number: f64) -> u64 {
    (number * 1000.0) as u64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast saturates at both ends")]
fn bytes(number: f64) -> String {
    size(number as u64)
}

fn count(number: f64) -> String {
    format!("{number:.0}")
}

/// Time that ticks of 1/100 s are.
pub(super) fn time_of(ticks: u64) -> String {
    duration(ticks as f64 * 1e7)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn reading(name: &str, at_s: u64, cpu_ms: u64, memory_mib: u64) -> Reading {
        Reading {
            id: format!("{name}-id"),
            name: name.to_owned(),
            image: "debian:12".into(),
            at_ns: at_s * 1_000_000_000,
            cpu_ns: Some(cpu_ms * 1_000_000),
            memory_bytes: Some(memory_mib << 20),
            ..Reading::default()
        }
    }

    pub(in super::super) fn state() -> State {
        let mut state = State::default();
        for at in 1..4 {
            state.take(vec![
                reading("web", at, at * 500, 64),
                reading("db", at, at * 10, 256),
                reading("cache", at, at * 100, 1),
            ]);
        }
        state
    }

    fn names(state: &State) -> Vec<&str> {
        state.shown().iter().map(|row| row.now.name.as_str()).collect()
    }

    #[test]
    fn containers_are_ordered_by_a_column() {
        let mut state = state();
        assert_eq!(names(&state), ["web", "cache", "db"]);
        assert_eq!(state.shown()[0].cell(&COLUMNS[0]), "50.0");
        assert_eq!(state.shown()[0].cell(&COLUMNS[4]), "-");
        for _ in 0..3 {
            state.press(Key::Right);
        }
        assert_eq!(names(&state), ["db", "web", "cache"]);
        state.press(Key::Char('r'));
        assert_eq!(names(&state), ["cache", "web", "db"]);
        state.press(Key::Left);
        assert_eq!(COLUMNS[state.sort].title, "THROTTLED %");
    }

    #[test]
    fn the_filter_is_typed_and_taken_back() {
        let mut state = state();
        for key in "/w".chars().map(Key::Char).chain([Key::Char('q'), Key::Backspace, Key::Enter]) {
            assert_eq!(state.press(key), Wish::Stay);
        }
        assert_eq!((names(&state), state.total()), (vec!["web"], 3));
        state.press(Key::Escape);
        assert_eq!(names(&state).len(), 3);
        state.press(Key::Char('/'));
        for _ in 0..1000 {
            state.press(Key::Char('x'));
        }
        assert_eq!(state.filter.len(), FILTER);
    }

    #[test]
    fn the_one_that_is_chosen_stays_chosen() {
        let mut state = state();
        state.press(Key::Down);
        assert_eq!(state.chosen().map(|row| row.now.name.as_str()), Some("cache"));
        state.take(vec![reading("web", 4, 1600, 64), reading("cache", 4, 2000, 1)]);
        assert_eq!(names(&state)[0], "cache");
        assert_eq!(state.chosen().map(|row| row.now.name.as_str()), Some("cache"));
        state.press(Key::Enter);
        assert!(state.inside);
        state.take(vec![reading("web", 5, 1700, 64)]);
        assert!(!state.inside, "it has gone");
        for key in [Key::PageDown, Key::PageUp, Key::Enter] {
            state.press(key);
        }
        assert_eq!(state.chosen().map(|row| row.now.name.as_str()), Some("web"));
        state.take(Vec::new());
        state.press(Key::Enter);
        assert!(!state.inside && state.chosen().is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut state = State::default();
        for at in 1..1000 {
            state.take(vec![reading("web", at, at, 1)]);
        }
        assert_eq!(state.shown()[0].past.len(), REMEMBERED);
        state.take(Vec::new());
        assert_eq!(state.total(), 0);
    }

    #[test]
    fn keys_leave_help_before_they_leave_all() {
        let mut state = state();
        state.press(Key::Char('?'));
        assert!(state.helping);
        assert_eq!(state.press(Key::Char('q')), Wish::Stay);
        assert_eq!(state.press(Key::Char('q')), Wish::Leave);
        state.press(Key::Char('p'));
        assert!(state.paused);
    }
}
