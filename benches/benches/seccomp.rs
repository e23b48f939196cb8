//! What a seccomp filter costs to make, and what a cache of made ones would cost to read.
//!
//! `cached` is the least that a cache on disk can do: hash the profile's text, open the file of that name, read the
//! program. It is here to be compared with `json`; see `runtime::seccomp` for what follows from it.

use std::fs;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sha2::{Digest, Sha256};
use skiff_runtime::caps::CapSet;
use skiff_runtime::seccomp::{Kernel, Profile, compile};

const KERNEL: Kernel = Kernel(6, 18);
const JSON: &str = include_str!("../../runtime/testdata/docker-seccomp.json");

fn seccomp(c: &mut Criterion) {
    let mut group = c.benchmark_group("seccomp");
    group.bench_function("docker", |b| {
        b.iter(|| compile(black_box(&Profile::docker()), CapSet::DOCKER, KERNEL).expect("it is valid"));
    });
    group.bench_function("json", |b| {
        b.iter(|| {
            let profile = Profile::parse(black_box(JSON)).expect("it is valid");
            compile(&profile, CapSet::DOCKER, KERNEL).expect("it is valid")
        });
    });
    let filter = compile(&Profile::docker(), CapSet::DOCKER, KERNEL).expect("it is valid");
    let directory = std::env::temp_dir().join(format!("skiff-bench-{}", std::process::id()));
    fs::create_dir(&directory).expect("the temporary directory can be written to");
    let name = |text: &str| directory.join(format!("{:x}", Sha256::digest(text)));
    let bytes: Vec<u8> = filter
        .program
        .iter()
        .flat_map(|i| {
            let [c0, c1] = i.code.to_le_bytes();
            let [k0, k1, k2, k3] = i.k.to_le_bytes();
            [c0, c1, i.jt, i.jf, k0, k1, k2, k3]
        })
        .collect();
    fs::write(name(JSON), bytes).expect("the temporary directory can be written to");
    group.bench_function("cached", |b| {
        b.iter(|| fs::read(name(black_box(JSON))).expect("it has just been written"));
    });
    group.finish();
    fs::remove_dir_all(&directory).expect("the temporary directory can be removed");
}

criterion_group!(benches, seccomp);
criterion_main!(benches);
