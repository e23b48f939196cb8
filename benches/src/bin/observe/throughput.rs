//! Requests a second of servers in a container, while somebody looks on.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;

use crate::beside::{Watch, Watching, client, said, skiff, stop, until};

const PORT: u16 = 17_801;
const TIER1: &str = "run-queue,block,net,tcp";
/// What the server's container is called.
const NAME: &str = "served";

/// What tools that look at the run queue do, as bpftrace's own runqlat.bt.
const RUNQLAT: &str = r#"
    tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @queued[args->pid] = nsecs; }
    tracepoint:sched:sched_switch {
        if (args->prev_state == 0) { @queued[args->prev_pid] = nsecs; }
        $ns = @queued[args->next_pid];
        if ($ns) { @ns[cgroup] = hist(nsecs - $ns); delete(@queued[args->next_pid]); }
    }
    interval:ms:50 { printf("ready\n"); }
"#;
/// What tools do that show traffic, bytes by cgroup.
const TRAFFIC: &str = r#"
    tracepoint:sock:sock_send_length /args->ret > 0/ { @sent[cgroup, pid] = sum(args->ret); }
    tracepoint:sock:sock_recv_length /args->ret > 0/ { @received[cgroup, pid] = sum(args->ret); }
    interval:ms:50 { printf("ready\n"); }
"#;
/// Every system call by cgroup, call and time.
const CALLS: &str = r#"
    tracepoint:raw_syscalls:sys_enter { @start[tid] = nsecs; }
    tracepoint:raw_syscalls:sys_exit /@start[tid]/ {
        @ns[cgroup, args->id] = hist(nsecs - @start[tid]); delete(@start[tid]);
    }
    interval:ms:50 { printf("ready\n"); }
"#;

struct Arm {
    name: &'static str,
    watch: Watch,
    /// How the server is run: words after `skiff run`.
    run: &'static [&'static str],
    /// Whether `skiff trace` shows what it does.
    traced: bool,
}

fn arms() -> Vec<Arm> {
    let arm = |name, watch| Arm { name, watch, run: &[], traced: false };
    let profiled = |name, run| Arm { run, ..arm(name, Watch::Nobody) };
    let tool = |name, line: &str, script: &str| {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        words.extend((!script.is_empty()).then(|| script.to_owned()));
        arm(name, Watch::Tool { words, says_ready: !script.is_empty() })
    };
    vec![
        arm("nothing", Watch::Nobody),
        arm("T0", Watch::Daemon(&[])),
        arm("T0+T1", Watch::Both(TIER1)),
        profiled("T2 itself", &["--profile"]),
        profiled("T2 and stacks, 49 Hz", &["--profile", "--stacks=49"]),
        profiled("T2 and stacks, 99 Hz", &["--profile", "--stacks=99"]),
        profiled("T2 and files", &["--profile", "--files"]),
        arm("T2 neighbour", Watch::Neighbour),
        Arm { traced: true, ..arm("trace", Watch::Nobody) },
        tool("bpftrace runqlat", "bpftrace -B none -e", RUNQLAT),
        tool("bpftrace traffic", "bpftrace -B none -e", TRAFFIC),
        tool("bpftrace calls", "bpftrace -B none -e", CALLS),
        tool("perf stacks, 99 Hz", "perf record -q -a -g -F 99 -e cpu-clock -o /dev/null", ""),
        tool("perf sched", "perf record -q -a -o /dev/null -e sched:sched_switch", ""),
        tool("perf trace", "perf trace -s -a -o /dev/null", ""),
    ]
}

/// A server and its client: requests a second.
struct Load {
    name: &'static str,
    needs: &'static [&'static str],
    serve: fn(&Lab) -> Result<Vec<String>>,
    /// Asks it for a time, or, if that is enough, a tenth of it.
    ask: fn(bool) -> Result<f64>,
}

const LOADS: [Load; 2] = [
    Load { name: "redis", needs: &["redis-server", "redis-benchmark"], serve: redis, ask: ask_redis },
    Load { name: "nginx", needs: &["nginx", "wrk"], serve: nginx, ask: ask_nginx },
];

pub(crate) fn run(lab: &Lab, options: &Options, report: &mut Report) -> Result<()> {
    let arms: Vec<Arm> = arms().into_iter().filter(|arm| options.wants(arm.name)).collect();
    for load in &LOADS {
        report.line(&format!("\n## {} in a container, requests a second, n = {}", load.name, options.count));
        if let Some(lacking) = load.needs.iter().find(|program| !installed(program)) {
            report.line(&format!("\n* left out: {lacking} is not installed"));
            continue;
        }
        let mut samples = vec![Samples::default(); arms.len()];
        let mut changes = samples.clone();
        let nothing = arms.iter().position(|arm| arm.name == "nothing");
        let mut refused: Vec<String> = vec![String::new(); arms.len()];
        for round in 0..options.count {
            let mut figures = vec![None; arms.len()];
            for turn in 0..arms.len() {
                let index = (round + turn) % arms.len();
                // A tool that this host does not let work is left out from then on, and named.
                if refused[index].is_empty() {
                    match measure(lab, load, &arms[index], options.count == 1) {
                        Ok(figure) => figures[index] = Some(figure),
                        Err(error) => refused[index] = format!("{error:#}"),
                    }
                }
            }
            let base = nothing.and_then(|index| figures[index]);
            for (index, figure) in figures.into_iter().enumerate() {
                figure.into_iter().for_each(|figure| samples[index].push(figure));
                // Of one round, which are of one time.
                let change = figure.zip(base).map(|(figure, base)| (figure / base - 1.0) * 100.0);
                change.into_iter().for_each(|change| changes[index].push(change));
            }
        }
        write(report, &arms, &samples, &changes);
        for (arm, error) in arms.iter().zip(&refused).filter(|(_, error)| !error.is_empty()) {
            report.line(&format!("* {}: {error}", arm.name));
        }
    }
    Ok(())
}

fn write(report: &mut Report, arms: &[Arm], samples: &[Samples], changes: &[Samples]) {
    let rows: Vec<_> = arms
        .iter()
        .zip(samples.iter().zip(changes))
        .filter(|(_, (samples, _))| !samples.is_empty())
        .map(|(arm, (samples, changes))| {
            let has_change = arm.name != "nothing" && !changes.is_empty();
            vec![
                arm.name.to_owned(),
                format!("{:.0}", samples.median()),
                format!("{:.0}", samples.percentile(1)),
                if has_change { format!("{:+.1} %", changes.median()) } else { String::new() },
            ]
        })
        .collect();
    report.table(&["looked on by", "median", "least", "change, median of rounds"], &rows);
}

fn measure(lab: &Lab, load: &Load, arm: &Arm, is_brief: bool) -> Result<f64> {
    let _watching = Watching::begin(lab, &arm.watch)?;
    let server = Server::start(lab, &(load.serve)(lab)?, arm)?;
    let trace = arm.traced.then(|| Trace::start(lab)).transpose();
    let figure = trace.and_then(|_trace| (load.ask)(is_brief));
    server.stop()?;
    figure
}

/// A server in a container with the host's network.
struct Server(Child);

impl Server {
    fn start(lab: &Lab, words: &[String], arm: &Arm) -> Result<Self> {
        let mut command = if arm.watch.has_daemon() { client(lab) } else { skiff(lab) };
        command.args(["run", "--rm", "--network", "host", "--name", NAME]).args(arm.run);
        command.arg("host").args(words).stdout(Stdio::null());
        let child = command.spawn().context("start the server")?;
        let server = Self(child);
        let up = until(|| TcpStream::connect(("127.0.0.1", PORT)).is_ok());
        match up.with_context(|| format!("{} does not listen", words[0])) {
            Ok(()) => Ok(server),
            Err(error) => server.stop().and(Err(error)),
        }
    }

    fn stop(self) -> Result<()> {
        stop(self.0)?;
        until(|| TcpStream::connect(("127.0.0.1", PORT)).is_err()).context("the server still listens")
    }
}

/// `skiff trace` of the server, into a file, until it is dropped.
struct Trace(Option<Child>);

impl Trace {
    fn start(lab: &Lab) -> Result<Self> {
        let path = lab.path("trace");
        // That of the time before must not pass for this one.
        fs::write(&path, "").context("make a file for the trace")?;
        let mut command = skiff(lab);
        command.args(["trace", NAME, "--output"]).arg(&path).stdout(Stdio::null());
        let trace = Self(Some(command.spawn().context("start skiff trace")?));
        let shown = || {
            // A server that nobody asks may make no call.
            TcpStream::connect(("127.0.0.1", PORT)).is_ok()
                && fs::metadata(&path).is_ok_and(|found| found.len() > 0)
        };
        until(shown).context("skiff trace shows nothing")?;
        Ok(trace)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(stop) {
            eprintln!("{error:#}");
        }
    }
}

fn redis(_lab: &Lab) -> Result<Vec<String>> {
    let port = PORT.to_string();
    let words = ["redis-server", "--port", &port, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"];
    Ok(words.map(str::to_owned).to_vec())
}

fn ask_redis(is_brief: bool) -> Result<f64> {
    let port = PORT.to_string();
    let requests = if is_brief { "5000" } else { "50000" };
    let words = ["-p", &port, "-t", "get,set", "-n", requests, "-c", "20", "--csv", "-q"];
    let said = said(Command::new("redis-benchmark").args(words))?;
    let rates = said.lines().filter_map(|line| line.split(',').nth(1)?.trim_matches('"').parse::<f64>().ok());
    let rates: Vec<f64> = rates.collect();
    if rates.len() != 2 {
        bail!("redis-benchmark gave no figures");
    }
    // As many of each: the mean of the rates is that of the times.
    Ok(2.0 / rates.iter().map(|rate| 1.0 / rate).sum::<f64>())
}

/// Its configuration is given by words, as the container sees the host's files below an overlay, and none of the benchmark's.
fn nginx(_lab: &Lab) -> Result<Vec<String>> {
    let configuration = format!(
        "daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log /dev/null; events {{ worker_connections 256; }} \
         http {{ access_log off; keepalive_requests 1000000; server {{ listen 127.0.0.1:{PORT}; \
         location / {{ return 200 hello; }} }} }}"
    );
    let line = format!("echo '{configuration}' > /tmp/nginx.conf; exec nginx -c /tmp/nginx.conf");
    Ok(["sh".to_owned(), "-c".to_owned(), line].to_vec())
}

/// wrk knows no shorter time than a second.
fn ask_nginx(_is_brief: bool) -> Result<f64> {
    let url = format!("http://127.0.0.1:{PORT}/");
    let said = said(Command::new("wrk").args(["-t", "1", "-c", "20", "-d", "1s", &url]))?;
    let rate = said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.context("wrk gave no figure")
}

fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|directory| fs::metadata(format!("{directory}/{program}")).is_ok())
}
