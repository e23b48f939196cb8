//! `cargo xtask bench soak`: many launches through the daemon, while containers, clients, the spawner and the daemon are
//! killed at random. Nothing may be left behind, and nothing may fail that nobody was killed for.
//!
//! What launch does what, and after which one who is killed, follows from the seed alone; when exactly that strikes does not.
//! In the first half the daemon is spared, so that its memory can be seen to stay as it is. After each of the rounds
//! everybody pauses, and what is there is counted.

mod launch;
mod traces;
mod victims;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use skiff_benches::lab::Lab;
use skiff_benches::report::Report;

use launch::{Kind, Skiff};
use traces::{Census, Ids};
use victims::{Victim, Victims};

/// After how many launches everybody pauses, as a part of all.
const ROUNDS: usize = 20;

/// How long it may take until all is quiet.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many failures are printed.
const SHOWN: usize = 20;

/// `[-n COUNT] [--seed N] [--jobs N] [--kill-every N] [--save]`
struct Terms {
    count: usize,
    seed: u64,
    jobs: usize,
    /// Each of the victims is killed after one launch in so many; nobody is if 0.
    kill_every: u64,
    save: bool,
}

fn main() -> Result<()> {
    let terms = Terms::parse(std::env::args().skip(1))?;
    let lab = Lab::new(&["true", "pause"])?;
    let mut report = Report::start("soak", &[])?;
    let Terms { count, jobs, seed, kill_every, .. } = &terms;
    report.line(&format!("* {count} launches, {jobs} at once, seed {seed}, kill one in {kill_every}\n"));
    let skiff = Skiff::new(&lab);
    let ids = Ids::watch(&skiff.state)?;
    let soak = Soak {
        victims: Victims::new(&skiff),
        skiff,
        ids,
        terms,
        next: AtomicUsize::new(0),
        begun: AtomicU64::new(0),
        done: AtomicU64::new(0),
        tally: Mutex::default(),
    };
    let outcome = soak.run(&mut report);
    // Whatever has happened, nothing of this stays on the host.
    let left = soak.end();
    soak.tell(&mut report);
    if let Err(error) = &outcome {
        report.line(&format!("\nGiven up: {error:#}"));
    }
    let left = left?;
    left.iter().take(SHOWN).for_each(|trace| report.line(&format!("* left behind: {trace}")));
    report.line(&format!("\nLeft behind by {} containers: {}", soak.ids.count(), left.len()));
    if soak.terms.save {
        report.save(Path::new("benches/runs"))?;
    }
    outcome?;
    let failures = soak.tally().unexpected.len();
    if !left.is_empty() || failures > 0 {
        bail!("{} traces were left behind, and {failures} launches failed", left.len());
    }
    Ok(())
}

impl Terms {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut terms = Self { count: 50_000, seed: 1, jobs: 8, kill_every: 100, save: false };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
                value.with_context(|| format!("{argument} needs a number"))
            };
            match argument.as_str() {
                "-n" => terms.count = usize::try_from(number()?)?,
                "--jobs" => terms.jobs = usize::try_from(number()?)?,
                "--seed" => terms.seed = number()?,
                "--kill-every" => terms.kill_every = number()?,
                "--save" => terms.save = true,
                other => {
                    bail!(
                        "unknown argument {other:?}; there are -n COUNT, --seed N, --jobs N, --kill-every N and --save"
                    )
                }
            }
        }
        if terms.count == 0 || terms.jobs == 0 {
            bail!("-n and --jobs need a number above 0");
        }
        Ok(terms)
    }
}

struct Soak {
    skiff: Skiff,
    victims: Victims,
    ids: Ids,
    terms: Terms,
    /// The number of the next launch.
    next: AtomicUsize,
    /// How often somebody has begun to kill the daemon or the spawner, and how often that was over.
    begun: AtomicU64,
    done: AtomicU64,
    tally: Mutex<Tally>,
}

/// What has come of the launches.
#[derive(Debug, Default)]
struct Tally {
    done: BTreeMap<Kind, u64>,
    killed: BTreeMap<Victim, u64>,
    /// Failed while the daemon or the spawner was killed.
    disturbed: u64,
    /// How often with which message.
    messages: BTreeMap<String, u64>,
    /// Failed for no such reason.
    unexpected: Vec<String>,
}

impl Soak {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disturbances(&self) -> (u64, u64) {
        (self.begun.load(Ordering::SeqCst), self.done.load(Ordering::SeqCst))
    }

    fn run(&self, report: &mut Report) -> Result<()> {
        let begin = Instant::now();
        let mut rows = Vec::new();
        for round in 1..=ROUNDS {
            let until = self.terms.count * round / ROUNDS;
            let round_begin = Instant::now();
            let before = self.next.load(Ordering::Relaxed);
            thread::scope(|scope| {
                (0..self.terms.jobs).for_each(|_| drop(scope.spawn(|| self.work(until))));
            });
            let rate = (until - before) as f64 / round_begin.elapsed().as_secs_f64();
            let census = self.quiet()?;
            let tally = self.tally();
            eprintln!(
                "{until}: {rate:.0}/s, {census}, {} disturbed, {} failed",
                tally.disturbed,
                tally.unexpected.len()
            );
            let mut row = vec![until.to_string(), format!("{rate:.0}")];
            row.extend(census.cells());
            row.extend([tally.disturbed.to_string(), tally.unexpected.len().to_string()]);
            rows.push(row);
        }
        let mut head = vec!["launches", "per s"];
        head.extend(Census::HEAD);
        head.extend(["disturbed", "failed"]);
        report.table(&head, &rows);
        report.line(&format!("\n{:.0} s in all", begin.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Launches one after the other, until so many have been begun by all together.
    fn work(&self, until: usize) {
        while let Ok(number) = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < until).then_some(next + 1))
        {
            let mut random = Random::new(self.terms.seed, number);
            let disturbances = self.disturbances();
            let kind = Kind::any(&mut random);
            let result = self.skiff.launch(kind, number, &mut random);
            self.strike(number, &mut random);
            let is_disturbed = self.disturbances() != disturbances || disturbances.0 != disturbances.1;
            let mut tally = self.tally();
            match result {
                Ok(()) => *tally.done.entry(kind).or_default() += 1,
                Err(error) if is_disturbed => {
                    tally.disturbed += 1;
                    *tally.messages.entry(without_names(&format!("{error:#}"))).or_default() += 1;
                }
                Err(error) => {
                    if tally.unexpected.len() < SHOWN {
                        eprintln!("launch {number} ({kind:?}): {error:#}");
                    }
                    tally.unexpected.push(format!("launch {number} ({kind:?}): {error:#}"));
                }
            }
        }
    }

    /// Kills somebody now and then.
    fn strike(&self, number: usize, random: &mut Random) {
        let spare_daemon = number * 2 < self.terms.count;
        if self.terms.kill_every == 0 {
            return;
        }
        let Some(victim) = Victim::any(random, self.terms.kill_every, spare_daemon) else { return };
        self.begun.fetch_add(1, Ordering::SeqCst);
        let killed = self.victims.kill(victim);
        self.done.fetch_add(1, Ordering::SeqCst);
        if killed {
            *self.tally().killed.entry(victim).or_default() += 1;
        }
    }

    /// Waits until no container is left but those that are made ahead, and counts what there is.
    fn quiet(&self) -> Result<Census> {
        let begin = Instant::now();
        loop {
            let listed = self.skiff.ask(&["ps", "-aq", "--no-trunc"])?;
            let left: Vec<&str> = listed.lines().collect();
            if left.is_empty() {
                // A spawner that was killed just now is not replaced yet.
                let census = Census::take(&self.victims, &self.ids, &self.skiff);
                if census.as_ref().is_ok_and(Census::is_settled) {
                    return census;
                }
                if begin.elapsed() > PATIENCE {
                    let odd = traces::odd_directories(&self.skiff);
                    bail!("after {PATIENCE:?} without launches: {}; {}", census?, odd.join("; "));
                }
            } else if begin.elapsed() > PATIENCE {
                // Of a launch that was disturbed, between its name and its end.
                let shown = self.skiff.ask(&["ps", "-a", "--format", "{{.Names}}: {{.Status}}"])?;
                let forced = [&["rm", "-f"], left.as_slice()].concat();
                self.skiff.ask(&forced)?;
                bail!("after {PATIENCE:?} without launches these are left: {}", shown.replace('\n', "; "));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the daemon and looks for what is left; ends that, too.
    fn end(&self) -> Result<Vec<String>> {
        let stopped = self.skiff.ask(&["daemon", "--stop"]);
        let begin = Instant::now();
        let mut left = traces::all(&self.skiff, &self.ids);
        while !left.is_empty() && begin.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(100));
            left = traces::all(&self.skiff, &self.ids);
        }
        self.victims.kill_all();
        stopped.map(|_| left)
    }

    fn tell(&self, report: &mut Report) {
        let tally = self.tally();
        let list = |of: Vec<String>| of.join(", ");
        let done = tally.done.iter().map(|(kind, count)| format!("{count} × {}", kind.describe()));
        report.line(&format!("\nDone: {}", list(done.collect())));
        let killed = tally.killed.iter().map(|(victim, count)| format!("{count} × {}", victim.describe()));
        report.line(&format!("\nKilled: {}", list(killed.collect())));
        report.line(&format!(
            "\nFailed: {} while the daemon or the spawner was killed, {} otherwise",
            tally.disturbed,
            tally.unexpected.len()
        ));
        for (message, count) in &tally.messages {
            report.line(&format!("* {count} × {message}"));
        }
        for failure in tally.unexpected.iter().take(SHOWN) {
            report.line(&format!("* {failure}"));
        }
    }
}

/// A message, the same for all containers: digits, and so ids, are left out.
fn without_names(message: &str) -> String {
    let words = message.split(' ').map(|word| {
        if word.bytes().any(|byte| byte.is_ascii_digit()) && word.len() > 5 { "…" } else { word }
    });
    words.collect::<Vec<_>>().join(" ").replace('\n', "; ")
}

/// Numbers that follow from a seed and a launch's number. SplitMix64.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    fn new(seed: u64, number: usize) -> Self {
        let mut random = Self(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.below(2);
        random
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % bound
    }
}
