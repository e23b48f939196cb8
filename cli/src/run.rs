//! `skiff run` without a daemon, from its arguments to its exit code: with `--profile`, or where `SKIFF_DAEMON=off` says so.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use skiff_ebpf::{Profiler, Record, Slot, UseRecorder};
use skiff_engine::image;
use skiff_engine::prefetch::Subject;
use skiff_engine::spec::{HealthTest, Restart};
use skiff_runtime::cgroup::Usage;
use skiff_runtime::launch::{self, Exit, Running, Stamps};
use skiff_runtime::observe::{Counted, find_cgroup};
use skiff_runtime::supervise::{self, Caller, Signals, Terms};
use skiff_runtime::{Host, Options, Plan};
use skiff_store::{Error, Form, Image, ImageRef, Lease, Store};
use skiff_sys::clock::monotonic_ns;

use crate::args::{Args, Report};
use crate::failure::Failure;
use crate::images::wanted;
use crate::output::Output;
use crate::roots::Roots;

use crate::prefetching::Prefetching;
use crate::profile::{self, Asked, Outputs, Part, Place, Section, Uses, Wanted, Written};
use crate::values::cause;

/// Whether containers are to be run without a daemon.
pub(crate) fn is_alone() -> bool {
    std::env::var_os("SKIFF_DAEMON").is_some_and(|value| value == "off")
}

/// Runs a container and returns what skiff is to exit with.
pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    needs_no_daemon(args)?;
    supervise::check_terminal(args.spec.options.interactive, args.spec.options.tty)?;
    let roots = Roots::find()?;
    let (image, lease) = image(args, &roots)?;
    let image_id = image.id.clone();
    let terms = terms(args, image::stop_signal(&args.spec, &image.config)?);
    let account = args.profile.is_some();
    let options = Options { id: fresh_id()?, account, ..image::fold(&args.spec, image)? };
    let cidfile = args.cidfile.as_deref().map(|path| write_id(path, &options.id)).transpose()?;
    let mut profiling = args.profile.as_ref().map(|report| Profiling::prepare(report, args)).transpose()?;
    let subject = Subject::of(image_id.as_deref(), &options);
    let mut prefetching = Prefetching::prepare(args, subject, &roots)?;

    let begin_ns = monotonic_ns();
    let host = Host::probe(&options, &roots.state, &roots.run)?;
    let plan = Plan::build(&options, &host)?;
    let signals = Signals::block().map_err(|error| os("block signals", &error))?;
    let mut counted = Counted::default();
    let asked = profiling.is_some().then(|| profile::Asked::new(args, &options, &plan));
    let running = launch::start(&plan, &mut |cgroup| {
        counted.arm(cgroup, &options.id, execs_before(&options), begin_ns);
        prefetching.arm(cgroup)?;
        profiling.as_mut().map_or(Ok(()), |profiling| profiling.arm(cgroup, &options))
    })?;
    counted.note(running.stamps());
    prefetching.watch(&running);
    if let Some(profiling) = &mut profiling {
        profiling.follow(running.cgroup_id())?;
    }
    if let Some(cidfile) = cidfile {
        cidfile.keep();
    }
    // Off the launch's path; what cannot be cleared now does not concern this container.
    if let Err(error) = launch::sweep(&plan) {
        tracing::warn!("{error}");
    }
    let ended = attend(running, &signals, &terms, profiling.as_mut(), &|| profile::written(&options, &plan))?;
    drop(lease);
    drop(signals);
    let code = exit_code(ended.exit);
    let prefetch = prefetching.finish(ended.exit);
    if let Some(profiling) = profiling {
        profiling.report(args, &options, begin_ns, ended, prefetch, asked)?;
    }
    Ok(code)
}

/// The image, which is held for as long as the lease lives. It is fetched if it is not here.
pub(crate) fn image(args: &Args, roots: &Roots) -> Result<(Image, Option<Lease>), Failure> {
    let name = &args.spec.image;
    wanted::before(name, &args.wanted)?;
    let form = Form::of_environment().map_err(Failure::engine)?;
    let store = Store::open(&roots.state)?.with_form(form);
    let reference = ImageRef::parse(name)?;
    let image = match store.resolve(&reference) {
        Err(Error::NoSuchImage { .. }) => {
            wanted::missing(name, &args.wanted)?;
            store.resolve(&reference)?
        }
        other => other?,
    };
    // What has no id is no image of the store.
    let lease = image.id.is_some().then(|| store.lease(&image)).transpose()?;
    Ok((image, lease))
}

/// Refuses what outlives the command that asks for it.
fn needs_no_daemon(args: &Args) -> Result<(), Failure> {
    let spec = &args.spec;
    let asked = [
        ("detach", args.detach),
        ("restart", spec.restart != Restart::No),
        ("health-…", spec.health.test.as_ref().is_some_and(|test| *test != HealthTest::None)),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((flag, _)) => Err(Failure::engine(format!(
            "--{flag} needs the daemon, which does not go with --profile and SKIFF_DAEMON=off"
        ))),
        None => Ok(()),
    }
}

/// What is left of a container that has ended.
struct Ended {
    exit: Exit,
    ended_ns: u64,
    stamps: Stamps,
    usage: Usage,
    record: Option<Record>,
    uses: Option<Uses>,
    /// What the further parts of the profile tell.
    sections: Vec<Section>,
}

/// Stands by a running container until it has ended, and clears it away.
fn attend(
    mut running: Running,
    signals: &Signals,
    terms: &Terms,
    mut profiling: Option<&mut Profiling>,
    written: &dyn Fn() -> Result<Vec<Written>, String>,
) -> Result<Ended, Failure> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let caller =
        Caller { signals, stdin: stdin.as_fd(), stdout: stdout.as_fd(), detach_keys: b"", deputy: None };
    supervise::stand_by(running.pidfd(), running.console(), caller, terms)
        .map_err(|error| os("stand by the container", &error))?;
    let exit = running.wait().map_err(|error| os("wait for the container", &error))?;
    let ended_ns = monotonic_ns();
    let (mut record, sections) = match profiling.as_deref_mut() {
        Some(profiling) => (Some(profiling.finish()?), profiling.end_parts()?),
        None => (None, Vec::new()),
    };
    let usage = if record.is_some() { running.usage() } else { Usage::default() };
    // While what it has written is still there.
    let uses = profiling.zip(record.as_mut()).map(|(profiling, record)| profiling.uses(written(), record));
    let stamps = *running.stamps();
    running.remove()?;
    Ok(Ended { exit, ended_ns, stamps, usage, record, uses, sections })
}

/// `--profile`, from before the launch to after the end.
struct Profiling {
    profiler: Profiler,
    slot: Option<Slot>,
    /// When the cgroup was there and arming began.
    arm_ns: u64,
    parts: Vec<Box<dyn Part>>,
    outputs: Outputs,
    /// Whether people are to read it.
    is_told: bool,
    /// What tells of uses; why not, where it cannot be had.
    uses: Result<UseRecorder, String>,
}

impl Profiling {
    /// Opens the file and loads the programs, so that neither can fail once the container runs.
    fn prepare(report: &Report, args: &Args) -> Result<Self, Failure> {
        let stacks_hz = args.stacks.as_deref().map(|hz| profile::rate(Some(hz))).transpose()?;
        let wanted = Wanted { stacks_hz, files: args.files };
        let outputs = match report {
            Report::Text => Outputs::default(),
            Report::File(path) | Report::Quiet(path) => Outputs::open_one(path, &|form| wanted.gives(form))?,
        };
        let wanted = wanted.for_forms(outputs.forms().into_iter());
        let is_told = !matches!(report, Report::Quiet(_));
        let profiler = Profiler::load().map_err(|error| Failure::engine(format!("profile: {error}")))?;
        let uses = UseRecorder::load().map_err(|error| error.to_string());
        Ok(Self { profiler, slot: None, arm_ns: 0, parts: wanted.load()?, outputs, is_told, uses })
    }

    /// Starts to count what happens in the cgroup with the id `cgroup`.
    fn arm(&mut self, cgroup: Option<u64>, options: &Options) -> Result<(), String> {
        self.arm_ns = monotonic_ns();
        let cgroup = cgroup.ok_or("profile: the host has no cgroup v2 hierarchy to put the container in")?;
        let slot =
            self.profiler.arm(cgroup, execs_before(options)).map_err(|error| format!("profile: {error}"))?;
        self.slot = Some(slot);
        if let Ok(uses) = &mut self.uses {
            uses.arm(cgroup, execs_before(options)).map_err(|error| format!("profile: {error}"))?;
        }
        self.parts
            .iter_mut()
            .try_for_each(|part| part.arm(Place { cgroup }).map_err(|failure| failure.message))
    }

    /// Lets begin what works beside the container, which runs in the cgroup with the id `cgroup`.
    fn follow(&mut self, cgroup: Option<u64>) -> Result<(), Failure> {
        let Some(cgroup) = cgroup.filter(|_| !self.parts.is_empty()) else { return Ok(()) };
        let directory = find_cgroup(cgroup).map_err(|error| os("profile: find the cgroup", &error))?;
        let directory = directory.ok_or_else(|| Failure::engine("profile: the cgroup has gone"))?;
        self.parts.iter_mut().try_for_each(|part| part.follow(&directory))
    }

    /// Reads the record; the container's cgroup must still be there.
    fn finish(&mut self) -> Result<Record, Failure> {
        let slot =
            self.slot.take().ok_or_else(|| Failure::engine("profile: the container was never armed"))?;
        self.profiler.finish(slot).map_err(|error| Failure::engine(format!("profile: {error}")))
    }

    /// What the program used, once it has ended, with `written`. What this adds to the cost and to what is missing goes into
    /// `record`.
    fn uses(&mut self, written: Result<Vec<Written>, String>, record: &mut Record) -> Uses {
        let uses = std::mem::replace(&mut self.uses, Err(String::new()));
        let found = uses.and_then(|uses| uses.finish().map_err(|error| error.to_string()));
        if let Ok(found) = &found {
            let cost = &mut record.cost;
            for ns in [&mut cost.ns_per_call, &mut cost.ns_per_call_of_others].into_iter().flatten() {
                *ns += found.ns_per_call;
            }
        }
        let uses = Uses::new(found, written);
        record.missing.extend(uses.missing());
        uses
    }

    /// Has the other parts tell what they have found.
    fn end_parts(&mut self) -> Result<Vec<Section>, Failure> {
        profile::end(std::mem::take(&mut self.parts), &self.outputs.forms())
    }

    /// Prints the report, and writes the files.
    fn report(
        self,
        args: &Args,
        options: &Options,
        begin_ns: u64,
        mut ended: Ended,
        prefetch: Option<profile::Prefetch>,
        asked: Option<Asked>,
    ) -> Result<(), Failure> {
        let Some(record) = &ended.record else { return Ok(()) };
        let mut document = profile::Document::new(&profile::Run {
            id: &options.id,
            name: options.name.as_deref(),
            image: Some(&args.spec.image),
            argv: options.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            exit: Some(ended.exit),
            begin_ns,
            arm_ns: self.arm_ns,
            ended_ns: ended.ended_ns,
            stamps: &ended.stamps,
            usage: &ended.usage,
            record,
            prefetch,
            run: asked,
            uses: ended.uses,
        });
        document.add(&ended.sections);
        ended.sections.extend(profile::of_run(&document, begin_ns, &self.outputs.forms(), &ended.sections));
        if self.is_told {
            let written = io::stderr().write_all(profile::render(&document).as_bytes());
            written.map_err(|error| os("print the profile", &error))?;
        }
        let json = profile::json(&document).map_err(|error| Failure::engine(format!("profile: {error}")))?;
        self.outputs.write(&json, &ended.sections)
    }
}

/// The container's own init is executed before the program.
fn execs_before(options: &Options) -> u32 {
    options.init.into()
}

fn terms(args: &Args, stop_signal: i32) -> Terms {
    Terms {
        sig_proxy: args.sig_proxy,
        interactive: args.spec.options.interactive,
        stop_signal,
        stop_timeout: args.spec.stop_timeout_s.map(Duration::from_secs),
        timeout: args.spec.timeout_s.map(Duration::from_secs),
    }
}

/// 64 random hex digits.
pub(crate) fn fresh_id() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    skiff_sys::random::fill(&mut bytes).map_err(|error| os("draw an id", &error))?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn write_id(path: &std::path::Path, id: &str) -> Result<Output, Failure> {
    let mut file = Output::make(path)?;
    file.write(id)?;
    Ok(file)
}

/// The program's own code, or 128 + n if signal n killed it.
pub(crate) fn exit_code(exit: Exit) -> u8 {
    let code = match exit {
        Exit::Code(code) => code & 0xff,
        Exit::Signal(signal) => 128 + signal,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

pub(crate) fn os(what: &str, error: &io::Error) -> Failure {
    Failure::engine(format!("{what}: {}", cause(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_hex_digits_and_differ() {
        assert_eq!(hex(&[0x00, 0x9f, 0xff]), "009fff");
        let (one, other) = (fresh_id().expect("id"), fresh_id().expect("id"));
        assert!(one.len() == 64 && one.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }

    #[test]
    fn exit_codes_are_the_program_s_or_tell_the_signal() {
        for (exit, expected) in [
            (Exit::Code(0), 0),
            (Exit::Code(7), 7),
            (Exit::Code(255), 255),
            (Exit::Signal(9), 137),
            (Exit::Signal(64), 192),
        ] {
            assert_eq!(exit_code(exit), expected, "{exit:?}");
        }
    }
}
