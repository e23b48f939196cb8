//! Cgroups made by systemd: a transient scope around the container's first process (`--systemd-cgroup`).
//!
//! systemd makes the v2 directory, enables controllers and moves the process there; the limits that it has properties
//! for are given to it too, or it would undo them whenever it looks at the unit again. Everything is then written to
//! the files themselves, as without systemd, for it knows few of the limits and rounds some.
//!
//! org.freedesktop.systemd1(5), systemd.resource-control(5).

mod annotations;
mod bus;
mod properties;
mod wire;

use serde::{Deserialize, Serialize};

pub(crate) use annotations::{PREFIX, annotated};
use bus::{Answer, Bus};
pub(super) use properties::properties;
pub use wire::Value;
use wire::{Reader, Writer};

use crate::Error;
use crate::error::Context;

/// A unit of systemd's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `skiff-web.scope`
    pub name: String,
    /// Whether it is the user's systemd that has it, not the host's.
    pub user: bool,
}

/// A unit to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its name.
    pub unit: Unit,
    /// The slice that it is put in.
    pub slice: String,
    /// Its limits.
    pub properties: Vec<(String, Value)>,
}

impl Order {
    /// Has the unit made, around process `pid`, and waits until it is.
    pub(super) fn carry_out(
        &self,
        bus: &mut Connection,
        pid: i32,
        accepted: &mut Option<Unit>,
    ) -> Result<(), Error> {
        let unit = &self.unit.name;
        let start = |bus: &mut Bus| {
            let mut body = Writer::default();
            body.text(unit);
            body.text("replace");
            body.properties(&self.all_properties(pid));
            body.array(8, |_| {});
            bus.manager("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        };
        let mut answer = start(&mut bus.0)?;
        if matches!(&answer, Answer::Refused(name, _) if name.ends_with(".UnitExists")) {
            // One that has failed is kept until somebody has seen it.
            self.unit.reset(&mut bus.0)?;
            answer = start(&mut bus.0)?;
        }
        if matches!(answer, Answer::Done(_)) {
            // From here on there is a unit to remove; before, one of that name is somebody else's.
            *accepted = Some(self.unit.clone());
        }
        finish(&mut bus.0, unit, "start", answer)
    }

    /// Whether systemd moves the process; into a slice it moves none.
    pub(super) fn takes_process(&self) -> bool {
        !self.unit.name.ends_with(".slice")
    }

    fn all_properties(&self, pid: i32) -> Vec<(String, Value)> {
        let named = |name: &str, value| (name.to_owned(), value);
        let mut all = vec![
            named("Description", Value::Text(format!("skiff container {}", self.unit.name))),
            named("DefaultDependencies", Value::Flag(false)),
        ];
        for kind in ["CPU", "Memory", "IO", "Tasks"] {
            all.push((format!("{kind}Accounting"), Value::Flag(true)));
        }
        if self.takes_process() {
            all.push(named("Slice", Value::Text(self.slice.clone())));
            all.push(named("Delegate", Value::Flag(true)));
            all.push(named("PIDs", Value::Ids(vec![pid.cast_unsigned()])));
        } else {
            all.push(named("Wants", Value::Texts(vec![self.slice.clone()])));
        }
        all.extend(self.properties.iter().cloned());
        all
    }
}

/// A connection to the systemd that has, or is to have, a unit.
#[derive(Debug)]
pub(super) struct Connection(Bus);

impl Unit {
    pub(super) fn connect(&self) -> Result<Connection, Error> {
        Bus::connect(self.user).map(Connection)
    }

    /// Changes limits, until the unit ends.
    pub(super) fn set(&self, properties: &[(String, Value)]) -> Result<(), Error> {
        if properties.is_empty() {
            return Ok(());
        }
        let mut bus = Bus::connect(self.user)?;
        let body = |body: &mut Writer| {
            body.text(&self.name);
            // Whether only for the time being.
            body.number(1);
            body.properties(properties);
        };
        call(&mut bus, "SetUnitProperties", "sba(sv)", body, &[])
    }

    /// Has process `pid` moved into the unit, or `below` it: an ordinary user may not take it there from a session, for all that
    /// the cgroups around both are root's, but the host's systemd does so for a process of the user's. Since systemd 238.
    pub(super) fn attach(&self, pid: i32, below: &str) -> Result<(), Error> {
        let mut bus = Bus::connect(self.user)?;
        let body = |body: &mut Writer| {
            body.text(&self.name);
            body.text(below);
            body.array(4, |body| body.number(pid.cast_unsigned()));
        };
        call(&mut bus, "AttachProcessesToUnit", "ssau", body, &[])
    }

    /// Has the unit removed. One that is not there any more, because its last process has ended, is no error.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let mut bus = Bus::connect(self.user)?;
        let mut body = Writer::default();
        body.text(&self.name);
        body.text("replace");
        match bus.manager("StopUnit", "ss", body)? {
            Answer::Refused(name, _) if name.ends_with(".NoSuchUnit") => return Ok(()),
            answer => finish(&mut bus, &self.name, "stop", answer)?,
        }
        self.reset(&mut bus)
    }

    /// Has systemd forget that the unit has failed, if it has; one that runs is not touched.
    pub(super) fn forget(&self) -> Result<(), Error> {
        self.reset(&mut Bus::connect(self.user)?)
    }

    fn reset(&self, bus: &mut Bus) -> Result<(), Error> {
        call(bus, "ResetFailedUnit", "s", |body| body.text(&self.name), &[".NoSuchUnit"])
    }
}

/// Calls a method of systemd's manager that has no result; errors whose names end like one of `tolerated` are none.
fn call(
    bus: &mut Bus,
    member: &str,
    signature: &str,
    fill: impl FnOnce(&mut Writer),
    tolerated: &[&str],
) -> Result<(), Error> {
    let mut body = Writer::default();
    fill(&mut body);
    match bus.manager(member, signature, body)? {
        Answer::Refused(name, why) if !tolerated.iter().any(|end| name.ends_with(end)) => {
            Err(Error::Option(format!("systemd: {member}: {why}")))
        }
        _ => Ok(()),
    }
}

/// Waits for the job that an answer names.
fn finish(bus: &mut Bus, unit: &str, verb: &str, answer: Answer) -> Result<(), Error> {
    let job = match answer {
        Answer::Done(body) => Reader::new(&body).text().context(|| "read an answer of systemd".into())?,
        Answer::Refused(_, why) => {
            return Err(Error::Option(format!("systemd cannot {verb} {unit}: {why}")));
        }
    };
    match bus.job_result(&job)?.as_str() {
        "done" => Ok(()),
        result => Err(Error::Option(format!("systemd did not {verb} {unit}: its job ended as {result}"))),
    }
}
