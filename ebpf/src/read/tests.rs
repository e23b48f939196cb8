use skiff_ebpf_abi::{bucket, call, phase};

use super::*;

fn row(times: &[u64]) -> abi::Row {
    let mut row =
        abi::Row { total_ns: 0, max_ns: 0, refused: 0, unreturned: 0, histogram: [0; abi::BUCKETS] };
    for ns in times {
        row.total_ns += ns;
        row.max_ns = row.max_ns.max(*ns);
        row.histogram[bucket(*ns)] += 1;
    }
    row
}

fn counts() -> Counts {
    Counts { slot: abi::Slot::default(), rows: Vec::new(), errors: Vec::new(), execs: Vec::new() }
}

fn everything() -> Available {
    Available {
        cpu: true,
        ticks: true,
        faults: true,
        run_queue: true,
        switches: true,
        block: true,
        missing: Vec::new(),
    }
}

const GETPPID: u64 = 110;

#[test]
fn percentiles_are_within_a_thirtieth() {
    let times: Vec<u64> = (1..=1000).map(|n| n * 1000).collect();
    let row = row(&times);
    for (percent, exact) in [(50, 500_000_u64), (99, 990_000), (100, 1_000_000)] {
        let found = percentile(&row, 1000, percent);
        assert!(found.abs_diff(exact) * 1000 <= exact * 32, "p{percent}: {found}");
    }
}

#[test]
fn percentiles_never_exceed_the_longest() {
    assert_eq!(
        percentile(&row(&[1_000_001]), 1, 99),
        row(&[1_000_001]).max_ns.min(percentile(&row(&[1_000_001]), 1, 50))
    );
    assert!(percentile(&row(&[1 << 20]), 1, 50) <= 1 << 20);
    assert_eq!(percentile(&row(&[]), 0, 50), 0);
}

#[test]
fn rows_of_one_call_are_added_up_and_phases_kept_apart() {
    let mut counts = counts();
    counts.rows = vec![
        (call(phase::WORKLOAD, false, GETPPID), row(&[100, 200])),
        (call(phase::WORKLOAD, false, GETPPID), row(&[300])),
        (call(phase::INIT, false, GETPPID), row(&[50])),
    ];
    let record = record(&counts, &everything());
    let [workload] = record.workload.syscalls.as_slice() else { panic!("one call") };
    assert_eq!((workload.name.as_str(), workload.nr), ("getppid", Some(110)));
    assert_eq!((workload.count, workload.total_ns, workload.max_ns), (3, 600, 300));
    assert_eq!(record.init.syscalls[0].count, 1);
}

#[test]
fn a_call_counts_however_it_ends() {
    let mut counts = counts();
    let key = call(phase::WORKLOAD, false, 231);
    counts.rows = vec![(key, abi::Row { unreturned: 2, refused: 3, ..row(&[7]) })];
    counts.errors = vec![(key, 38, 1), (key, 1, 3), (call(phase::INIT, false, 231), 9, 9)];
    let record = record(&counts, &everything());
    let call = &record.workload.syscalls[0];
    assert_eq!((call.count, call.returned, call.refused, call.unreturned), (6, 1, 3, 2));
    assert_eq!(call.errors, [(1, 3), (38, 1)]);
}

#[test]
fn calls_of_the_other_table_have_its_names() {
    let mut counts = counts();
    counts.rows =
        vec![(call(phase::WORKLOAD, true, 4), row(&[1])), (call(phase::WORKLOAD, false, 9999), row(&[1]))];
    let names: Vec<_> = record(&counts, &everything())
        .workload
        .syscalls
        .into_iter()
        .map(|call| (call.name, call.abi))
        .collect();
    assert!(names.contains(&("write".to_owned(), Abi::Compat)), "{names:?}");
    assert!(names.contains(&("(no such call)".to_owned(), Abi::Native)), "{names:?}");
}

#[test]
fn cpu_time_is_divided_by_the_ticks_if_there_are_any() {
    let mut counts = counts();
    let init = &mut counts.slot.phases[0].figures;
    (init.cpu_ns, init.user_ns, init.system_ns) = (9_000_000, 4_000_000, 8_000_000);
    counts.slot.phases[1].figures.cpu_ns = 500;
    let record = record(&counts, &everything());
    assert_eq!((record.init.cpu_user_ns, record.init.cpu_system_ns), (Some(3_000_000), Some(6_000_000)));
    assert_eq!((record.workload.cpu_ns, record.workload.cpu_user_ns), (Some(500), None));
}

#[test]
fn what_the_kernel_lacks_is_none_and_said() {
    let available = Available { missing: vec!["page faults".to_owned()], faults: false, ..everything() };
    let record = record(&counts(), &available);
    assert_eq!((record.workload.minor_faults, record.workload.block_reads), (None, Some(0)));
    assert_eq!(record.missing, ["page faults"]);
}

#[test]
fn executions_beyond_the_bound_are_lost() {
    let mut counts = counts();
    counts.slot.execs = u64::from(abi::EXECS) + 5;
    counts.slot.lost = 2;
    assert_eq!(record(&counts, &everything()).lost, 7);
}

fn event(argv: &[u8], argv_len: u64) -> abi::ExecEvent {
    let mut event = abi::ExecEvent {
        at_ns: 1,
        pid: 2,
        phase: phase::WORKLOAD,
        argv_len,
        filename: [0; abi::FILENAME],
        argv: [0; abi::ARGV],
    };
    event.filename[..7].copy_from_slice(b"/bin/sh");
    event.argv[..argv.len()].copy_from_slice(argv);
    event
}

#[test]
fn arguments_are_split_at_their_ends() {
    let found = exec(&event(b"sh\0-c\0\0true\0", 12));
    assert_eq!((found.filename.as_str(), found.argv_cut), ("/bin/sh", false));
    assert_eq!(found.argv, ["sh", "-c", "", "true"]);
}

#[test]
fn cut_and_unreadable_arguments_say_so() {
    let cut = exec(&event(&[b'a'; abi::ARGV], 5000));
    assert!(cut.argv_cut && cut.argv[0].len() == abi::ARGV);
    let unreadable = exec(&event(b"", 10));
    assert!(unreadable.argv_cut && unreadable.argv.is_empty());
}
