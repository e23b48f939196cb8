//! Requests a second of servers in a container, while somebody looks on.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;

use crate::beside::{Watch, Watching, client, skiff, stop, until};

const PORT: u16 = 17_801;
const TIER1: &str = "run-queue,block,net,tcp";

/// What tools that look at the run queue do, as bpftrace's own runqlat.bt.
const RUNQLAT: &str = r#"
    tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @queued[args->pid] = nsecs; }
    tracepoint:sched:sched_switch {
        if (args->prev_state == 0) { @queued[args->prev_pid] = nsecs; }
        $ns = @queued[args->next_pid];
        if ($ns) { @ns[cgroup] = hist(nsecs - $ns); delete(@queued[args->next_pid]); }
    }
    interval:ms:200 { printf("ready\n"); }
"#;
/// Every system call by cgroup, call and time.
const CALLS: &str = r#"
    tracepoint:raw_syscalls:sys_enter { @start[tid] = nsecs; }
    tracepoint:raw_syscalls:sys_exit /@start[tid]/ {
        @ns[cgroup, args->id] = hist(nsecs - @start[tid]); delete(@start[tid]);
    }
    interval:ms:200 { printf("ready\n"); }
"#;

struct Arm {
    name: &'static str,
    watch: Watch,
    /// Whether the server is recorded by `skiff run --profile`.
    profiled: bool,
}

fn arms() -> Vec<Arm> {
    let tool = |line: &str, script: &str, says_ready| {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        words.extend((!script.is_empty()).then(|| script.to_owned()));
        Watch::Tool { words, says_ready }
    };
    let arm = |name, watch| Arm { name, watch, profiled: false };
    vec![
        arm("nothing", Watch::Nobody),
        arm("T0", Watch::Daemon),
        arm("T1", Watch::Probes(TIER1)),
        Arm { name: "T2 itself", watch: Watch::Nobody, profiled: true },
        arm("T2 neighbour", Watch::Neighbour),
        arm("bpftrace runqlat", tool("bpftrace -B none -e", RUNQLAT, true)),
        arm("bpftrace calls", tool("bpftrace -B none -e", CALLS, true)),
        arm("perf sched", tool("perf record -q -a -o /dev/null -e sched:sched_switch", "", false)),
        arm("perf trace", tool("perf trace -s -a -o /dev/null", "", false)),
    ]
}

/// A server and its client: requests a second.
struct Load {
    name: &'static str,
    needs: &'static [&'static str],
    serve: fn(&Lab) -> Result<Vec<String>>,
    ask: fn() -> Result<f64>,
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
        let mut refused: Vec<String> = vec![String::new(); arms.len()];
        for round in 0..options.count {
            for turn in 0..arms.len() {
                let index = (round + turn) % arms.len();
                // A tool that this host does not let work is left out from then on, and named.
                if refused[index].is_empty() {
                    match measure(lab, load, &arms[index]) {
                        Ok(figure) => samples[index].push(figure),
                        Err(error) => refused[index] = format!("{error:#}"),
                    }
                }
            }
        }
        write(report, &arms, &samples);
        for (arm, error) in arms.iter().zip(&refused).filter(|(_, error)| !error.is_empty()) {
            report.line(&format!("* {}: {error}", arm.name));
        }
    }
    Ok(())
}

fn write(report: &mut Report, arms: &[Arm], samples: &[Samples]) {
    let base = arms.iter().position(|arm| arm.name == "nothing").map(|index| samples[index].median());
    let rows: Vec<_> = arms
        .iter()
        .zip(samples)
        .filter(|(_, samples)| !samples.is_empty())
        .map(|(arm, samples)| {
            let change = base.map(|base| (samples.median() / base - 1.0) * 100.0);
            vec![
                arm.name.to_owned(),
                format!("{:.0}", samples.median()),
                format!("{:.0}", samples.percentile(1)),
                change
                    .filter(|_| arm.name != "nothing")
                    .map_or_else(String::new, |part| format!("{part:+.1} %")),
            ]
        })
        .collect();
    report.table(&["looked on by", "median", "least", "change"], &rows);
}

fn measure(lab: &Lab, load: &Load, arm: &Arm) -> Result<f64> {
    let _watching = Watching::begin(lab, &arm.watch)?;
    let server = Server::start(lab, &(load.serve)(lab)?, arm)?;
    let figure = (load.ask)();
    server.stop()?;
    figure
}

/// A server in a container with the host's network.
struct Server(Child);

impl Server {
    fn start(lab: &Lab, words: &[String], arm: &Arm) -> Result<Self> {
        let mut command = if matches!(arm.watch, Watch::Daemon) { client(lab) } else { skiff(lab) };
        command.args(["run", "--rm", "--network", "host"]);
        if arm.profiled {
            command.arg(format!("--profile={}", lab.path("served.json").display()));
        }
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

fn redis(_lab: &Lab) -> Result<Vec<String>> {
    let port = PORT.to_string();
    let words = ["redis-server", "--port", &port, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"];
    Ok(words.map(str::to_owned).to_vec())
}

fn ask_redis() -> Result<f64> {
    let port = PORT.to_string();
    let words = ["-p", &port, "-t", "get,set", "-n", "100000", "-c", "20", "--csv", "-q"];
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

fn ask_nginx() -> Result<f64> {
    let url = format!("http://127.0.0.1:{PORT}/");
    let said = said(Command::new("wrk").args(["-t", "1", "-c", "20", "-d", "2s", &url]))?;
    let rate = said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.context("wrk gave no figure")
}

fn said(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?} ended with {}", command.get_program(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|directory| fs::metadata(format!("{directory}/{program}")).is_ok())
}
