//! `state`, `list` and `ps`: what containers there are, and what is in them.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde::Serialize;
use skiff_runtime::container::{self, Container};
use skiff_runtime::oci::spec::Status;

use crate::args::{Args, Format, Global};
use crate::failure::{Context, Failure};
use crate::print;
use crate::root::root;

/// What `state` and `list` print of a container: what the specification wants, and what runc adds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    oci_version: &'a str,
    id: &'a str,
    /// 0 when there is no process.
    pid: i32,
    status: Status,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: &'a std::collections::BTreeMap<String, String>,
    owner: String,
}

impl<'a> Shown<'a> {
    fn new(container: &'a Container, owner: String) -> Result<Self, Failure> {
        let (status, process) = container.look()?;
        let record = container.record();
        Ok(Self {
            oci_version: &record.oci_version,
            id: &record.id,
            pid: process.map_or(0, |process| process.pid),
            status,
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: &record.annotations,
            owner,
        })
    }
}

/// `state CONTAINER`.
pub(crate) fn state(global: &Global, args: &Args) -> Result<u8, Failure> {
    let container = Container::open(&root(global), args.id())?;
    let shown = Shown::new(&container, String::new())?;
    let mut text = serde_json::to_vec_pretty(&shown).map_err(|error| Failure::new(error.to_string()))?;
    text.push(b'\n');
    print(&text)
}

/// `list`.
pub(crate) fn list(global: &Global, args: &Args) -> Result<u8, Failure> {
    let containers = container::all(&root(global))?;
    if args.quiet {
        let ids: String = containers.iter().map(|container| format!("{}\n", container.record().id)).collect();
        return print(ids.as_bytes());
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let shown: Result<Vec<_>, _> = containers
        .iter()
        .map(|container| Shown::new(container, user_name(&users, container.record().owner)))
        .collect();
    match args.format {
        Format::Table => print(table(&shown?).as_bytes()),
        Format::Json => json(&shown?),
    }
}

/// One line of JSON; `null` for no element at all, as runc has it.
fn json<T: Serialize>(all: &[T]) -> Result<u8, Failure> {
    let all = (!all.is_empty()).then_some(all);
    let text = serde_json::to_string(&all).map_err(|error| Failure::new(error.to_string()))?;
    print(format!("{text}\n").as_bytes())
}

/// The name of user `uid` in `passwd`, else the number. passwd(5).
fn user_name(passwd: &str, uid: u32) -> String {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// Columns as wide as their widest cell and three spaces more, 12 at least.
fn table(all: &[Shown<'_>]) -> String {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let row = |shown: &Shown<'_>| {
        let bundle = shown.bundle.display().to_string();
        let (pid, status) = (shown.pid.to_string(), shown.status.to_string());
        [shown.id.to_owned(), pid, status, bundle, shown.created.to_owned(), shown.owner.clone()]
    };
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(all.iter().map(row)).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row[..5].iter().enumerate() {
            // Writing to a string does not fail.
            let _written = write!(text, "{cell:0$}", width(column));
        }
        text += &row[5];
        text.push('\n');
    }
    text
}

/// `ps CONTAINER [OPTION…]`.
pub(crate) fn ps(global: &Global, args: &Args) -> Result<u8, Failure> {
    let container = Container::open(&root(global), args.id())?;
    let pids = container.processes()?;
    if args.format == Format::Json {
        return json(&pids);
    }
    let mut command = Command::new("ps");
    match &args.operands[1..] {
        [] => command.arg("-ef"),
        options => command.args(options),
    };
    let output = command.output().context(|| "run ps".into())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format!("ps: {}", said.lines().next().unwrap_or("failed"))));
    }
    print(lines_of(&String::from_utf8_lossy(&output.stdout), &pids)?.as_bytes())
}

/// The head of a table of ps(1), and its lines that concern `pids`.
fn lines_of(table: &str, pids: &[i32]) -> Result<String, Failure> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or_else(|| Failure::new("ps prints no column PID"))?;
    let is_of = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    Ok(std::iter::once(head).chain(lines.filter(is_of)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_of_runc() {
        let annotations = std::collections::BTreeMap::new();
        let shown = Shown {
            oci_version: "1.0.2",
            id: "cmd1",
            pid: 28204,
            status: Status::Created,
            bundle: Path::new("/srv/bundles/ab"),
            rootfs: Path::new("/srv/bundles/ab/rootfs"),
            created: "2026-11-21T23:08:00.635778529Z",
            annotations: &annotations,
            owner: "root".into(),
        };
        let expected = "\
ID          PID         STATUS      BUNDLE            CREATED                          OWNER
cmd1        28204       created     /srv/bundles/ab   2026-11-21T23:08:00.635778529Z   root
";
        assert_eq!(table(&[shown]), expected);
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
    }

    #[test]
    fn processes_are_found_in_whichever_column_has_their_id() {
        let table =
            "UID   PID  PPID CMD\nroot    1     0 init\nroot   12     1 sleep 7\nroot    7     1 sh\n";
        assert_eq!(
            lines_of(table, &[7, 12]),
            Ok("UID   PID  PPID CMD\nroot   12     1 sleep 7\nroot    7     1 sh\n".into())
        );
        assert_eq!(lines_of("PID\n7\n", &[]), Ok("PID\n".into()));
        assert!(lines_of("CMD\nsh\n", &[7]).is_err());
        assert!(lines_of("", &[7]).is_err());
    }

    #[test]
    fn owners_have_their_names() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nalice:x:1000:1000::/:\n";
        assert_eq!(user_name(passwd, 1000), "alice");
        assert_eq!(user_name(passwd, 7), "#7");
    }
}
