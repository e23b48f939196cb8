//! What a parked container costs, and what it saves: `bench park [--live N] [--count N] [--state DIR]`.
//!
//! Drives a spawner as an engine does, with docker's complete default configuration: parks containers, has each run a program
//! that tells when its first instruction was run, waits for its end, and removes what is left of it. Prints medians of the
//! way from *go* to the first instruction and to the reaped end, how many containers per second can be parked, run and
//! removed, and what memory is held meanwhile. `--live` containers stand by for all of it. Writable layers lie in memory unless
//! DIR is given.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skiff_benches::lab::Lab;
use skiff_benches::samples::Samples;
use skiff_runtime::cgroup::Cgroup;
use skiff_runtime::launch::park::Parked;
use skiff_runtime::options::{Options, Rootfs};
use skiff_runtime::spawner::{self, Client, Container, Order, Report};
use skiff_sys::clock::monotonic_ns;

fn main() -> Result<()> {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    if name.as_bytes() == spawner::NAME.as_bytes() {
        skiff_runtime::seal::seal(c"skiff-spawner")?;
        return Ok(spawner::run(words)?);
    }
    let (mut live, mut count, mut state) = (0, 2000, None);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{} wants a value", word.display()))?;
        let number = || value.to_str().and_then(|value| value.parse().ok()).context("a number is missing");
        match word.to_str() {
            Some("--live") => live = number()?,
            Some("--count") => count = number()?,
            Some("--state") => state = Some(PathBuf::from(&value)),
            _ => bail!("unknown option {}", word.display()),
        }
    }
    let lab = Lab::new(&["now", "pause"])?;
    let mut bench = Bench::new(&lab, state)?;
    bench.stand_by(live)?;
    println!("{live} containers live");
    bench.warm(500.min(count))?;
    bench.sustained(count)?;
    bench.memory(200)?;
    bench.end()
}

struct Bench {
    client: Client,
    child: Child,
    state: PathBuf,
    ids: u64,
    reports: VecDeque<(Report, Vec<OwnedFd>)>,
    null: File,
    program: PathBuf,
    live: Vec<Container>,
}

const KEY: u64 = 1;

impl Bench {
    /// With its writable layers below `state`, or in memory.
    fn new(lab: &Lab, state: Option<PathBuf>) -> Result<Self> {
        let run = lab.state().join("run");
        let state = state.unwrap_or_else(|| lab.state().join("engine"));
        fs::create_dir_all(&state)?;
        fs::create_dir_all(&run)?;
        let (client, child) = Client::start("/proc/self/exe".as_ref(), &state, &run, 1024)?;
        let options = Options { rootfs: Rootfs::Layers(vec![lab.rootfs()]), ..Options::default() };
        client.send(&Order::Plan { key: KEY, options: Box::new(options) }, &[])?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let (ids, reports, live) = (0, VecDeque::new(), Vec::new());
        let program = lab.rootfs().join("bin/now");
        let mut bench = Self { client, child, state, ids, reports, null, program, live };
        match bench.next()? {
            (Report::Hello { .. }, _) => Ok(bench),
            (other, _) => bail!("{other:?} instead of hello"),
        }
    }

    /// The next report; waits.
    fn next(&mut self) -> Result<(Report, Vec<OwnedFd>)> {
        if let Some(known) = self.reports.pop_front() {
            return Ok(known);
        }
        loop {
            match self.client.receive() {
                Ok(Some(report)) => return Ok(report),
                Ok(None) => bail!("the spawner is gone"),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(self.client.fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn order(&mut self, order: &Order) -> Result<()> {
        loop {
            match self.client.send(order, &[]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(self.client.fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                other => return Ok(other?),
            }
        }
    }

    fn ask(&mut self) -> Result<()> {
        self.ids += 1;
        let id = format!("{:08x}{:056x}", std::process::id(), self.ids);
        self.order(&Order::Park { ticket: self.ids, key: KEY, id })
    }

    fn parked(&mut self) -> Result<Parked> {
        match self.next()? {
            (Report::Parked { container, .. }, descriptors) => Ok(Parked::new(*container, descriptors)?),
            (other, _) => bail!("{other:?} instead of a parked container"),
        }
    }

    fn go(&self, parked: &mut Parked, program: &str, stdout: &OwnedFd) -> Result<()> {
        let streams = [self.null.as_fd(), stdout.as_fd(), self.null.as_fd()];
        Ok(parked.go(&[program.into()], &["A=b".into()], streams)?)
    }

    fn remove(&mut self, container: &Container) -> Result<()> {
        Cgroup::open(&container.cgroups)?.remove()?;
        fs::remove_dir_all(self.state.join("containers").join(&container.id))?;
        self.order(&Order::Forget { id: container.id.clone() })
    }

    fn stand_by(&mut self, count: usize) -> Result<()> {
        let begin = Instant::now();
        let null: OwnedFd = self.null.try_clone()?.into();
        for _ in 0..count {
            self.ask()?;
        }
        for _ in 0..count {
            let mut parked = self.parked()?;
            if !parked.is_valid() {
                bail!("{} is not valid", parked.container().id);
            }
            self.go(&mut parked, "/bin/pause", &null)?;
            wait(&mut parked)?;
            let (container, pidfd, _) = parked.into_parts();
            // As an engine does: two pipes.
            let kept = [pidfd.as_fd(), self.null.as_fd()];
            self.client.send(&Order::Keep { id: container.id.clone(), note: "live".into() }, &kept)?;
            self.live.push(container);
        }
        if count > 0 {
            println!("made in {:.2} s", begin.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// One after the other, each of them parked before.
    fn warm(&mut self, count: usize) -> Result<()> {
        const PARTS: [&str; 9] = [
            "woken",
            "streams",
            "filter next",
            "first instruction",
            "exec seen",
            "reaped",
            "removed",
            "plain exec: first",
            "plain exec: reaped",
        ];
        let mut parts = [const { Samples::new() }; PARTS.len()];
        for _ in 0..count {
            self.ask()?;
            let mut parked = self.parked()?;
            if !parked.is_valid() {
                bail!("not valid");
            }
            let (read, write) = nix::unistd::pipe()?;
            self.go(&mut parked, "/bin/now", &write)?;
            drop(write);
            let stamps = wait(&mut parked)?;
            let (report, _) = self.next()?;
            let reaped = monotonic_ns();
            let Report::Exited { .. } = report else { bail!("{report:?} instead of an end") };
            let mut first = [0; 8];
            File::from(read).read_exact(&mut first)?;
            let mounts = parked.take_mounts();
            let container = parked.into_parts().0;
            let before = monotonic_ns();
            drop(mounts);
            self.remove(&container)?;
            let removed = monotonic_ns() - before;
            let first = u64::from_ne_bytes(first);
            let ends =
                [stamps.woken, stamps.streams_taken, stamps.security_done, first, stamps.exec_seen, reaped];
            for (part, end) in parts.iter_mut().zip(ends) {
                part.push(us(end - stamps.sent));
            }
            parts[6].push(us(removed));
            let (first, reaped) = self.plain()?;
            parts[7].push(us(first));
            parts[8].push(us(reaped));
        }
        println!("\nwarm, {count} times: from go, µs\n{:<20} {:>9} {:>9}", "", "p50", "p99");
        for (name, part) in PARTS.iter().zip(&parts) {
            println!("{name:<20} {:>9.1} {:>9.1}", part.median(), part.percentile(99));
        }
        Ok(())
    }

    /// The same program on the host, by vfork(2) and execve(2): from there to its first instruction and its reaped end, ns.
    fn plain(&self) -> Result<(u64, u64)> {
        let (read, write) = nix::unistd::pipe()?;
        let mut command = Command::new(&self.program);
        command.env_clear().stdin(Stdio::null()).stdout(write).stderr(Stdio::null());
        let begin = monotonic_ns();
        let mut child = command.spawn()?;
        child.wait()?;
        let reaped = monotonic_ns() - begin;
        let mut first = [0; 8];
        File::from(read).read_exact(&mut first)?;
        Ok((u64::from_ne_bytes(first) - begin, reaped))
    }

    /// As many as can be, with a few in every state at once.
    fn sustained(&mut self, count: usize) -> Result<()> {
        const AHEAD: usize = 16;
        let begin = Instant::now();
        let mut running: HashMap<String, (Container, Option<OwnedFd>)> = HashMap::new();
        // What waits for grace periods does so elsewhere, as an engine has it.
        let (clear, cleared) = std::sync::mpsc::channel::<Option<OwnedFd>>();
        let clearing = std::thread::spawn(move || cleared.into_iter().for_each(drop));
        let null: OwnedFd = self.null.try_clone()?.into();
        let (mut asked, mut ended) = (0, 0);
        let before = self.ticks()?;
        while ended < count {
            while asked < count && asked - ended < AHEAD {
                self.ask()?;
                asked += 1;
            }
            match self.next()? {
                (Report::Parked { container, .. }, descriptors) => {
                    let mut parked = Parked::new(*container, descriptors)?;
                    self.go(&mut parked, "/bin/now", &null)?;
                    wait(&mut parked)?;
                    let mounts = parked.take_mounts();
                    let container = parked.into_parts().0;
                    running.insert(container.id.clone(), (container, mounts));
                }
                (Report::Exited { id, .. }, _) => {
                    let (container, mounts) = running.remove(&id).context("it was running")?;
                    self.remove(&container)?;
                    clear.send(mounts)?;
                    ended += 1;
                }
                (other, _) => bail!("{other:?} is not expected"),
            }
        }
        drop(clear);
        clearing.join().map_err(|_| anyhow::anyhow!("clear"))?;
        let seconds = begin.elapsed().as_secs_f64();
        println!("\n{count} parked, run and removed: {:.0} per second", count as f64 / seconds);
        let kinds = ["spawner, user", "spawner, kernel", "containers, user", "containers, kernel"];
        for ((kind, before), after) in kinds.iter().zip(before).zip(self.ticks()?) {
            println!("  {kind:<20} {:>6.0} µs each", (after - before) * 10_000.0 / count as f64);
        }
        Ok(())
    }

    /// Ten milliseconds each: the spawner's, and those of its children that it has reaped.
    fn ticks(&self) -> Result<Vec<f64>> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = text.rsplit(')').next().context("no name")?.split_whitespace();
        fields.skip(11).take(4).map(|field| Ok(field.parse()?)).collect()
    }

    fn memory(&mut self, count: usize) -> Result<()> {
        let before = kernel_memory()?;
        for _ in 0..count {
            self.ask()?;
        }
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(self.parked()?);
        }
        let after = kernel_memory()?;
        let (mut pss, mut cpu) = (Samples::new(), Samples::new());
        for parked in &held {
            let text = fs::read_to_string(format!("/proc/{}/schedstat", parked.container().pid))?;
            cpu.push(us(text.split(' ').next().context("no time")?.parse()?));
            pss.push(memory_of(parked.container().pid, "Pss:")?);
        }
        let spawner = self.child.id().cast_signed();
        println!("\n{count} parked: {:.0} KiB PSS and {:.0} µs of CPU time each", pss.median(), cpu.median());
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            println!("  {name:<14} {:>8.1} KiB each", (after - before) / count as f64);
        }
        for kind in ["Rss:", "Pss:", "Private_Dirty:"] {
            println!("spawner {kind:<16} {:.0} KiB", memory_of(spawner, kind)?);
        }
        for parked in held {
            let container = parked.into_parts().0;
            let (report, _) = self.next()?;
            let Report::Exited { .. } = report else { bail!("{report:?} instead of an end") };
            self.live.push(container);
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        for container in std::mem::take(&mut self.live) {
            self.remove(&container)?;
        }
        self.order(&Order::Leave)?;
        self.child.wait()?;
        Ok(())
    }
}

fn wait(parked: &mut Parked) -> Result<skiff_runtime::launch::park::Stamps> {
    loop {
        if let Some(stamps) = parked.outcome()? {
            return Ok(stamps);
        }
        poll(&mut [PollFd::new(parked.line_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    }
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// KiB, of `/proc/PID/smaps_rollup`.
fn memory_of(pid: i32, kind: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(kind)).context("no such line")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}

/// KiB, of `/proc/meminfo`.
fn kernel_memory() -> Result<Vec<(&'static str, f64)>> {
    let text = fs::read_to_string("/proc/meminfo")?;
    ["MemAvailable", "Slab", "KernelStack", "PageTables", "Percpu", "Shmem"]
        .into_iter()
        .map(|name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()).context("no such line")?;
            Ok((name, number.parse()?))
        })
        .collect()
}
