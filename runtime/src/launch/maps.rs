//! Id maps of new user namespaces. user_namespaces(7).

use std::process::Command;

use crate::Error;
use crate::error::Context;
use crate::plan::{IdRange, MapWriter, Users};

/// Writes those of the process `pid`. Runs in: parent.
pub(super) fn write(pid: i32, users: &Users) -> Result<(), Error> {
    let write = |file: &str, value: String| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, value).context(|| format!("write {path}"))
    };
    match users.writer {
        MapWriter::Helpers => {
            map_ranges("newuidmap", pid, &users.uids)?;
            map_ranges("newgidmap", pid, &users.gids)
        }
        MapWriter::Privileged => {
            write("uid_map", lines(&users.uids))?;
            write("gid_map", lines(&users.gids))
        }
        MapWriter::OwnId => {
            write("uid_map", lines(&users.uids))?;
            write("setgroups", "deny".into())?;
            write("gid_map", lines(&users.gids))
        }
    }
}

pub(super) fn lines(ranges: &[IdRange]) -> String {
    let line = |IdRange { inside, outside, count }: &IdRange| format!("{inside} {outside} {count}\n");
    ranges.iter().map(line).collect()
}

/// Ranges take the set-user-ID helpers newuidmap(1) and newgidmap(1).
fn map_ranges(program: &str, pid: i32, ranges: &[IdRange]) -> Result<(), Error> {
    let ids = ranges.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    let ids = ids.map(|id| id.to_string());
    let output =
        Command::new(program).arg(pid.to_string()).args(ids).output().context(|| format!("run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Option(format!("{program}: {}", said.lines().next().unwrap_or("failed"))))
}
