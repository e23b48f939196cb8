//! The terminal: taken, drawn on, and given back as it was, whatever ends the program but SIGKILL.

use std::io::{self, IsTerminal, Stdout};
use std::panic;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use skiff_runtime::supervise::Signals;

use super::processes;
use super::source;
use super::state::{Key, State, Wish};
use super::view;
use crate::client::refused;
use crate::failure::Failure;
use crate::roots::Roots;
use crate::run::os;

/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(1);
/// Signals, and changes of the terminal's size, are looked for so often.
const TICK: Duration = Duration::from_millis(200);

/// Shows containers until somebody has seen enough.
pub(super) fn run() -> Result<u8, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(refused(Failure::engine("top: needs a terminal; 'skiff stats' prints the same")));
    }
    let roots = Roots::find()?;
    let mut state = State::default();
    // While there is still a screen to say it on.
    state.take(source::read(&roots)?);
    let signals = Signals::block().map_err(|error| os("block signals", &error))?;
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        usual(info);
    }));
    let mut screen = Screen::enter()?;
    let mut read_at = Instant::now();
    loop {
        screen.draw(&state)?;
        let left = INTERVAL.saturating_sub(read_at.elapsed()).min(TICK);
        if event::poll(left).map_err(|error| os("read the terminal", &error))? {
            let event = event::read().map_err(|error| os("read the terminal", &error))?;
            match understood(&event) {
                Some(Pressed::Key(key)) if state.press(key) == Wish::Leave => return Ok(0),
                Some(Pressed::Interrupt) => return Ok(0),
                Some(Pressed::Suspend) => screen.suspend()?,
                _ => {}
            }
        }
        for signal in signals.take().map_err(|error| os("take a signal", &error))? {
            match signal {
                libc::SIGTSTP => screen.suspend()?,
                libc::SIGTERM | libc::SIGHUP | libc::SIGINT | libc::SIGQUIT => {
                    return Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX));
                }
                _ => {}
            }
        }
        if read_at.elapsed() >= INTERVAL {
            if !state.paused {
                look(&mut state, &roots);
            }
            // It may have taken long: there is always time for keys.
            read_at = Instant::now();
        }
        inside(&mut state);
    }
}

/// Reads everything anew; what goes wrong is shown, and tried again.
fn look(state: &mut State, roots: &Roots) {
    match source::read(roots) {
        Ok(readings) => {
            state.take(readings);
            state.processes.clear();
        }
        Err(failure) => state.trouble = Some(failure.to_string()),
    }
}

/// Reads the processes of the container that is looked into, once after each reading.
fn inside(state: &mut State) {
    if !state.inside || !state.processes.is_empty() {
        return;
    }
    if let Some(directory) = state.chosen().and_then(|row| row.now.directory.clone()) {
        state.processes = processes::of_cgroup(&directory);
    }
}

/// What was pressed.
enum Pressed {
    Key(Key),
    Interrupt,
    Suspend,
}

fn understood(event: &Event) -> Option<Pressed> {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return None };
    if modifiers.contains(KeyModifiers::CONTROL) {
        return match code {
            KeyCode::Char('c') => Some(Pressed::Interrupt),
            KeyCode::Char('z') => Some(Pressed::Suspend),
            _ => None,
        };
    }
    let key = match code {
        KeyCode::Char(c) => Key::Char(*c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    };
    Some(Pressed::Key(key))
}

/// A terminal that is drawn on; as before when dropped.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    fn enter() -> Result<Self, Failure> {
        let enter = || -> io::Result<Self> {
            take()?;
            Ok(Self { terminal: Terminal::new(CrosstermBackend::new(io::stdout()))? })
        };
        enter().map_err(|error| {
            restore();
            os("take the terminal", &error)
        })
    }

    fn draw(&mut self, state: &State) -> Result<(), Failure> {
        let drawn = self.terminal.draw(|frame| view::draw(frame, state));
        drawn.map(drop).map_err(|error| os("write to the terminal", &error))
    }

    /// Gives the terminal back and stops, as programs do on ^Z; goes on when it is told to.
    fn suspend(&mut self) -> Result<(), Failure> {
        restore();
        let stopped = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
        stopped.map_err(|error| os("stop", &error.into()))?;
        // To clear the old one would mean to ask the terminal where its cursor is; a new one knows of nothing drawn.
        let again = || -> io::Result<_> {
            take()?;
            Terminal::new(CrosstermBackend::new(io::stdout()))
        };
        self.terminal = again().map_err(|error| os("take the terminal", &error))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen)
}

/// Gives the terminal back. Where it fails there is nothing to say it on.
fn restore() {
    let _lost = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _lost = disable_raw_mode();
}
