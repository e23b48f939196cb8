//! What deciding on a launch costs: asking the host, and building the plan.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use skiff_runtime::options::{Options, Rootfs};
use skiff_runtime::{Host, Plan};

fn plan(c: &mut Criterion) {
    let options = Options {
        id: "0123456789abcdef".repeat(4),
        rootfs: Rootfs::Layers(vec!["/".into()]),
        argv: vec!["/bin/true".into()],
        env: vec!["PATH=/usr/bin:/bin".into()],
        ..Options::default()
    };
    let (state, run) = (Path::new("/var/lib/skiff"), Path::new("/run/skiff"));
    let host = Host::probe(&options, state, run).expect("the host can be asked");
    let mut group = c.benchmark_group("plan");
    group.bench_function("probe", |b| {
        b.iter(|| Host::probe(black_box(&options), state, run).expect("the host can be asked"));
    });
    group.bench_function("build", |b| {
        b.iter(|| Plan::build(black_box(&options), &host).expect("the options are valid"));
    });
    group.finish();
}

criterion_group!(benches, plan);
criterion_main!(benches);
