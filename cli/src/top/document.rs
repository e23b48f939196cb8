//! What `skiff top` shows, for programs: docs/observe.md describes it.

use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};
use skiff_observe::trace::plain_json;

use super::source;
use super::state::{COLUMNS, Row, State};
use crate::failure::Failure;
use crate::roots::Roots;

/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(1);

/// All containers, as they were for one second.
pub(super) fn one_second() -> Result<String, Failure> {
    let roots = Roots::find()?;
    let mut state = State::default();
    state.take(source::read(&roots)?);
    thread::sleep(INTERVAL);
    state.take(source::read(&roots)?);
    Ok(all(&state))
}

fn all(state: &State) -> String {
    let containers: Vec<Value> = state.shown().into_iter().map(one).collect();
    plain_json(format!("{:#}\n", json!({"schema": "skiff.top/1", "containers": containers})))
}

fn one(row: &Row) -> Value {
    let now = &row.now;
    let mut fields: Map<String, Value> =
        COLUMNS.iter().map(|column| (column.key.to_owned(), json!(column.figure(row)))).collect();
    // What is counted in whole numbers, as such.
    let known = json!({
        "id": now.id,
        "name": now.name,
        "image": Some(&now.image).filter(|image| !image.is_empty()),
        "memory_bytes": now.memory_bytes,
        "memory_limit_bytes": now.memory_limit_bytes,
        "tasks": now.tasks,
    });
    fields.extend(known.as_object().cloned().unwrap_or_default());
    Value::Object(fields)
}

/// A table of ps(1), as docker's API has it: the last column has what is left of a line.
pub(super) fn listed(table: &str) -> String {
    let mut lines = table.lines();
    let titles: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let processes: Vec<Vec<&str>> = lines.map(|line| cells(line, titles.len())).collect();
    plain_json(format!("{:#}\n", json!({"Titles": titles, "Processes": processes})))
}

fn cells(line: &str, count: usize) -> Vec<&str> {
    let mut rest = line.trim();
    let mut cells = Vec::new();
    while cells.len() + 1 < count && !rest.is_empty() {
        let (cell, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        cells.push(cell);
        rest = after.trim_start();
    }
    cells.push(rest);
    cells
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::state;
    use super::*;

    #[test]
    fn every_column_is_told_as_a_number() {
        let told: Value = serde_json::from_str(&all(&state())).expect("JSON");
        let containers = told["containers"].as_array().expect("a list");
        assert_eq!((&told["schema"], containers.len()), (&json!("skiff.top/1"), 3));
        let web = containers.iter().find(|one| one["name"] == "web").expect("it is there");
        assert_eq!((&web["cpu_percent"], &web["memory_bytes"]), (&json!(50.0), &json!(64 << 20)));
        assert!(COLUMNS.iter().all(|column| web.get(column.key).is_some()), "{web}");
        assert_eq!(web["system_calls_per_s"], Value::Null, "nobody counts them");
    }

    #[test]
    fn the_last_column_has_what_is_left() {
        let told: Value = serde_json::from_str(&listed("PID CMD\n  7 sh -c  'a b'\n8 x\n")).expect("JSON");
        let expected = json!({"Titles": ["PID", "CMD"], "Processes": [["7", "sh -c  'a b'"], ["8", "x"]]});
        assert_eq!(told, expected);
    }
}
