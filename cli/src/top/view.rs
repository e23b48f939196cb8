//! Draws what is shown.

use std::ops::Range;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row as Cells, Sparkline, Table, TableState};

use super::state::{COLUMNS, DRAWN, Row, State, time_of};
use crate::profile::size;

/// What keys do.
const HELP: &str = "\
up, down, j, k   choose a container
left, right      choose the column to order by
r                turn the order round
/                show only what contains a text
Enter            look into the container
Esc              back; forget the text
p                pause
?                this help
q                leave";

/// The smallest page in bytes.
const PAGE: u64 = 4096;

const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);

pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(headline(state), head);
    match state.chosen().filter(|_| state.inside) {
        Some(row) => one(frame, body, state, row),
        None => all(frame, body, state),
    }
    frame.render_widget(footline(state), foot);
    if state.helping {
        help(frame);
    }
}

fn headline(state: &State) -> Line<'static> {
    let (shown, total) = (state.shown().len(), state.total());
    let count = if shown == total { total.to_string() } else { format!("{shown} of {total}") };
    let paused = if state.paused { "  PAUSED" } else { "" };
    Line::styled(format!("skiff top  {count} containers{paused}"), STRONG)
}

fn footline(state: &State) -> Line<'static> {
    if state.typing {
        return Line::raw(format!("/{}_", state.filter));
    }
    if let Some(trouble) = &state.trouble {
        return Line::styled(trouble.clone(), STRONG);
    }
    let filter = if state.filter.is_empty() { String::new() } else { format!("/{}  ", state.filter) };
    Line::styled(format!("{filter}q leave  ? help  / filter  Enter look into  p pause"), DIM)
}

fn all(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let shown = state.shown();
    let widest = shown.iter().map(|row| row.now.name.chars().count()).max().unwrap_or(0).clamp(9, 30);
    let widest = u16::try_from(widest).unwrap_or(30);
    let fitting = fitting(state.sort, area.width.saturating_sub(widest));
    let columns = || COLUMNS.iter().enumerate().skip(fitting.start).take(fitting.len());
    let title = |(place, column): (usize, &super::state::Column)| {
        let style = if place == state.sort { STRONG.add_modifier(Modifier::UNDERLINED) } else { STRONG };
        Cell::new(Text::from(column.title).right_aligned()).style(style)
    };
    let heading = std::iter::once(Cell::new("CONTAINER").style(STRONG)).chain(columns().map(title));
    let rows = shown.iter().map(|row| {
        let cells = columns().map(|(_, column)| Cell::new(Text::from(row.cell(column)).right_aligned()));
        Cells::new(std::iter::once(Cell::new(row.now.name.clone())).chain(cells))
    });
    let widths = std::iter::once(Constraint::Length(widest))
        .chain(columns().map(|(_, column)| Constraint::Length(column.width)));
    let table = Table::new(rows, widths).header(Cells::new(heading)).row_highlight_style(CHOSEN);
    let place = (!shown.is_empty()).then(|| state.place(&shown));
    frame.render_stateful_widget(table, area, &mut TableState::default().with_selected(place));
}

/// The columns that there is room for: from the first on, or from later if the one at `sort` would be left out.
fn fitting(sort: usize, room: u16) -> Range<usize> {
    let ends_at = |first: usize| {
        let ends = COLUMNS[first..].iter().scan(0, |used, column| {
            *used += column.width + 1;
            Some(*used)
        });
        first + ends.take_while(|used| *used <= room).count()
    };
    let first = (0..=sort).find(|first| ends_at(*first) > sort).unwrap_or(sort);
    first..ends_at(first).max(first + 1)
}

fn one(frame: &mut Frame<'_>, area: Rect, state: &State, row: &Row) {
    let above = u16::try_from(2 + row.now.waits.len() + row.now.blame.len()).unwrap_or(2);
    let lines = u16::try_from(DRAWN.len().div_ceil(2)).unwrap_or(3);
    let [about, charts, list] =
        Layout::vertical([Constraint::Length(above), Constraint::Length(lines * 4), Constraint::Min(0)])
            .areas(area);
    let limit = row.now.memory_limit_bytes.map_or_else(|| "none".to_owned(), size);
    let mut lines_about = vec![
        Line::styled(format!("{}  {}", row.now.name, row.now.image), STRONG),
        Line::raw(format!("{}  memory limit {limit}", row.now.id)),
    ];
    lines_about.extend(row.now.waits.iter().map(|line| Line::raw(line.clone())));
    lines_about.extend(row.now.blame.iter().map(|line| Line::raw(line.text(about.width.into()))));
    frame.render_widget(Paragraph::new(lines_about), about);
    let strips = Layout::vertical([Constraint::Length(4); DRAWN.len().div_ceil(2)]).split(charts);
    for (number, column) in DRAWN.iter().enumerate() {
        let Some(strip) = strips.get(number / 2) else { continue };
        let halves = Layout::horizontal([Constraint::Percentage(50); 2]).split(*strip);
        let Some(area) = halves.get(number % 2) else { continue };
        chart(frame, *area, row, number, *column);
    }
    processes(frame, list, state);
}

fn chart(frame: &mut Frame<'_>, area: Rect, row: &Row, number: usize, column: usize) {
    let column = &COLUMNS[column];
    let room = usize::from(area.width.saturating_sub(2));
    let past: Vec<u64> =
        row.past.iter().skip(row.past.len().saturating_sub(room)).map(|drawn| drawn[number]).collect();
    let title = format!("{} {}", column.title, row.cell(column));
    frame.render_widget(Sparkline::default().data(past).block(Block::bordered().title(title)), area);
}

fn processes(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let heading = ["PID", "S", "THREADS", "MEMORY", "CPU TIME", "NAME"];
    let rows = state.processes.iter().map(|process| {
        Cells::new([
            process.pid.to_string(),
            process.state.to_string(),
            process.threads.to_string(),
            size(process.pages * PAGE),
            time_of(process.ticks),
            process.name.clone(),
        ])
    });
    let widths = [8, 2, 8, 11, 11, 20].map(Constraint::Length);
    frame.render_widget(Table::new(rows, widths).header(Cells::new(heading).style(STRONG)), area);
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (56.min(area.width), 11.min(area.height));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title("Keys")), place);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::processes::Process;
    use super::super::state::Key;
    use super::super::state::tests::state;
    use super::*;

    fn drawn(state: &State, columns: u16, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
        terminal.draw(|frame| draw(frame, state)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn all_containers_have_a_line() {
        let screen = drawn(&state(), 120, 10);
        for expected in ["3 containers", "CONTAINER", "web", "50.0", "256.0 MiB", "q leave"] {
            assert!(screen.contains(expected), "{expected}: {screen}");
        }
    }

    #[test]
    fn one_container_has_charts_and_processes() {
        let mut state = state();
        state.press(Key::Enter);
        state.processes = vec![Process {
            pid: 4711,
            name: "worker".into(),
            state: 'R',
            ticks: 250,
            threads: 3,
            pages: 512,
        }];
        let screen = drawn(&state, 100, 30);
        for expected in ["web  debian:12", "CPU % 50.0", "4711", "worker", "2.50 s", "2.0 MiB"] {
            assert!(screen.contains(expected), "{expected}: {screen}");
        }
    }

    #[test]
    fn what_is_typed_and_what_is_wrong_is_at_the_bottom() {
        let mut state = state();
        for key in "/we".chars() {
            state.press(Key::Char(key));
        }
        assert!(drawn(&state, 80, 8).contains("/we_"));
        state.press(Key::Enter);
        state.trouble = Some("the daemon has gone".into());
        let screen = drawn(&state, 80, 8);
        assert!(screen.contains("the daemon has gone") && screen.contains("1 of 3"), "{screen}");
    }

    #[test]
    fn columns_that_do_not_fit_are_left_out() {
        assert_eq!(fitting(0, 200), 0..COLUMNS.len());
        assert_eq!(fitting(0, 20), 0..2);
        assert_eq!(fitting(10, 20), 9..11);
        assert_eq!(fitting(3, 0), 3..4);
        let mut state = state();
        assert!(!drawn(&state, 60, 8).contains("TASKS"));
        state.press(Key::Left);
        assert!(drawn(&state, 60, 8).contains("TASKS"));
    }

    #[test]
    fn no_size_is_too_small() {
        let mut state = state();
        for inside in [Key::Char('?'), Key::Enter] {
            state.press(inside);
            for (columns, rows) in [(1, 1), (2, 3), (10, 4), (400, 2), (3, 100)] {
                drawn(&state, columns, rows);
            }
        }
    }
}
