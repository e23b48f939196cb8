//! What becomes of layers while they are fetched, unpacked or sent: bars that are redrawn in place on a terminal, and
//! elsewhere a line for each change, as docker prints them.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use skiff_sys::terminal::{self, Size};

use crate::format::units::decimal;

/// Between two pictures.
const INTERVAL: Duration = Duration::from_millis(100);

/// A terminal that does not say its size.
const USUAL: Size = Size { rows: 24, columns: 80 };

/// The longest bar, brackets excluded.
const BAR_MAX: usize = 50;

/// The shortest one that still says something.
const BAR_MIN: usize = 8;

/// Where it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Stdout,
    Stderr,
    /// Nowhere: `--quiet`.
    Nothing,
}

/// What is being done to a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    /// In words.
    Said(String),
    /// In words and bytes of what there is in all; 0 where nobody knows.
    Counted { verb: &'static str, done: u64, total: u64 },
}

/// The layers of one command.
#[derive(Debug)]
pub(crate) struct Board {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    to: To,
    is_terminal: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rows: Vec<Row>,
    /// So many lines above the cursor are the last picture.
    drawn: usize,
    is_stale: bool,
    is_over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    name: String,
    status: Status,
    is_done: bool,
    /// What has been said of it: it is not said again where lines stay.
    said: Vec<String>,
}

impl Board {
    pub(crate) fn new(to: To) -> Self {
        let is_terminal = match to {
            To::Stdout => io::stdout().is_terminal(),
            To::Stderr => io::stderr().is_terminal(),
            To::Nothing => false,
        };
        let is_terminal = is_terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let shared = Arc::new(Shared { to, is_terminal, state: Mutex::default(), changed: Condvar::new() });
        // Without it only the events themselves are shown, some of them late.
        let ticker = is_terminal.then(|| {
            let shared = shared.clone();
            thread::Builder::new().name("progress".into()).spawn(move || shared.tick()).ok()
        });
        Self { shared, ticker: ticker.flatten() }
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        let mut state = self.shared.state();
        let mut out = state.erased();
        out.push_str(text);
        out.push('\n');
        self.shared.write(&out);
        state.is_stale = self.shared.is_terminal && !state.rows.is_empty();
    }

    /// What should be known even where nothing else is told: above the rows of a terminal, else on standard error.
    pub(crate) fn warn(&self, text: &str) {
        if self.shared.is_terminal {
            self.line(text);
        } else {
            eprintln!("{text}");
        }
    }

    /// A layer's state: what is the same as before is not said again.
    pub(crate) fn set(&self, name: &str, status: Status) {
        self.put(name, status, false);
    }

    /// The last that is to be said of a layer.
    pub(crate) fn done(&self, name: &str, words: &str) {
        self.put(name, Status::Said(words.to_owned()), true);
    }

    fn put(&self, name: &str, status: Status, is_done: bool) {
        let mut state = self.shared.state();
        match state.rows.iter_mut().find(|row| row.name == name) {
            // Threads may tell of what is over late.
            Some(row) if row.status == status || (row.is_done && !is_done) => return,
            Some(row) => (row.status, row.is_done) = (status.clone(), is_done),
            None => state.rows.push(Row {
                name: name.to_owned(),
                status: status.clone(),
                is_done,
                said: Vec::new(),
            }),
        }
        if self.shared.is_terminal {
            state.is_stale = true;
            self.shared.changed.notify_one();
            return;
        }
        let row = state.rows.iter_mut().find(|row| row.name == name);
        if let (Some(row), Status::Said(words)) = (row, status)
            && !row.said.contains(&words)
        {
            self.shared.write(&format!("{name}: {words}\n"));
            row.said.push(words);
        }
    }

    /// Shows how it all ended; what is printed from now on comes below.
    pub(crate) fn finish(&self) {
        let mut state = self.shared.state();
        if state.is_over {
            return;
        }
        state.is_over = true;
        if self.shared.is_terminal {
            self.shared.draw(&mut state, usize::MAX);
        }
        state.rows.clear();
        state.drawn = 0;
        self.shared.changed.notify_one();
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.finish();
        if let Some(ticker) = self.ticker.take() {
            // It has nothing to say but that it panicked.
            let _ended = ticker.join();
        }
    }
}

impl Shared {
    /// What a panic in another thread left is good enough to be shown.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Redraws until it is over.
    fn tick(&self) {
        let mut state = self.state();
        while !state.is_over {
            if state.is_stale {
                self.draw(&mut state, 0);
                drop(state);
                thread::sleep(INTERVAL);
                state = self.state();
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// At least `rows_min` lines, if there are so many layers.
    fn draw(&self, state: &mut State, rows_min: usize) {
        let size = self.size();
        let height = usize::from(size.rows).saturating_sub(1).max(1).max(rows_min);
        let lines = picture(&state.rows, usize::from(size.columns), height);
        let mut out = state.erased();
        lines.iter().for_each(|line| {
            out.push_str(line);
            out.push('\n');
        });
        (state.drawn, state.is_stale) = (lines.len(), false);
        self.write(&out);
    }

    fn size(&self) -> Size {
        let found = match self.to {
            To::Stdout => terminal::size(io::stdout().as_fd()),
            To::Stderr => terminal::size(io::stderr().as_fd()),
            To::Nothing => Ok(USUAL),
        };
        found.ok().filter(|size| size.rows > 0 && size.columns > 0).unwrap_or(USUAL)
    }

    /// In one write. Nobody minds if it cannot be shown.
    fn write(&self, text: &str) {
        let _unshown = match self.to {
            To::Stdout => io::stdout().write_all(text.as_bytes()),
            To::Stderr => io::stderr().write_all(text.as_bytes()),
            To::Nothing => Ok(()),
        };
    }
}

impl State {
    /// What takes the last picture away.
    fn erased(&mut self) -> String {
        let mut out = String::new();
        if self.drawn > 0 {
            // Up, and everything below away.
            let _infallible = write!(out, "\x1b[{}A\r\x1b[J", self.drawn);
        }
        self.drawn = 0;
        out
    }
}

/// Lines of at most `columns - 1` characters, so that none wraps, and at most `height` of them: those of layers on which
/// something is being done come before others then.
fn picture(rows: &[Row], columns: usize, height: usize) -> Vec<String> {
    let width = columns.saturating_sub(1);
    let fit = |line: String| line.chars().take(width).collect::<String>();
    if rows.len() <= height {
        return rows.iter().map(|row| fit(line(row, width))).collect();
    }
    let places = height - 1;
    let mut shown: Vec<usize> = (0..rows.len()).collect();
    shown.sort_by_key(|at| (weight(&rows[*at]), *at));
    shown.truncate(places);
    shown.sort_unstable();
    let done = rows.iter().filter(|row| row.is_done).count();
    let lines = shown.iter().map(|at| line(&rows[*at], width));
    lines.chain([format!("{done} of {} layers done", rows.len())]).map(fit).collect()
}

/// Whose line matters most comes first.
fn weight(row: &Row) -> u8 {
    match (&row.status, row.is_done) {
        (Status::Counted { .. }, _) => 0,
        (_, false) => 1,
        (_, true) => 2,
    }
}

/// `abc: Downloading [=====>     ]  1.2MB/3.4MB`, the bar as long as there is room.
fn line(row: &Row, width: usize) -> String {
    let (verb, done, total) = match row.status {
        Status::Said(ref words) => return format!("{}: {words}", row.name),
        Status::Counted { verb, done, total } => (verb, done, total),
    };
    let before = format!("{}: {verb} ", row.name);
    if total == 0 {
        return format!("{before}{}", decimal(done));
    }
    let figures = format!("{:>8}/{}", decimal(done), decimal(total));
    let room = width.saturating_sub(before.chars().count() + figures.chars().count() + 3).min(BAR_MAX);
    if room < BAR_MIN {
        return format!("{before}{}", figures.trim_start());
    }
    format!("{before}{} {figures}", bar(done, total, room))
}

fn bar(done: u64, total: u64, room: usize) -> String {
    let filled = (u128::from(done.min(total)) * room as u128 / u128::from(total)) as usize;
    match filled == room {
        true => format!("[{}]", "=".repeat(room)),
        false => format!("[{}>{}]", "=".repeat(filled), " ".repeat(room - filled - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, words: &str, is_done: bool) -> Row {
        Row { name: name.into(), status: Status::Said(words.into()), is_done, said: Vec::new() }
    }

    fn counted(name: &str, done: u64, total: u64) -> Row {
        Row {
            name: name.into(),
            status: Status::Counted { verb: "Downloading", done, total },
            is_done: false,
            said: Vec::new(),
        }
    }

    #[test]
    fn a_bar_has_the_length_that_there_is_room_for() {
        let check = |columns: usize, done: u64, expected: &str| {
            assert_eq!(picture(&[counted("abc", done, 4_000_000)], columns, 9), [expected], "{columns}");
        };
        check(60, 1_000_000, "abc: Downloading [======>                    ]      1MB/4MB");
        check(60, 4_000_000, "abc: Downloading [===========================]      4MB/4MB");
        check(60, 9_000_000, "abc: Downloading [===========================]      9MB/4MB");
        check(60, 0, "abc: Downloading [>                          ]       0B/4MB");
        check(40, 1_234_567, "abc: Downloading 1.23MB/4MB");
        check(20, 1_000_000, "abc: Downloading 1M");
        check(1, 1_000_000, "");
        assert_eq!(picture(&[counted("abc", 5000, 0)], 80, 9), ["abc: Downloading 5kB"]);
        let longest = &picture(&[counted("abc", 1, 3)], 1000, 9)[0];
        assert_eq!(
            longest.chars().count(),
            "abc: Downloading ".len() + BAR_MAX + 2 + 1 + "      1B/3B".len()
        );
    }

    #[test]
    fn no_line_wraps_and_no_picture_scrolls() {
        let rows: Vec<Row> = (0..30).map(|n| counted(&format!("{n:012}"), n * 1000, 30_000)).collect();
        for columns in [1, 2, 10, 33, 80, 200] {
            for height in [1, 2, 10, 29, 30, 100] {
                let lines = picture(&rows, columns, height);
                assert!(lines.len() <= height && lines.len() == rows.len().min(height), "{columns} {height}");
                assert!(lines.iter().all(|line| line.chars().count() < columns), "{columns} {lines:?}");
            }
        }
    }

    #[test]
    fn what_is_being_done_comes_first_where_there_is_little_room() {
        let rows = [
            said("a", "Pull complete", true),
            said("b", "Waiting", false),
            counted("c", 1, 0),
            said("d", "Waiting", false),
        ];
        assert_eq!(picture(&rows, 80, 3), ["b: Waiting", "c: Downloading 1B", "1 of 4 layers done"]);
        assert_eq!(picture(&rows, 80, 1), ["1 of 4 layers done"]);
        assert_eq!(picture(&rows, 80, 4).len(), 4);
    }

    #[test]
    fn what_is_said_twice_or_late_is_left_out() {
        let board = Board::new(To::Nothing);
        board.set("a", Status::Said("Waiting".into()));
        board.set("a", Status::Said("Waiting".into()));
        board.done("a", "Pull complete");
        board.set("a", Status::Counted { verb: "Extracting", done: 1, total: 2 });
        let state = board.shared.state();
        assert_eq!(
            (&state.rows[0].status, state.rows[0].is_done),
            (&Status::Said("Pull complete".into()), true)
        );
        assert_eq!(state.rows[0].said, ["Waiting", "Pull complete"]);
    }
}
